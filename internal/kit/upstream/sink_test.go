package upstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"sluice/internal/kit/bubble"
	"sluice/internal/kit/h1"
)

// wild is a Sink that panics.
type wild struct {
	wires
	inAnswer bool
}

func (w *wild) Answer(h *h1.ResponseHead) error {
	if w.inAnswer {
		panic("wild")
	}
	return w.wires.Answer(h)
}

func (w *wild) Body(*h1.Body, []byte) (int, error) { panic("wild") }

// TestAPanicLeavesNoConnection holds that a Sink which panics, or ends its
// goroutine, costs the connection that it was on and no more.
func TestAPanicLeavesNoConnection(t *testing.T) {
	cfg := DefaultConfig()
	cfg.MaxConnections = 1 // a place that is lost is one too many
	left := make(chan struct{}, 10)
	w := start(t, func(c net.Conn, _ int, _ *http.Request, body []byte) bool {
		if string(body) == "wild" || len(body) > oneWrite {
			io.WriteString(c, ok200+"Content-Length: 100\r\n\r\nhello")
			io.Copy(io.Discard, c)
			left <- struct{}{}
			return false
		}
		return echo(c, 0, nil, body)
	})
	h := host(t, client(t, Options{Config: cfg}), w.url)
	for _, tt := range []struct {
		name, body string
		inAnswer   bool
	}{
		{"in the head", "wild", true},
		{"in the body", "wild", false},
		{"of a large request", strings.Repeat("x", 1<<20), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			x := post(tt.body)
			x.Sink = &wild{inAnswer: tt.inAnswer}
			func() {
				defer func() {
					if p := recover(); p != "wild" {
						t.Errorf("recovered %v", p)
					}
				}()
				_ = h.Do(ctx, x)
			}()
			x.Free()
			select {
			case <-left:
			case <-time.After(patience):
				t.Error("the worker's connection is open")
			}
			if open, idle := h.counts(); open != 0 || idle != 0 {
				t.Errorf("%d connections are open, %d idle", open, idle)
			}
			ask(t, h, "calm")
			until(t, "it is kept", func() bool { _, idle := h.counts(); return idle == 1 })
		})
	}
}

// TestASinksEndIsNotTheAnswers holds that a Sink's failure is one, whatever it
// is made of, where an answer ends with its connection.
func TestASinksEndIsNotTheAnswers(t *testing.T) {
	w := start(t, func(c net.Conn, _ int, _ *http.Request, _ []byte) bool {
		io.WriteString(c, ok200+"\r\nhello")
		return false
	})
	h := host(t, client(t, Options{}), w.url)
	x, s := post("{}"), &wires{fail: fmt.Errorf("writing to the client: %w", io.EOF)}
	x.Sink = s
	if err := h.Do(context.Background(), x); !errors.Is(err, s.fail) {
		t.Errorf("got %v, want the Sink's own", err)
	}
	x.Free()
}

// TestNoGoodByeIsWaitedFor holds that a worker which takes nothing does not keep
// who has given up on it: over TLS, closing has a word to say.
func TestNoGoodByeIsWaitedFor(t *testing.T) {
	cert, pool := certificate(t, "127.0.0.1")
	there, stop, stopped := make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	dial := func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe() // holds nothing: what is not read is not written
		go func() {
			defer close(stopped)
			defer far.Close()
			s := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{cert}})
			_, _ = http.ReadRequest(bufio.NewReader(s))
			there <- struct{}{}
			<-stop
		}()
		return near, nil
	}
	defer func() { close(stop); <-stopped }()
	h := host(t, client(t, Options{Dial: dial, TLS: &tls.Config{RootCAs: pool}}), "https://127.0.0.1")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- do(ctx, h, post(strings.Repeat("x", 1<<20))).err }()
	<-there
	cancel()
	watch := bubble.Begin(t)
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if took, awake := watch.End(); awake > 3*time.Second {
		t.Errorf("it was given up after %v, %v of it awake", took, awake)
	}
}
