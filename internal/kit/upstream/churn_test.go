package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/internal/kit/sock"
)

// TestChurn lets many ask a worker of bad manners, and give up at any moment.
// Whoever gets an answer gets his own, and no place is lost or taken twice.
func TestChurn(t *testing.T) {
	const askers, each, places = 24, 150, 8
	w := start(t, func(c net.Conn, _ int, _ *http.Request, body []byte) bool {
		id, _, _ := strings.Cut(string(body), " ")
		answer := fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", ok200, len(id), id)
		switch rand.IntN(12) {
		case 0:
			return false
		case 1:
			reset(c)
			return false
		case 2:
			io.WriteString(c, answer[:rand.IntN(len(answer))])
			return false
		case 3:
			cut(c, answer, 1+rand.IntN(9))
		case 4:
			io.WriteString(c, strings.Replace(answer, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
			return false
		case 5:
			io.WriteString(c, answer)
			c.Close()
			return false
		case 6:
			<-time.After(time.Duration(rand.IntN(3)) * time.Millisecond)
			io.WriteString(c, answer)
		case 7:
			fmt.Fprintf(c, "%s%s\r\n%x\r\n%s\r\n0\r\n\r\n", ok200, chunked, len(id), id)
		case 8:
			io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n"+answer)
		default:
			io.WriteString(c, answer)
		}
		return true
	})
	cfg := DefaultConfig()
	cfg.MaxConnections, cfg.MaxIdle = places, places/2
	h := host(t, client(t, Options{Config: cfg}), w.url)
	var good, ended atomic.Int32
	var all sync.WaitGroup
	for asker := range askers {
		all.Go(func() {
			for i := range each {
				waits := new(sock.Waits)
				id := strconv.Itoa(asker*each + i)
				ctx, cancel := context.WithCancel(context.Background())
				end := cancel
				if i%2 == 0 {
					ctx = context.WithValue(ctx, sock.Key{}, waits)
					end = func() { cancel(); waits.End() }
				}
				stopped := make(chan struct{})
				if rand.IntN(4) == 0 {
					go func() {
						<-time.After(time.Duration(rand.IntN(1500)) * time.Microsecond)
						end()
						close(stopped)
					}()
				} else {
					close(stopped)
				}
				r := do(ctx, h, post(id+" "+strings.Repeat("x", rand.IntN(2)*rand.IntN(60<<10))))
				switch {
				case r.err == nil && r.body != id:
					t.Errorf("asked %s, got the answer of %s", id, r.body)
				case r.err == nil:
					good.Add(1)
				case errors.Is(r.err, context.Canceled):
					ended.Add(1)
				}
				if open, idle := h.counts(); open > places || idle > places/2 {
					t.Errorf("%d open, %d idle", open, idle)
				}
				<-stopped
				cancel()
			}
		})
	}
	all.Wait()
	until(t, "all are given back", func() bool { open, idle := h.counts(); return open == idle })
	if good.Load() < askers*each/4 || ended.Load() == 0 {
		t.Errorf("%d answered, %d given up: too few to say anything", good.Load(), ended.Load())
	}
}
