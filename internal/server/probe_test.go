package server

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/sock"
)

// TestAFullSocketIsNoSignOfLeaving holds that a client which has closed its half
// and reads slowly does not count as gone because there was no room for a byte
// more: what fills the socket asks it as well.
func TestAFullSocketIsNoSignOfLeaving(t *testing.T) {
	w, err := sock.NewWatch()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	near, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = near.(*net.TCPConn).SetWriteBuffer(4 << 10)
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	c := &conn{sock: w.Add(near, nil), stands: standsInLength, spared: true}
	defer c.sock.Close()
	if !c.sock.Raw() {
		t.Skip("nothing is offered here")
	}
	for piece := make([]byte, 64<<10); c.sock.Offer(piece); {
	}
	for c.sock.Offer([]byte("x")) {
	}
	if c.probe() {
		t.Error("it counts as gone")
	}
	if !c.spared {
		t.Error("the byte is lost")
	}
}

// TestHeadHasNoBody holds that nothing follows a header that was asked for alone,
// whatever its handler does, and if its client has closed its half: who has all
// of its answer has not left before it.
func TestHeadHasNoBody(t *testing.T) {
	each(t, func(t *testing.T, way road) {
		for _, tt := range []struct {
			name, method string
			status       int
			length       string
		}{
			{"HEAD", "HEAD", 200, ""},
			{"HEAD of a length", "HEAD", 200, "4"},
			{"204", "GET", 204, ""},
			{"304", "GET", 304, ""},
		} {
			t.Run(tt.name, func(t *testing.T) { headAlone(t, way, tt.method, tt.status, tt.length) })
		}
	})
}

// TestAHeadIsWhole holds that a connection serves on when something went wrong
// behind a head that was all of its answer: its client may have asked again.
func TestAHeadIsWhole(t *testing.T) {
	each(t, func(t *testing.T, way road) {
		fails := func(status int) infer.Handler {
			return infer.HandlerFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
				w.Commit(status)
				if err := w.Flush(); err != nil {
					return err
				}
				return &infer.Error{Status: 502}
			})
		}
		s := way.on(t, short(), NewMux([]Route{{"GET", "/200", 0, fails(200)}, {"GET", "/204", 0, fails(204)}, {"POST", "/a", 0, told}}))
		for _, line := range []string{"HEAD /200", "GET /204"} {
			c := way.dial(t, s)
			c.say("%s HTTP/1.1\r\nHost: x\r\n\r\n", line)
			c.wait("\r\n\r\n")
			c.say("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
			if status, closes, body := c.hear("POST"); status != 200 || closes || body != "/a hi" {
				t.Errorf("after %s: got %d %q, closes: %v", line, status, body, closes)
			}
		}
		c := way.dial(t, s)
		c.say("GET /200 HTTP/1.1\r\nHost: x\r\n\r\n")
		if _, _, body := c.hear("GET"); body != "cut" {
			t.Errorf("with a body to come: got %q", body)
		}
	})
}

func headAlone(t *testing.T, way road, method string, status int, length string) {
	went, gone := make(chan struct{}), make(chan bool, 1)
	h := infer.HandlerFunc(func(ctx context.Context, _ *infer.Request, w *infer.Reply) error {
		if length != "" {
			w.Header().Set("Content-Length", length)
		}
		w.Commit(status)
		if err := w.Flush(); err != nil {
			return err
		}
		select {
		case <-went:
		case <-time.After(patience):
		}
		gone <- ctx.Err() != nil
		if w.Splices() {
			return w.Splice([]byte("4\r\nfour\r\n"), 4)
		}
		_, err := io.WriteString(w, "four")
		return err
	})
	s := way.on(t, short(), NewMux([]Route{{"GET", "/a", 0, h}}))
	c := way.dial(t, s)
	c.say("%s /a HTTP/1.1\r\nHost: x\r\n\r\n", method)
	c.wait("\r\n\r\n")
	if err := c.Conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, func() { close(went) })
	if body := c.rest(); body != "" {
		t.Errorf("behind the header: %q", body)
	}
	if left := <-gone; left && way == roads[0] { // elsewhere, half a connection counts as none
		t.Error("its client counts as gone")
	}
}
