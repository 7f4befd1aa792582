package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"

	"sluice/internal/infer"
)

// holding is a handler that holds the body of each request until it is told to
// let it go, and says how many bytes it had.
type holding struct {
	held chan int
	done chan struct{}
}

func (h *holding) Serve(_ context.Context, r *infer.Request, w *infer.Reply) error {
	if err := r.ReadBody(64 << 20); err != nil {
		return err
	}
	n := len(r.Body)
	if r.Query == "hold" {
		h.held <- n
		<-h.done
	}
	return w.Send(200, "text/plain", fmt.Append(nil, n))
}

// post sends n bytes and returns what came of it.
func (w road) post(ctx context.Context, c *http.Client, url string, n int, chunked bool) (status int, header http.Header, body string, err error) {
	var rd io.Reader = bytes.NewReader(make([]byte, n))
	if chunked {
		rd = io.MultiReader(rd)
	}
	req, err := http.NewRequestWithContext(ctx, "POST", url, rd)
	if err != nil {
		return 0, nil, "", err
	}
	res, err := c.Do(req)
	if err != nil {
		return 0, nil, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, res.Header, string(b), err
}

// TestBodiesHaveABudget holds that long bodies are refused while others have all
// the memory that there is for them, that short ones are not, and that it is
// given back.
func TestBodiesHaveABudget(t *testing.T) {
	for _, w := range roads {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprint(w.name, ", in chunks: ", chunked), func(t *testing.T) {
				t.Parallel()
				cfg := patient()
				cfg.MaxBuffered = 4 << 20
				h := &holding{make(chan int), make(chan struct{})}
				s := w.on(t, cfg, NewMux([]Route{{"POST", "/a", 0, h}}, named))
				release := sync.OnceFunc(func() { close(h.done) })
				defer release()
				c := w.client(t)
				const long = 2 << 20
				first := make(chan error, 1)
				go func() {
					_, _, body, err := w.post(t.Context(), c, s.URL+"/a?hold", long, chunked)
					if err == nil && body != fmt.Sprint(long) {
						err = errors.New(body)
					}
					first <- err
				}()
				if n := <-h.held; n != long {
					t.Fatalf("%d bytes have come", n)
				}
				held := s.counted(t, "sluice_request_body_bytes")
				if held < long || held > 2*long+(4<<10) {
					t.Errorf("%d bytes are held, want %d to %d", held, long, 2*long)
				}
				for _, n := range []int{0, 10, 30 << 10} {
					if status, _, body, err := w.post(t.Context(), c, s.URL+"/a", n, chunked); status != 200 || body != fmt.Sprint(n) {
						t.Errorf("a body of %d bytes got %d %s, %v", n, status, body, err)
					}
				}
				// What is refused may still be being sent, and its client may see
				// that first.
				status, header, body, err := w.post(t.Context(), c, s.URL+"/a", 3<<20, chunked)
				if err == nil {
					_, code, _ := errorOf(t, body)
					if status != 503 || code != "too_many_request_bodies" || header.Get("Retry-After") != "1" {
						t.Errorf("a long body got %d %s %v", status, body, header)
					}
				} else if !chunked {
					t.Errorf("a long body got %v", err)
				}
				if n := s.counted(t, "sluice_request_bodies_refused_total"); n != 1 {
					t.Errorf("%d were counted as refused, want 1", n)
				}
				release()
				if err := <-first; err != nil {
					t.Errorf("the one that was held: %v", err)
				}
				eventually(t, "all is given back", func() bool { return s.counted(t, "sluice_request_body_bytes") == 0 })
				// One that is alone may be as long as any.
				if status, _, body, err := w.post(t.Context(), c, s.URL+"/a", 20<<20, chunked); status != 200 {
					t.Errorf("a body that is alone got %d %s, %v", status, body, err)
				}
				eventually(t, "all is given back again", func() bool { return s.counted(t, "sluice_request_body_bytes") == 0 })
			})
		}
	}
}

// TestReleasedBodiesAreNotHeld holds that a stream does not count the body of
// its request for as long as it lasts.
func TestReleasedBodiesAreNotHeld(t *testing.T) {
	for _, w := range roads {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			done := make(chan struct{})
			h := infer.HandlerFunc(func(_ context.Context, r *infer.Request, rw *infer.Reply) error {
				if err := r.ReadBody(64 << 20); err != nil {
					return err
				}
				rw.Header().Set("Content-Type", "text/event-stream")
				rw.Commit(200)
				if err := rw.Flush(); err != nil {
					return err
				}
				r.Release()
				<-done
				_, err := io.WriteString(rw, "end")
				return err
			})
			s := w.on(t, patient(), NewMux([]Route{{"POST", "/a", 0, h}}))
			res, err := w.client(t).Post(s.URL+"/a", "text/plain", strings.NewReader(strings.Repeat("x", 1<<20)))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			eventually(t, "nothing is held", func() bool { return s.counted(t, "sluice_request_body_bytes") == 0 })
			close(done)
			if b, err := io.ReadAll(res.Body); string(b) != "end" || err != nil {
				t.Errorf("the stream was %q, %v", b, err)
			}
		})
	}
}

// TestIdleConnectionsHoldNoBody holds that a connection on which a long request
// was refused has nothing of it left while its client thinks.
func TestIdleConnectionsHoldNoBody(t *testing.T) {
	const clients, long = 12, 6 << 20
	body := fmt.Appendf(nil, `{"model":"nope","messages":[{"role":"user","content":%q}]}`, strings.Repeat("x", long))
	used := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // what lies in pools goes with the second
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	h := Body(16<<20, 0, func() bool { return false }, func() bool { return true }, nil)(infer.HandlerFunc(func(context.Context, *infer.Request, *infer.Reply) error {
		return &infer.Error{Status: 404, Code: "model_not_found", Msg: "no such model"}
	}))
	for _, w := range roads {
		t.Run(w.name, func(t *testing.T) {
			s := w.on(t, patient(), NewMux([]Route{{"POST", "/v1/chat/completions", infer.Chat, h}}, named))
			before := used()
			for range clients {
				res, err := w.client(t).Post(s.URL+"/v1/chat/completions", "application/json", bytes.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, res.Body); err != nil {
					t.Fatal(err)
				}
				res.Body.Close()
				if res.StatusCode != 404 {
					t.Fatalf("status %d", res.StatusCode)
				}
			}
			if more := used() - before; more > clients*long/4 {
				t.Errorf("%d idle connections hold %d KiB", clients, more>>10)
			}
		})
	}
}
