package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/internal/kit/bubble"
	"sluice/internal/kit/h1"
	"sluice/internal/kit/metric"
)

func TestConnectionsAreReusedNewestFirst(t *testing.T) {
	release := make(chan struct{})
	var all sync.WaitGroup
	w := start(t, func(c net.Conn, nth int, r *http.Request, body []byte) bool {
		if string(body) == "wait" {
			<-release
		}
		fmt.Fprintf(c, ok200+"Content-Length: %d\r\n\r\n%s", len(c.RemoteAddr().String()), c.RemoteAddr())
		return true
	})
	h := host(t, client(t, Options{}), w.url)
	for range 3 {
		all.Go(func() { do(context.Background(), h, post("wait")) })
	}
	until(t, "three wait", func() bool { return w.requests.Load() == 3 })
	close(release)
	all.Wait()
	if open, idle := h.counts(); open != 3 || idle != 3 {
		t.Fatalf("%d open, %d idle", open, idle)
	}
	first := do(context.Background(), h, post("{}")).body
	for range 10 {
		if r := do(context.Background(), h, post("{}")); r.body != first {
			t.Errorf("sent on %q, want the newest, %q", r.body, first)
		}
	}
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg    func(*Config)
		header string
		after  func(c net.Conn)
		within time.Duration
	}{
		"when unused for too long":   {cfg: func(c *Config) { c.PoolIdle = 300 * time.Millisecond }, within: time.Second},
		"when the worker closes":     {after: func(c net.Conn) { c.Close() }, within: 90 * time.Millisecond},
		"when the worker half does":  {after: func(c net.Conn) { c.(*net.TCPConn).CloseWrite() }, within: 90 * time.Millisecond},
		"when something comes":       {after: func(c net.Conn) { io.WriteString(c, "HTTP/1.1 408 Late\r\n\r\n") }, within: 2 * time.Second},
		"a second before the worker": {header: "Keep-Alive: timeout=4\r\n", within: 4 * time.Second},
		"at once if that is now":     {header: "Keep-Alive: timeout=1\r\n"},
		"when it was the last":       {header: "Keep-Alive: timeout=60, max=0\r\n"},
		"when none are to be kept":   {cfg: func(c *Config) { c.MaxIdle = 0 }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answered := make(chan struct{})
			w := start(t, func(c net.Conn, nth int, r *http.Request, body []byte) bool {
				io.WriteString(c, ok200+tt.header+"Content-Length: 0\r\n\r\n")
				<-answered
				if tt.after != nil {
					tt.after(c)
				}
				return true
			})
			cfg := DefaultConfig()
			if tt.cfg != nil {
				tt.cfg(&cfg)
			}
			h := host(t, client(t, Options{Config: cfg}), w.url)
			do(context.Background(), h, post("{}")).want(t, 200, "")
			open, idle := h.counts()
			watch := bubble.Begin(t)
			close(answered)
			if tt.within == 0 {
				if open != 0 || idle != 0 {
					t.Errorf("%d open, %d idle", open, idle)
				}
				return
			}
			if open != 1 || idle != 1 {
				t.Fatalf("%d open, %d idle before", open, idle)
			}
			until(t, "it is closed", func() bool { open, idle = h.counts(); return open == 0 && idle == 0 })
			if took, awake := watch.End(); awake > tt.within+time.Second {
				t.Errorf("after %v, %v of it awake", took, awake)
			}
		})
	}
}

func TestWorkerSaysHowManyMore(t *testing.T) {
	w := start(t, func(c net.Conn, nth int, r *http.Request, body []byte) bool {
		more := ""
		if nth == 0 {
			more = "Keep-Alive: max=2\r\n"
		}
		io.WriteString(c, ok200+more+"Content-Length: 0\r\n\r\n")
		return true
	})
	h := host(t, client(t, Options{}), w.url)
	for range 6 {
		do(context.Background(), h, post("{}")).want(t, 200, "")
	}
	if n := w.conns.Load(); n != 2 {
		t.Errorf("six requests on %d connections, want three on each of two", n)
	}
}

// TestLateBytesAreNoAnswer is an attack, or a confused worker: it says more
// than it was asked, later. What comes next is another's request.
func TestLateBytesAreNoAnswer(t *testing.T) {
	late := func(kind, body string) string {
		if kind == "chunks" {
			return fmt.Sprintf("%s%s\r\n%x\r\n%s\r\n0\r\n\r\n", ok200, chunked, len(body), body)
		}
		return fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", ok200, len(body), body)
	}
	for _, kind := range []string{"length", "chunks"} {
		// At once, the next request is there before the bytes are looked for;
		// later, who takes the connection looks, or the look of each second finds
		// them.
		for _, when := range []string{"at once", "after a tick", "when it was looked at"} {
			t.Run(kind+" "+when, func(t *testing.T) {
				t.Parallel()
				sent := make(chan struct{}, 100)
				w := start(t, func(c net.Conn, nth int, r *http.Request, body []byte) bool {
					io.WriteString(c, late(kind, string(body)))
					if string(body) == "attack" {
						<-time.After(50 * time.Millisecond)
						io.WriteString(c, late(kind, "poison"))
						sent <- struct{}{}
					}
					return true
				})
				h := host(t, client(t, Options{}), w.url)
				heard := poll(t)
				rounds := 5
				if when == "when it was looked at" {
					rounds = 1
				}
				for range rounds {
					ask(t, h, "attack")
					<-sent
					now := h.client.watch.Now()
					until(t, "the bytes are here", func() bool { // any later, and nobody can tell them from an answer
						h.mu.Lock()
						defer h.mu.Unlock()
						return h.idle.newest == nil || !h.idle.newest.s.Quiet()
					})
					heard()
					switch when {
					case "after a tick":
						until(t, "a tick", func() bool { return h.client.watch.Now() > now })
					case "when it was looked at":
						until(t, "it is given up", func() bool { _, idle := h.counts(); return idle == 0 })
					}
					r := do(context.Background(), h, post("honest"))
					var broken *h1.Error
					switch {
					case r.err == nil && r.body != "honest":
						t.Fatalf("got %q, which was the attacker's", r.body)
					case r.err != nil && (r.status != 0 || r.body != "" || !errors.As(r.err, &broken)):
						t.Fatalf("got %d %q, %v", r.status, r.body, r.err)
					case r.err != nil && when != "at once":
						t.Errorf("failed, though there was time to see: %v", r.err)
					}
					ask(t, h, "next")
				}
			})
		}
	}
}

// poll returns a function that returns when the runtime has heard of all that has
// come on sockets so far: what comes last is heard of last.
func poll(t *testing.T) func() {
	ln := listen(t, "tcp")
	defer ln.Close()
	near, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	rc, err := near.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		told := false
		_ = rc.Read(func(uintptr) bool {
			if told {
				return true
			}
			told = true
			_, _ = far.Write([]byte("x"))
			return false
		})
	}
}

func TestBoundOfIdleConnections(t *testing.T) {
	release := make(chan struct{})
	w := start(t, func(c net.Conn, nth int, r *http.Request, body []byte) bool {
		<-release
		return echo(c, nth, r, body)
	})
	cfg := DefaultConfig()
	cfg.MaxIdle = 2
	h := host(t, client(t, Options{Config: cfg}), w.url)
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() { do(context.Background(), h, post("{}")).want(t, 200, "{}") })
	}
	until(t, "five wait", func() bool { return w.requests.Load() == 5 })
	close(release)
	all.Wait()
	if open, idle := h.counts(); open != 2 || idle != 2 {
		t.Errorf("%d open, %d idle; want 2", open, idle)
	}
}

// TestBoundOfConnections holds that who waits for a connection has it in turn,
// and that who gives up takes nobody's place.
func TestBoundOfConnections(t *testing.T) {
	proceed := make(chan bool)
	var order []string
	w := start(t, func(c net.Conn, nth int, r *http.Request, body []byte) bool {
		order = append(order, string(body))
		keep := <-proceed
		if !keep {
			fmt.Fprint(c, ok200+"Connection: close\r\nContent-Length: 0\r\n\r\n")
			return false
		}
		fmt.Fprint(c, ok200+"Content-Length: 0\r\n\r\n")
		return true
	})
	cfg := DefaultConfig()
	cfg.MaxConnections = 1
	h := host(t, client(t, Options{Config: cfg}), w.url)
	queued := func() (n int) {
		h.mu.Lock()
		defer h.mu.Unlock()
		for w := h.firstWaiter; w != nil; w = w.next {
			n++
		}
		return n
	}
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	gaveUp := make(chan result, 1)
	const n = 8
	for i := range n {
		all.Go(func() {
			if i == 3 {
				gaveUp <- do(ctx, h, post("cancelled"))
				return
			}
			if r := do(context.Background(), h, post(fmt.Sprint(i))); r.err != nil {
				t.Errorf("%d: %v", i, r.err)
			}
		})
		if i == 0 {
			until(t, "the first is there", func() bool { return w.requests.Load() == 1 })
		} else {
			until(t, "it waits", func() bool { return queued() == i })
		}
	}
	cancel()
	var e *Error
	if r := <-gaveUp; !errors.Is(r.err, context.Canceled) || !errors.As(r.err, &e) || e.Op != "wait" {
		t.Errorf("who gave up got %v", r.err)
	}
	for i := range n - 1 {
		proceed <- i%2 == 0
	}
	all.Wait()
	if got := strings.Join(order, ""); got != "0124567" {
		t.Errorf("served in the order %s", got)
	}
	if open, _ := h.counts(); open > 1 {
		t.Errorf("%d are open", open)
	}
}

func TestWaitersGetAPlaceThatCannotBeFilled(t *testing.T) {
	cfg := DefaultConfig()
	cfg.MaxConnections = 1
	refused := errors.New("refused")
	hold := make(chan struct{})
	h := host(t, client(t, Options{Config: cfg, Dial: func(context.Context, string, string) (net.Conn, error) {
		<-hold
		return nil, refused
	}}), "http://127.0.0.1")
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			if r := do(context.Background(), h, post("{}")); !errors.Is(r.err, refused) {
				t.Errorf("got %v", r.err)
			}
		})
	}
	close(hold)
	all.Wait()
	if open, _ := h.counts(); open != 0 {
		t.Errorf("%d places are taken", open)
	}
}

func TestWorkerThatLeaves(t *testing.T) {
	proceed := make(chan struct{})
	w := start(t, func(c net.Conn, nth int, r *http.Request, body []byte) bool {
		if string(body) == "long" {
			<-proceed
		}
		return echo(c, nth, r, body)
	})
	h := host(t, client(t, Options{}), w.url)
	long := make(chan result, 1)
	go func() { long <- do(context.Background(), h, post("long")) }()
	until(t, "it is asked", func() bool { return w.requests.Load() == 1 })
	ask(t, h, "short")
	h.Close()
	if open, idle := h.counts(); open != 1 || idle != 0 {
		t.Errorf("%d open, %d idle when it leaves", open, idle)
	}
	close(proceed)
	(<-long).want(t, 200, "long")
	if open, _ := h.counts(); open != 0 {
		t.Errorf("%d open after the last answer", open)
	}
	ask(t, h, "late") // who has picked it is served
	if open, _ := h.counts(); open != 0 {
		t.Errorf("%d open after a late one", open)
	}
}

// places is a resolver and a dialer for made-up addresses.
type places struct {
	mu    sync.Mutex
	addrs []string          // guarded by mu
	asked int               // guarded by mu
	tried []string          // guarded by mu
	to    map[string]string // address to where it really leads; constant
}

func (p *places) options() Options {
	return Options{
		Fresh: time.Hour,
		Resolve: func(_ context.Context, name string) ([]netip.Addr, error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.asked++
			if name != "worker.test" || len(p.addrs) == 0 {
				return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
			}
			var all []netip.Addr
			for _, a := range p.addrs {
				all = append(all, netip.MustParseAddr(a))
			}
			return all, nil
		},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			p.mu.Lock()
			p.tried = append(p.tried, address)
			to := p.to[address]
			p.mu.Unlock()
			if to == "" {
				return nil, errors.New("connection refused by " + address)
			}
			return (&net.Dialer{}).DialContext(ctx, network, to)
		},
	}
}

func (p *places) lead(addrs ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.addrs = addrs
}

func (p *places) count() (asked int, tried string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked, strings.Join(p.tried, " ")
}

func TestNames(t *testing.T) {
	one, two := start(t, echo), start(t, echo)
	p := &places{to: map[string]string{
		"192.0.2.1:8000":      strings.TrimPrefix(one.url, "http://"),
		"[2001:db8::2]:8000":  strings.TrimPrefix(two.url, "http://"),
		"192.0.2.3:8000":      "",
		"192.0.2.99:80000000": "",
	}}
	c := client(t, p.options())
	h := host(t, c, "http://worker.test:8000")

	r := do(context.Background(), h, post("{}"))
	var e *Error
	var dns *net.DNSError
	if !errors.As(r.err, &e) || e.Op != "dial" || e.Timeout || !errors.As(r.err, &dns) {
		t.Errorf("a name that leads nowhere: %v", r.err)
	}

	p.lead("192.0.2.3", "192.0.2.1", "2001:db8::2")
	ask(t, h, "a")
	if asked, tried := p.count(); asked != 2 || tried != "192.0.2.3:8000 192.0.2.1:8000" {
		t.Errorf("asked %d times, tried %s", asked, tried)
	}
	if one.requests.Load() != 1 {
		t.Error("the second address was not asked")
	}

	// The answer is good for a while, for all.
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() { do(context.Background(), h, post("{}")) })
	}
	all.Wait()
	if asked, _ := p.count(); asked != 2 {
		t.Errorf("asked %d times within the time that an answer holds", asked)
	}

	// Then the name moves: who dials hears of it, and the idle ones go.
	p.lead("2001:db8::2")
	c.opts.Fresh = 0
	_, before := h.counts()
	nc, err := h.dial(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	nc.s.Close()
	if _, idle := h.counts(); before == 0 || idle != 0 {
		t.Errorf("%d idle connections of %d lead to where the name does not", idle, before)
	}
	ask(t, h, "b")
	if two.requests.Load() != 1 {
		t.Error("the new address was not asked")
	}
}

// TestNobodyCanBeAsked holds that a worker is found while its name cannot be
// looked up, where it was found last; not when its name is gone.
func TestNobodyCanBeAsked(t *testing.T) {
	w := start(t, echo)
	addr := netip.MustParseAddrPort(strings.TrimPrefix(w.url, "http://"))
	var fail atomic.Pointer[error]
	m, reg := new(Metrics), metric.NewRegistry(nil)
	metric.Fill(reg, m)
	cfg := DefaultConfig()
	cfg.MaxIdle = 0 // each asks
	h := host(t, client(t, Options{Config: cfg, Metrics: m, Fresh: time.Nanosecond, Resolve: func(ctx context.Context, name string) ([]netip.Addr, error) {
		switch err := fail.Load(); {
		case err == nil:
			return []netip.Addr{addr.Addr()}, nil
		case *err == nil: // nobody answers
			<-ctx.Done()
			return nil, ctx.Err()
		default:
			return nil, *err
		}
	}}), fmt.Sprintf("http://worker.test:%d", addr.Port()))
	turn := func(err error) {
		fail.Store(&err)
		now := h.client.watch.Now() // what was found is not fresh at the next
		until(t, "a tick", func() bool { return h.client.watch.Now() > now })
	}
	down := &net.DNSError{Err: "server misbehaving", Name: "worker.test", IsTemporary: true}

	turn(down)
	if r := do(context.Background(), h, post("{}")); !errors.Is(r.err, down) {
		t.Errorf("where it leads was never known: %v", r.err)
	}
	fail.Store(nil)
	ask(t, h, "a")
	turn(down)
	ask(t, h, "b")
	turn(nil)
	ask(t, h, "c")
	if got := shown(reg, "sluice_upstream_lookups_failed_total"); got != "3" {
		t.Errorf("%s failed lookups were counted, want 3", got)
	}
	gone := &net.DNSError{Err: "no such host", Name: "worker.test", IsNotFound: true}
	turn(gone)
	if r := do(context.Background(), h, post("{}")); !errors.Is(r.err, gone) {
		t.Errorf("a name that is gone: %d, %v", r.status, r.err)
	}
	h.mu.Lock()
	h.found -= lastKnown
	h.mu.Unlock()
	turn(down)
	if r := do(context.Background(), h, post("{}")); !errors.Is(r.err, down) {
		t.Errorf("what was known is old: %d, %v", r.status, r.err)
	}
}

func TestOneAsksForAll(t *testing.T) {
	w := start(t, echo)
	addr := netip.MustParseAddrPort(strings.TrimPrefix(w.url, "http://"))
	hold, asked := make(chan struct{}), make(chan struct{}, 100)
	c := client(t, Options{Resolve: func(ctx context.Context, name string) ([]netip.Addr, error) {
		asked <- struct{}{}
		select {
		case <-hold:
			return []netip.Addr{addr.Addr()}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}})
	h := host(t, c, fmt.Sprintf("http://worker.test:%d", addr.Port()))
	ctx, cancel := context.WithCancel(context.Background())
	first := make(chan result, 1)
	go func() { first <- do(ctx, h, post("{}")) }()
	<-asked
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { do(context.Background(), h, post("{}")).want(t, 200, "{}") })
	}
	until(t, "all wait", func() bool { open, _ := h.counts(); return open == 9 })
	cancel() // who asks gives up: another asks
	if r := <-first; !errors.Is(r.err, context.Canceled) {
		t.Errorf("got %v", r.err)
	}
	<-asked
	close(hold)
	all.Wait()
	if n := len(asked); n > 0 {
		t.Errorf("%d more asked", n)
	}
}

func TestAddressesShareTheTime(t *testing.T) {
	cfg := DefaultConfig()
	cfg.ConnectTimeout = 6 * time.Second
	var shares []time.Duration
	c := client(t, Options{
		Config: cfg,
		Resolve: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")}, nil
		},
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			at, _ := ctx.Deadline()
			shares = append(shares, time.Until(at).Round(time.Second))
			return nil, errors.New("refused")
		},
	})
	for try := 1; ; try++ { // a machine that stands still takes a part of the time
		shares = nil
		begin := time.Now()
		do(context.Background(), host(t, c, "http://worker.test"), post("{}"))
		if time.Since(begin) > 400*time.Millisecond && try < 20 {
			continue
		}
		if got := fmt.Sprint(shares); got != "[2s 3s 6s]" {
			t.Errorf("shares of %s", got)
		}
		return
	}
}

func TestMetricsCount(t *testing.T) {
	w := start(t, echo)
	c := client(t, Options{})
	h := host(t, c, w.url)
	ask(t, h, "a")
	ask(t, h, "b")
	if open, idle := c.sum(func(h *Host) int { return h.open }), c.sum(func(h *Host) int { return h.idle.n }); open != 1 || idle != 1 {
		t.Errorf("%v open, %v idle", open, idle)
	}
	// A client that counts nothing works as well.
	plain := New(Options{Watch: c.watch, Config: DefaultConfig()})
	ask(t, host(t, plain, w.url), "c")
	plain.Close()
}
