package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// The bars. Each is a count that a busy machine does not change.
const (
	// maxExchangeCalls: the request is read and written, the answer is read and
	// written.
	maxExchangeCalls = 4.0
	// maxChunkCalls: a chunk of a stream is read and written.
	maxChunkCalls = 2.0
	// callSlack is for what is not of an exchange but on the same connections:
	// health checks, the first request after a connection was opened.
	callSlack = 0.05
	// maxOtherCalls bounds what an exchange may cost in calls elsewhere: lines
	// of the access log, which go out many at once, and wake-ups of threads.
	maxOtherCalls = 0.5
	// The program allocates in the background as well (timers, the collector's
	// own work); what can be known of that is taken off, these are for the rest.
	maxRequestAllocs = 0.5
	maxChunkAllocs   = 0.1
	// maxStreamKiB is of a stream that is open and gets an event now and then.
	// What is needed once weighs more on gateStreams than on the 10,000 of the
	// table in docs/performance.md, whose bar is 14.
	maxStreamKiB = 14.5
)

// A gate is one measured count and its bar.
type gate struct {
	what   string
	have   float64
	bar    float64
	detail string
}

func (g gate) ok() bool { return g.have <= g.bar }

func gatesMain(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("perf gates", flag.ContinueOnError)
	binary := f.String("binary", "bin/sluice", "the program to measure")
	if err := f.Parse(args); err != nil {
		return err
	}
	if err := need("gcc", "strace"); err != nil {
		return err
	}
	files := raiseFileLimit(2*gateStreams + spareFiles)
	if files < 2*gateStreams+spareFiles {
		return fmt.Errorf("only %d files may be open, %d are needed: raise ulimit -n", files, 2*gateStreams+spareFiles)
	}
	p, err := newPlace(ctx, *binary, filepath.Join("test", "perf", "c"), "", files)
	if err != nil {
		return err
	}
	defer p.close()
	var all []gate
	for _, part := range []func(*place) ([]gate, error){callGates, allocGates, guestGates, memoryGate} {
		g, err := part(p)
		if err != nil {
			return err
		}
		all = append(all, g...)
	}
	return judge(all)
}

func judge(all []gate) error {
	failed := 0
	for _, g := range all {
		how := "ok    "
		if !g.ok() {
			how = "FAILED"
			failed++
		}
		fmt.Printf("%s  %-44s %8.2f  at most %g\n", how, g.what, g.have, g.bar)
		if g.detail != "" {
			fmt.Printf("        %s\n", g.detail)
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d gates failed", failed, len(all))
	}
	return nil
}

// A span notes when the load generator's measurement began and ended.
type span struct{ from, to time.Time }

func (s *span) begin() error { s.from = time.Now(); return nil }
func (s *span) end() error   { s.to = time.Now(); return nil }

// callGates runs the gateway under strace.
func callGates(p *place) ([]gate, error) {
	x, err := sluice(p, "sluice", p.binary)
	if err != nil {
		return nil, err
	}
	defer x.stop()
	trace := filepath.Join(p.dir, "strace")
	if err := x.trace(trace); err != nil {
		return nil, err
	}
	if err := x.start("", len(p.workers)); err != nil {
		return nil, err
	}
	const exchanges, streams, events = 2000.0, 20.0, 50.0
	var unary, sse span
	if err := exchange(p, x, &unary, false, 1, exchanges); err != nil {
		return nil, err
	}
	// strace is slow: pauses that were shorter would let chunks catch up with
	// each other, and be read two at once.
	if err := p.streams(events, 20); err != nil {
		return nil, err
	}
	if err := exchange(p, x, &sse, true, 5, streams); err != nil {
		return nil, err
	}
	x.stop() // and strace has written all
	u, err := countFile(trace, unary.from, unary.to, x.port, p.workers)
	if err != nil {
		return nil, err
	}
	s, err := countFile(trace, sse.from, sse.to, x.port, p.workers)
	if err != nil {
		return nil, err
	}
	if u.exchange < exchanges || s.exchange < events*streams {
		return nil, fmt.Errorf("strace saw %g and %g calls: too few to have seen all", u.exchange, s.exchange)
	}
	chunk := (s.exchange - maxExchangeCalls*streams) / (events * streams)
	return []gate{
		{"system calls of a unary exchange", u.exchange / exchanges, maxExchangeCalls + callSlack, u.per(exchanges)},
		{"system calls beside a unary exchange", u.other / exchanges, maxOtherCalls, ""},
		{"system calls of a chunk of a stream", chunk, maxChunkCalls + callSlack, s.per(events * streams)},
		{"system calls beside a chunk of a stream", s.other / (events * streams), maxOtherCalls, ""},
	}, nil
}

// exchange has n requests answered, over some connections.
func exchange(p *place, x *proxy, s *span, stream bool, conns int, n float64) error {
	body, err := bodyFile(p.dir, 2<<10, stream)
	if err != nil {
		return err
	}
	_, err = p.load(s.begin, s.end, "-i", "-p", fmt.Sprint(x.port), "-f", body, "-n", fmt.Sprint(conns), "-w", "0.2", "-N", fmt.Sprint(n))
	return err
}

// allocGates asks the running program how often it has allocated.
func allocGates(p *place) ([]gate, error) {
	x, err := sluice(p, "sluice", p.binary)
	if err != nil {
		return nil, err
	}
	defer x.stop()
	if err := x.start("", len(p.workers)); err != nil {
		return nil, err
	}
	const requests, streams, seconds = 20000, 20, 3
	request, err := allocs(p, x, false, "-n", "16", "-N", fmt.Sprint(requests))
	if err != nil {
		return nil, err
	}
	if err := p.streams(0, 1); err != nil {
		return nil, err
	}
	chunk, err := allocs(p, x, true, "-n", fmt.Sprint(streams), "-s", "-t", fmt.Sprint(seconds))
	if err != nil {
		return nil, err
	}
	return []gate{
		{"allocations of a request", request, maxRequestAllocs, ""},
		{"allocations of a chunk of a stream", chunk, maxChunkAllocs, ""},
	}, nil
}

// guestGates hold that a request through a module allocates no more than one
// that no module is for.
func guestGates(p *place) (all []gate, err error) {
	for _, g := range []guest{{name: "C", file: cAuth}, {name: "Rust", file: rustAuth}} {
		flags, err := wasmFlags("guest=" + g.file + ";fail_closed=true;attach_points=OnRequest")
		if err != nil {
			return nil, err
		}
		x, err := sluiceWith(p, "sluice", p.binary, guestKey, flags...)
		if err != nil {
			return nil, err
		}
		n, err := throughGuest(p, x)
		x.stop()
		if err != nil {
			return nil, err
		}
		all = append(all, gate{"allocations of a request through a module in " + g.name, n, maxRequestAllocs, ""})
	}
	return all, nil
}

func throughGuest(p *place, x *proxy) (float64, error) {
	if err := x.start("", len(p.workers)); err != nil {
		return 0, err
	}
	const requests = 20000
	n, err := allocs(p, x, false, append([]string{"-n", "16", "-N", fmt.Sprint(requests)}, guestFields...)...)
	if err != nil {
		return 0, err
	}
	if calls, failed, err := x.guestCalls(); err != nil || calls < requests || failed > 0 {
		return 0, fmt.Errorf("%d requests made %g calls of the module, of which %g failed: %w", requests, calls, failed, err)
	}
	return n, nil
}

// allocs returns the allocations for each request, or each chunk.
func allocs(p *place, x *proxy, stream bool, args ...string) (float64, error) {
	body, err := bodyFile(p.dir, 2<<10, stream)
	if err != nil {
		return 0, err
	}
	var (
		s             span
		before, after float64
	)
	r, err := p.load(
		func() (err error) { before, err = mallocs(x); _ = s.begin(); return err },
		func() (err error) { _ = s.end(); after, err = mallocs(x); return err },
		append(args, "-i", "-p", fmt.Sprint(x.port), "-f", body, "-w", "1")...)
	if err != nil {
		return 0, err
	}
	asking, perSecond, err := background(x)
	if err != nil {
		return 0, err
	}
	done := r.Requests
	if stream {
		done = r.Chunks
	}
	return max(0, after-before-asking-perSecond*s.to.Sub(s.from).Seconds()) / done, nil
}

// background measures what asking for the figure allocates itself, and what is
// allocated in a second without requests.
func background(x *proxy) (asking, perSecond float64, err error) {
	var m [3]float64
	for i := range m {
		if i == 2 {
			<-time.After(time.Second)
		}
		if m[i], err = mallocs(x); err != nil {
			return 0, 0, err
		}
	}
	asking = m[1] - m[0]
	return asking, max(0, m[2]-m[1]-asking), nil
}

var mallocsTotal = regexp.MustCompile(`(?m)^go_memstats_mallocs_total (\S+)$`)

// mallocs is how many objects the program has allocated since it began.
func mallocs(x *proxy) (float64, error) {
	_, body := get(x.metrics, "/metrics")
	m := mallocsTotal.FindStringSubmatch(body)
	if m == nil {
		return 0, errors.New("/metrics has no go_memstats_mallocs_total")
	}
	return strconv.ParseFloat(m[1], 64)
}

// gateStreams are enough for what is there once not to weigh, and few enough
// for the limits of a CI machine.
const gateStreams = 2000

func memoryGate(p *place) ([]gate, error) {
	for _, w := range works {
		if !w.memory {
			continue
		}
		f, err := measureMemory(p, options{Streams: gateStreams}, w, "sluice", 0)
		if err != nil {
			return nil, err
		}
		return []gate{{"KiB of memory of an open stream", f["kib_per_stream"], maxStreamKiB, ""}}, nil
	}
	return nil, errors.New("BUG: no work measures memory")
}
