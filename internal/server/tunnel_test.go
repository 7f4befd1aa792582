package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"sluice/internal/infer"
)

// upgrade asks for a tunnel, and for what is said in it.
const upgrade = "GET /up HTTP/1.1\r\nHost: a\r\nUpgrade: shout\r\nConnection: Upgrade\r\n\r\n"

// shouting are routes that open a tunnel in which what is said comes back in
// capitals, line by line, until "bye".
func shouting(then func() error) *Mux {
	up := infer.HandlerFunc(func(_ context.Context, r *infer.Request, w *infer.Reply) error {
		if !w.Tunnels() {
			return w.Send(200, "text/plain", []byte("no tunnel"))
		}
		w.Header().Set("Upgrade", "shout")
		w.Header().Set("Content-Length", "3")
		nc, early, err := w.Tunnel()
		if err != nil {
			return err
		}
		defer nc.Close()
		if r.Header.Len() > 0 || !w.Committed() || w.Status() != 101 || w.Tunnels() {
			return errors.New("the request is still there")
		}
		lines := bufio.NewScanner(io.MultiReader(bytes.NewReader(early), nc))
		for lines.Scan() && lines.Text() != "bye" {
			if _, err := fmt.Fprintln(nc, strings.ToUpper(lines.Text())); err != nil {
				return err
			}
		}
		return then()
	})
	return NewMux([]Route{{"GET", "/up", 0, up}, {"POST", "/up", 0, up}, {"GET", "/a", 0, told}}, named)
}

// opened reads a 101.
func (c *talker) opened() {
	c.t.Helper()
	res, err := http.ReadResponse(c.br, nil)
	if err != nil || res.StatusCode != 101 || res.Header.Get("Upgrade") != "shout" || res.Header.Get("Connection") != "Upgrade" ||
		res.Header.Get("Content-Length") != "" || res.Header.Get("Date") == "" {
		c.t.Fatalf("got %v, %v; want a 101", res, err)
	}
}

// line reads one.
func (c *talker) line(want string) {
	c.t.Helper()
	if got, err := c.br.ReadString('\n'); err != nil || got != want+"\n" {
		c.t.Fatalf("heard %q, %v; want %q", got, err, want)
	}
}

func TestTunnels(t *testing.T) {
	each(t, func(t *testing.T, w road) {
		ends := map[string]func() error{
			"well":    func() error { return nil },
			"badly":   func() error { return errors.New("it broke") },
			"in fear": func() error { panic(http.ErrAbortHandler) },
		}
		for name, then := range ends {
			t.Run(name, func(t *testing.T) {
				s := w.on(t, DefaultConfig(), shouting(then))
				c := w.dial(t, s)
				c.say("GET /a HTTP/1.1\r\nHost: a\r\n\r\n" + upgrade + "early\n")
				if status, _, body := c.hear("GET"); status != 200 || body != "/a " {
					t.Fatalf("the request before gets %d %q", status, body)
				}
				c.opened()
				c.line("EARLY")
				c.say("late\nin two ")
				c.line("LATE")
				c.say("pieces\nbye\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n") // no request any more
				c.line("IN TWO PIECES")
				_, _ = io.Copy(io.Discard, c.br)
				if err := s.stop(); err != nil {
					t.Errorf("the gateway still has something to do: %v", err)
				}
			})
		}
	})
}

// TestNoTunnel holds who gets none, and that a connection is as good as any
// after that.
func TestNoTunnel(t *testing.T) {
	each(t, func(t *testing.T, w road) {
		c := w.dial(t, w.on(t, DefaultConfig(), shouting(nil)))
		for _, request := range []string{
			"GET /up HTTP/1.1\r\nHost: a\r\n\r\n",
			"GET /up HTTP/1.1\r\nHost: a\r\nUpgrade: shout\r\n\r\n",
			"POST /up HTTP/1.1\r\nHost: a\r\nUpgrade: shout\r\nConnection: Upgrade\r\nContent-Length: 3\r\n\r\nabc",
			"GET /up HTTP/1.0\r\nUpgrade: shout\r\nConnection: Upgrade, keep-alive\r\n\r\n",
		} {
			c.say("%s", request)
			if status, closes, body := c.hear("GET"); status != 200 || body != "no tunnel" || closes {
				t.Errorf("%q gets %d %q, closes: %v", request, status, body, closes)
			}
		}
		c.say("HEAD /up HTTP/1.1\r\nHost: a\r\nUpgrade: shout\r\nConnection: Upgrade\r\n\r\n")
		if status, _, _ := c.hear("HEAD"); status != 200 {
			t.Errorf("HEAD gets %d", status)
		}
		c.say("GET /a HTTP/1.1\r\nHost: a\r\nUpgrade: shout\r\nConnection: Upgrade\r\n\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n")
		for range 2 {
			if status, _, body := c.hear("GET"); status != 200 || body != "/a " {
				t.Errorf("a call that knows no tunnels gets %d %q", status, body)
			}
		}
	})
}
