package server

import (
	"context"
	"io"
	"net"
	"strings"
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
// whatever its handler does, and if its client has closed its half.
func TestHeadHasNoBody(t *testing.T) {
	each(t, func(t *testing.T, w road) {
		went := make(chan struct{})
		h := infer.HandlerFunc(func(ctx context.Context, _ *infer.Request, w *infer.Reply) error {
			w.Commit(200)
			if err := w.Flush(); err != nil {
				return err
			}
			select {
			case <-went:
			case <-time.After(patience):
			}
			if w.Splices() {
				return w.Splice([]byte("4\r\nfour\r\n"), 4)
			}
			_, err := io.WriteString(w, "four")
			return err
		})
		s := w.on(t, short(), NewMux([]Route{{"GET", "/a", 0, h}}))
		c := w.dial(t, s)
		c.say("HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n")
		if err := c.Conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(50*time.Millisecond, func() { close(went) })
		_, body, _ := strings.Cut(c.rest(), "\r\n\r\n")
		if body != "" {
			t.Errorf("behind the header: %q", body)
		}
	})
}
