package server

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
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/internal/infer"
)

// An ending is what is to be done when an answer has ended. It takes until it is
// let go on.
type ending struct {
	reply *infer.Reply
	began chan int // the status
	on    chan struct{}
	n     atomic.Int32
}

func newEnding() *ending { return &ending{began: make(chan int, 16), on: make(chan struct{}, 16)} }

func (e *ending) Finish() {
	e.n.Add(1)
	e.began <- e.reply.Status()
	<-e.on
}

// gate registers e for each request.
func (e *ending) gate(next infer.Handler) infer.Handler {
	return infer.HandlerFunc(func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
		e.reply = w
		if !w.After(e) {
			return errors.New("the front end does not say when an answer has ended")
		}
		return next.Serve(ctx, r, w)
	})
}

// TestNobodyWaitsForWhatFollows holds that a client has all of its answer, its end
// included, while what follows it is still done. It is done once, however the
// request ends.
func TestNobodyWaitsForWhatFollows(t *testing.T) {
	refusal := &infer.Error{Status: 503, Code: "no_workers", Msg: "None."}
	long := strings.Repeat("0123456789abcdef", 1<<14)
	pieces := func(n int, err error) infer.HandlerFunc {
		return func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			w.Header().Set("Content-Type", "text/event-stream")
			for range n {
				if _, err := io.WriteString(w, "data: x\n\n"); err != nil {
					return err
				}
				if err := w.Flush(); err != nil {
					return err
				}
			}
			return err
		}
	}
	tests := []struct {
		name   string
		h      infer.HandlerFunc
		status int    // 0 for no answer
		body   string // with which it begins
		cut    bool
		was    int // the status, as who comes after it sees it
	}{
		{"nothing", func(context.Context, *infer.Request, *infer.Reply) error { return nil }, 200, "", false, 0},
		{"whole", func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			return w.Send(201, "a/b", []byte("whole"))
		}, 201, "whole", false, 201},
		{"short, without a length", func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			_, err := io.WriteString(w, "short")
			return err
		}, 200, "short", false, 200},
		{"long", func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			return w.Send(200, "a/b", []byte(long))
		}, 200, long, false, 200},
		{"a stream", pieces(3, nil), 200, "data: x\n\ndata: x\n\ndata: x\n\n", false, 200},
		{"a stream that fails", pieces(1, refusal), 200, "data: x\n\ndata: {", false, 200},
		{"no content", func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			w.Commit(204)
			return nil
		}, 204, "", false, 204},
		{"refused", func(context.Context, *infer.Request, *infer.Reply) error { return refusal }, 503, `{"error":`, false, 503},
		{"a panic", func(context.Context, *infer.Request, *infer.Reply) error { panic(http.ErrAbortHandler) }, 0, "", true, 0},
		{"a panic in a stream", func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
			_ = pieces(2, nil)(ctx, r, w)
			panic(http.ErrAbortHandler)
		}, 200, "data: x\n\ndata: x\n\n", true, 200},
		{"less than was said", func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			w.Header().Set("Content-Length", "5")
			_, err := io.WriteString(w, "abc")
			return err
		}, 200, "abc", true, 200},
	}
	for _, road := range roads {
		t.Run(road.name, func(t *testing.T) {
			ends := make([]*ending, len(tests))
			var routes []Route
			for i, tt := range tests {
				ends[i] = newEnding()
				routes = append(routes, Route{"POST", fmt.Sprint("/", i), 0, ends[i].gate(tt.h)})
			}
			s, c := road.on(t, patient(), NewMux(routes, named)), road.client(t)
			for i, tt := range tests {
				e := ends[i]
				release := sync.OnceFunc(func() { close(e.on) })
				res, err := c.Post(fmt.Sprint(s.URL, "/", i), "", nil) // which a client does not ask twice
				switch {
				case (err != nil) != (tt.status == 0):
					t.Fatalf("%s: %v", tt.name, err)
				case err == nil && res.StatusCode != tt.status:
					t.Errorf("%s: the client has status %d, want %d", tt.name, res.StatusCode, tt.status)
				}
				if err == nil {
					wantBody(t, tt.name, res, tt.body, tt.cut)
				}
				if was := <-e.began; was != tt.was {
					t.Errorf("%s: what follows sees status %d, want %d", tt.name, was, tt.was)
				}
				release()
			}
			c.CloseIdleConnections()
			_ = s.stop()
			for i, tt := range tests {
				if n := ends[i].n.Load(); n != 1 {
					t.Errorf("%s: it is done %d times", tt.name, n)
				}
			}
		})
	}
}

// wantBody fails unless an answer has a body that begins so, and ends well or not.
func wantBody(t *testing.T, name string, res *http.Response, begin string, cut bool) {
	t.Helper()
	defer res.Body.Close()
	got := make([]byte, len(begin))
	if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != begin {
		t.Errorf("%s: the body begins with %.100q, %v; want %.100q", name, got, err, begin)
	}
	if _, err := io.Copy(io.Discard, res.Body); (err != nil) != cut {
		t.Errorf("%s: the body ends with %v; cut %t", name, err, cut)
	}
}

// TestWhatFollowsWhenAClientLeaves: it is done all the same, once, on each road.
func TestWhatFollowsWhenAClientLeaves(t *testing.T) {
	for _, road := range roads {
		t.Run(road.name, func(t *testing.T) {
			e := newEnding()
			e.on <- struct{}{}
			s := road.on(t, patient(), NewMux([]Route{{"GET", "/a", 0, e.gate(infer.HandlerFunc(func(ctx context.Context, _ *infer.Request, w *infer.Reply) error {
				if _, err := io.WriteString(w, "data: x\n\n"); err != nil {
					return err
				}
				if err := w.Flush(); err != nil {
					return err
				}
				<-ctx.Done()
				return infer.Ended(ctx, ctx.Err())
			}))}}, named))
			ctx, leave := context.WithCancel(t.Context())
			req, err := http.NewRequestWithContext(ctx, "GET", s.URL+"/a", nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := road.client(t).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			leave()
			_ = res.Body.Close()
			if was := <-e.began; was != 200 {
				t.Errorf("status %d", was)
			}
			if _ = s.stop(); e.n.Load() != 1 {
				t.Errorf("done %d times", e.n.Load())
			}
		})
	}
}

// TestTheNextRequestWaitsForWhatFollows holds that on one connection what follows
// an answer is over before the next request is served, so that nobody is ahead of
// what he has caused; and that a stopping gateway waits for it.
func TestTheNextRequestWaitsForWhatFollows(t *testing.T) {
	e := newEnding()
	var served atomic.Int32
	cfg := patient()
	cfg.Grace = time.Hour
	s := serve(t, cfg, NewMux([]Route{{"GET", "/a", 0, e.gate(infer.HandlerFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
		return w.Send(200, "text/plain", fmt.Appendf(nil, "answer %d, %d before", served.Add(1), e.n.Load()))
	}))}}, named))
	nc, err := net.Dial("tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(nc, get+get); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(nc)
	for i := range 2 {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		if want := fmt.Sprintf("answer %d, %d before", i+1, i); err != nil || string(b) != want {
			t.Errorf("got %q, %v; want %q", b, err, want)
		}
		<-e.began
		if n := served.Load(); n != int32(i+1) {
			t.Errorf("%d requests are served while what follows the first is done", n)
		}
		if i == 0 {
			e.on <- struct{}{}
		}
	}
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	eventually(t, "the gateway drains", s.front.draining.Load)
	select {
	case err := <-stopped:
		t.Errorf("the gateway has stopped before what follows was done: %v", err)
	default:
	}
	e.on <- struct{}{}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// TestWhatFollowsThatPanics ends nothing but itself.
func TestWhatFollowsThatPanics(t *testing.T) {
	for _, road := range roads {
		t.Run(road.name, func(t *testing.T) {
			s, c := road.on(t, patient(), NewMux([]Route{{"GET", "/a", 0, infer.HandlerFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
				w.After(broken{})
				return w.Send(200, "text/plain", []byte("whole"))
			})}}, named)), road.client(t)
			for range 2 {
				res, err := c.Get(s.URL + "/a")
				if err != nil {
					t.Fatal(err)
				}
				wantBody(t, "the answer", res, "whole", false)
			}
		})
	}
}

// TestTheDrainHearsWhoAskedBefore: a request that was sent before the gateway
// began to end, on a connection whose last answer did not say that it was the
// last, is answered once, though what follows that answer was done until then.
func TestTheDrainHearsWhoAskedBefore(t *testing.T) {
	for _, road := range roads[:3] {
		for _, asks := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, asks: %t", road.name, asks), func(t *testing.T) {
				e := newEnding()
				var served atomic.Int32
				cfg := DefaultConfig()
				cfg.Grace = time.Hour
				s := road.on(t, cfg, NewMux([]Route{{"GET", "/a", 0, e.gate(infer.HandlerFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
					return w.Send(200, "text/plain", fmt.Append(nil, "answer ", served.Add(1)))
				}))}}, named))
				c := road.dial(t, s)
				c.say(get)
				if status, closes, body := c.hear("GET"); status != 200 || closes || body != "answer 1" {
					t.Fatalf("got %d %q, closes: %t", status, body, closes)
				}
				<-e.began
				want := int32(1)
				if asks {
					c.say(get)
					want = 2
				}
				stopped := make(chan error, 1)
				go func() { stopped <- s.stop() }()
				eventually(t, "it drains", s.front.draining.Load)
				close(e.on)
				if asks {
					if status, closes, body := c.hear("GET"); status != 200 || !closes || body != "answer 2" {
						t.Errorf("got %d %q, closes: %t", status, body, closes)
					}
				}
				if rest := c.rest(); rest != "" {
					t.Errorf("then came %q", rest)
				}
				if err := <-stopped; err != nil {
					t.Errorf("the drain ended with %v", err)
				}
				if n := served.Load(); n != want || e.n.Load() != want {
					t.Errorf("%d requests were served, what follows was done %d times; want %d", n, e.n.Load(), want)
				}
			})
		}
	}
}

// TestTheStopWaitsForWhatFollows holds that a gateway which stops waits for what
// follows an answer, beyond its grace and also if the client has left, and does
// not say that a request was cut.
func TestTheStopWaitsForWhatFollows(t *testing.T) {
	for _, road := range roads {
		for _, leaves := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, leaves: %t", road.name, leaves), func(t *testing.T) {
				t.Parallel()
				e := newEnding()
				begun := make(chan struct{})
				s := road.on(t, patient(), NewMux([]Route{{"GET", "/a", 0, e.gate(infer.HandlerFunc(func(ctx context.Context, _ *infer.Request, w *infer.Reply) error {
					if !leaves {
						return w.Send(200, "text/plain", []byte("whole"))
					}
					close(begun)
					<-ctx.Done()
					return infer.Ended(ctx, ctx.Err())
				}))}}, named))
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				req, err := http.NewRequestWithContext(ctx, "GET", s.URL+"/a", nil)
				if err != nil {
					t.Fatal(err)
				}
				if leaves {
					go func() { <-begun; leave() }()
				}
				c := road.client(t)
				res, err := c.Do(req)
				switch {
				case (err != nil) != leaves:
					t.Fatal(err)
				case err == nil:
					wantBody(t, "the answer", res, "whole", false)
				}
				<-e.began
				c.CloseIdleConnections()
				stopped := make(chan error, 1)
				go func() { stopped <- s.stop() }()
				select {
				case err := <-stopped:
					t.Errorf("the gateway has stopped before what follows was done: %v", err)
					stopped <- err
				case <-time.After(4 * patient().Grace):
				}
				close(e.on)
				if err := <-stopped; err != nil || e.n.Load() != 1 {
					t.Errorf("the drain ended with %v; what follows was done %d times", err, e.n.Load())
				}
			})
		}
	}
}

// TestNobodyPilesUpWhatFollows holds that of what follows answers over HTTP/2 only
// so much has a goroutine of its own: beyond that the request waits, and the
// client for the end of its answer.
func TestNobodyPilesUpWhatFollows(t *testing.T) {
	e := newEnding()
	road := roads[3]
	s, c := road.on(t, patient(), NewMux([]Route{{"GET", "/a", 0, e.gate(infer.HandlerFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
		w.Commit(200)
		_, err := io.WriteString(w, "whole")
		return err
	}))}}, named)), road.client(t)
	s.front.trail.following.Add(maxFollowing)
	res, err := c.Get(s.URL + "/a")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if n := s.front.streams.Load(); n != 1 {
		t.Errorf("%d requests are served while what follows one is done", n)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(res.Body, b); err != nil || string(b) != "whole" {
		t.Errorf("the client has %q before the end, %v", b, err)
	}
	<-e.began
	close(e.on)
	if n, err := res.Body.Read(b); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("then came %d bytes, %v", n, err)
	}
	if n := s.front.trail.following.Load(); n != maxFollowing {
		t.Errorf("%d count as followed", n)
	}
}

type broken struct{}

func (broken) Finish() { panic("broken") }

// TestAConnectionThatEndsWithItsAnswer: who waits for its end, as clients of
// HTTP/1.0 do, does not wait for what follows.
func TestAConnectionThatEndsWithItsAnswer(t *testing.T) {
	for _, road := range roads[:3] {
		t.Run(road.name, func(t *testing.T) {
			e := newEnding()
			s := road.on(t, patient(), NewMux([]Route{{"GET", "/a", 0, e.gate(infer.HandlerFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
				if _, err := io.WriteString(w, "one "); err != nil {
					return err
				}
				if err := w.Flush(); err != nil {
					return err
				}
				_, err := io.WriteString(w, "two")
				return err
			}))}}, named))
			nc, err := net.Dial("tcp", s.Addr)
			if err != nil {
				t.Fatal(err)
			}
			if road.tls {
				nc = tls.Client(nc, &tls.Config{InsecureSkipVerify: true})
			}
			_ = nc.SetDeadline(time.Now().Add(patience))
			if _, err := io.WriteString(nc, "GET /a HTTP/1.0\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(nc)
			if err != nil || !strings.HasSuffix(string(b), "\r\n\r\none two") {
				t.Errorf("got %q, %v", b, err)
			}
			<-e.began
			e.on <- struct{}{}
			_ = nc.Close()
			if err := s.stop(); err != nil || e.n.Load() != 1 {
				t.Errorf("done %d times, %v", e.n.Load(), err)
			}
		})
	}
}
