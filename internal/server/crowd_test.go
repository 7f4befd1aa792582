package server

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"sync"
	"testing"

	"sluice/internal/infer"
)

func TestMostClients(t *testing.T) {
	f := func(descriptors, want int) {
		t.Helper()
		if got := mostClients(descriptors); got != want {
			t.Errorf("of %d descriptors clients have %d, want %d", descriptors, got, want)
		}
	}
	f(0, math.MaxInt) // nobody knows
	f(1, 1)
	f(200, 75)
	f(1024, 384)
	f(20_400, 10_072)
	f(1<<20, 1<<19-128)
}

// waits is how often accepting has stopped for the reserve.
func (f *frontend) waits(t *testing.T) int {
	t.Helper()
	return f.counted(t, `sluice_client_accept_waits_total{reason="reserve"}`)
}

// TestMoreClientsWait holds that clients for whom there are no descriptors wait,
// those who are here are served, and who goes makes room.
func TestMoreClientsWait(t *testing.T) {
	for _, w := range roads[:2] {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			l, scheme := w.listen(t)
			s := serveOn(t, l, scheme, short(), plain(), func(f *Front) { f.most = 3 })
			served := func(c *talker) {
				t.Helper()
				c.say(get)
				if status, _, _ := c.hear("GET"); status != 200 {
					t.Errorf("got %d", status)
				}
			}
			var cs []*talker
			for range 3 {
				cs = append(cs, w.dial(t, s))
				served(cs[len(cs)-1])
			}
			for range 5 { // the kernel takes them, and what they ask
				c := w.dial(t, s)
				c.say(get)
				cs = append(cs, c)
			}
			eventually(t, "accepting has stopped", func() bool { return s.waits(t) == 1 })
			for range 10 {
				served(cs[0])
			}
			if n := s.counted(t, "sluice_client_connections_total"); n != 3 {
				t.Errorf("%d connections were accepted, want 3", n)
			}
			for i, c := range cs[3:] { // in their order
				cs[i].Close()
				if status, _, _ := c.hear("GET"); status != 200 {
					t.Errorf("client %d, for whom there was room at last, got %d", i+3, status)
				}
			}
			if n := s.counted(t, `sluice_client_accept_waits_total{reason="error"}`); n != 0 {
				t.Errorf("%d errors were counted, want 0", n)
			}
		})
	}
}

// TestStreamsOfHTTP2TakePlaces holds that a client whose one connection has many
// requests counts as many.
func TestStreamsOfHTTP2TakePlaces(t *testing.T) {
	h := &holding{make(chan int), make(chan struct{})}
	w := roads[3]
	l, scheme := w.listen(t)
	s := serveOn(t, l, scheme, short(), NewMux([]Route{{"POST", "/a", 0, h}}, named), func(f *Front) { f.most = 4 })
	client := w.alone(t, s)
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			res, err := client.Post(s.URL+"/a?hold", "text/plain", nil)
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
			if res.StatusCode != http.StatusOK {
				t.Errorf("a stream got %d", res.StatusCode)
			}
		})
		<-h.held
	}
	if n := s.counted(t, "sluice_client_connections"); n != 1 {
		t.Fatalf("%d connections are open, want 1: these are no streams of one", n)
	}
	ask := func() *talker {
		c := roads[0].dial(t, s)
		c.say("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
		return c
	}
	if status, _, _ := ask().hear("POST"); status != 200 { // who was waited for already
		t.Errorf("the first got %d", status)
	}
	second := ask()
	eventually(t, "accepting has stopped", func() bool { return s.waits(t) == 1 })
	if n := s.counted(t, "sluice_client_connections_total"); n != 2 {
		t.Errorf("%d connections were accepted, want 2", n)
	}
	close(h.done)
	wg.Wait()
	if status, _, _ := second.hear("POST"); status != 200 {
		t.Errorf("when the streams had ended: %d", status)
	}
}

// TestBodiesThatTrickleTakeNoPlaces holds that a client cannot keep others out with
// streams that it opens and sends nothing on.
func TestBodiesThatTrickleTakeNoPlaces(t *testing.T) {
	begun := make(chan int)
	h := infer.HandlerFunc(func(_ context.Context, r *infer.Request, w *infer.Reply) error {
		if r.Header.Has("trickles") {
			begun <- 1
		}
		if err := r.ReadBody(1 << 20); err != nil {
			return err
		}
		return w.Send(http.StatusOK, "text/plain", r.Body)
	})
	w := roads[3]
	l, scheme := w.listen(t)
	s := serveOn(t, l, scheme, short(), NewMux([]Route{{"POST", "/a", 0, h}}, named), func(f *Front) { f.most = 8 })
	client := w.alone(t, s)
	var wg sync.WaitGroup
	var bodies []*io.PipeWriter
	for range 8 {
		from, to := io.Pipe()
		bodies = append(bodies, to)
		wg.Go(func() {
			req, _ := http.NewRequest("POST", s.URL+"/a", from)
			req.Header.Set("trickles", "1")
			res, err := client.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			got, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if string(got) != "whole" {
				t.Errorf("a stream got %d %q", res.StatusCode, got)
			}
		})
		<-begun
	}
	for i := range 3 {
		c := roads[0].dial(t, s)
		c.say("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
		if status, _, _ := c.hear("POST"); status != 200 {
			t.Errorf("client %d got %d", i, status)
		}
		c.Close()
	}
	if n := s.waits(t); n != 0 {
		t.Errorf("clients waited %d times", n)
	}
	for _, to := range bodies {
		_, _ = io.WriteString(to, "whole")
		_ = to.Close()
	}
	wg.Wait()
	eventually(t, "no stream counts when all have ended", func() bool { return s.front.streams.Load() == 0 })
}

// TestPlacesAreNotGivenOneByOne holds that clients who wait do so until some
// have left, not only the next.
func TestPlacesAreNotGivenOneByOne(t *testing.T) {
	f := &Front{most: 1000}
	for _, step := range []struct {
		open int
		wait bool
	}{{999, false}, {1000, true}, {999, true}, {986, true}, {985, true}, {984, false}, {999, false}, {1001, true}, {0, false}} {
		f.open = step.open
		if err := f.crowded(); (err != nil) != step.wait {
			t.Errorf("with %d clients: %v, want that others wait: %v", step.open, err, step.wait)
		}
	}
	f.open = 1000
	want := fmt.Sprintf("clients have 1000 places of 1000: %v", errCrowded)
	if err := f.crowded(); err == nil || err.Error() != want {
		t.Errorf("it says %v, want %s", err, want)
	}
}
