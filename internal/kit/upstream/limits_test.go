package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestHowManyAreOpenedAtOnce holds that a crowd of requests does not become a
// crowd of dials.
func TestHowManyAreOpenedAtOnce(t *testing.T) {
	w := start(t, echo)
	cfg := DefaultConfig()
	cfg.MaxDials = 2
	var open, most, all atomic.Int32
	proceed := make(chan struct{})
	h := host(t, client(t, Options{Config: cfg, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		n := open.Add(1)
		defer open.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		all.Add(1)
		<-proceed
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}}), w.url)
	var wg sync.WaitGroup
	for range 7 {
		wg.Go(func() { do(context.Background(), h, post("{}")).want(t, 200, "{}") })
	}
	until(t, "two dial", func() bool { return open.Load() == 2 })
	until(t, "all have come", func() bool { n, _ := h.counts(); return n == 7 })
	close(proceed)
	wg.Wait()
	if most.Load() != 2 || all.Load() != 7 {
		t.Errorf("%d connections were opened, up to %d at once; want 7, 2 at once", all.Load(), most.Load())
	}
}

// TestWorkerThatTakesNothing holds that a request is not pushed for ever at a
// worker that does not read it.
func TestWorkerThatTakesNothing(t *testing.T) {
	cfg := DefaultConfig()
	cfg.SendTimeout = 200 * time.Millisecond
	h := host(t, client(t, Options{Config: cfg}), silent(t, func(net.Conn) {}))
	r := soon(t, "send", func() result { return do(context.Background(), h, post(strings.Repeat("x", 32<<20))) })
	var e *Error
	if !errors.As(r.err, &e) || e.Op != "send" || !e.Timeout {
		t.Errorf("got %v, want a timeout of sending", r.err)
	}
}

// TestUnusedConnectionsGiveTheirDescriptors holds that a request reaches its
// worker although unused connections to others have all descriptors.
func TestUnusedConnectionsGiveTheirDescriptors(t *testing.T) {
	const most = 3
	var open atomic.Int32
	o, shows := counted()
	o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		if open.Add(1) > most {
			open.Add(-1)
			return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("socket", syscall.EMFILE)}
		}
		nc, err := (&net.Dialer{}).DialContext(ctx, network, address)
		return &leaving{nc, &open}, err
	}
	c := client(t, o)
	var hosts []*Host
	for range 3 * most {
		hosts = append(hosts, host(t, c, start(t, echo).url))
	}
	for _, h := range hosts {
		do(context.Background(), h, post("{}")).want(t, 200, "{}")
	}
	shows(t, fmt.Sprintf("sluice_upstream_connections_closed_total{reason=\"descriptors\"} %d", len(hosts)-most))
	shows(t, "sluice_upstream_connections_failed_total 0")
}

// leaving is a connection that gives its place back.
type leaving struct {
	net.Conn
	open *atomic.Int32
}

func (c *leaving) Close() error {
	c.open.Add(-1)
	return c.Conn.Close()
}
