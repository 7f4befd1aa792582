package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A sample is one measurement of one proxy.
type sample struct {
	Cores   int                `json:"cores"`
	Work    string             `json:"work"`
	Round   int                `json:"round"`
	Proxy   string             `json:"proxy"`
	Figures map[string]float64 `json:"figures"`
}

// direct is the name of the measurement without a proxy.
const direct = "direct"

// spareFiles is how many files a proxy needs beside its streams' connections.
const spareFiles = 400

// run measures all that o names. It lowers o.Streams to what is possible.
func run(ctx context.Context, o *options) ([]sample, error) {
	files := raiseFileLimit(uint64(2*o.Streams + spareFiles))
	if most := (int(files) - spareFiles) / 2; most < o.Streams && slices.Contains(o.Only, "memory") {
		fmt.Fprintf(os.Stderr, "perf: only %d files may be open: the memory figure is of %d streams\n", files, most)
		o.Streams = most
	}
	var all []sample
	for _, cores := range o.Cores {
		s, err := runOn(ctx, *o, cores, files)
		if err != nil {
			return nil, err
		}
		all = append(all, s...)
	}
	return all, nil
}

// proxyCores and loadCores say which cores proxy and load may use. The worker
// has the last core.
func proxyCores(cores int) string { return []string{"", "0", "0,1"}[cores] }

func loadCores(cores int) string {
	if cores == 1 {
		return "1-" + lastCore()
	}
	return "0-" + lastCore()
}

func runOn(ctx context.Context, o options, cores int, files uint64) ([]sample, error) {
	p, err := newPlace(ctx, o.Binary, filepath.Join("test", "perf", "c"), loadCores(cores), files)
	if err != nil {
		return nil, err
	}
	defer p.close()
	var names []string
	if slices.ContainsFunc(works, func(w work) bool { return w.shared() && slices.Contains(o.Only, w.name) }) {
		names = o.Proxies
	}
	started, err := startAll(p, names, cores)
	defer stopAll(started)
	if err != nil {
		return nil, err
	}
	var all []sample
	for _, w := range works {
		if !slices.Contains(o.Only, w.name) || w.guests != nil && cores > 1 {
			continue
		}
		s, err := runWork(p, o, w, cores, started)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.name, err)
		}
		all = append(all, s...)
	}
	return all, nil
}

// runWork measures all rounds of w.
func runWork(p *place, o options, w work, cores int, started []*proxy) (all []sample, err error) {
	if w.guests != nil {
		started, err = startGuests(p, o, w, cores)
		defer stopAll(started)
		if err != nil {
			return nil, err
		}
	}
	for round := range o.Rounds {
		if w.memory && round > 0 {
			break // it is a count, and takes long
		}
		s, err := runRound(p, o, w, cores, started)
		if err != nil {
			return nil, err
		}
		for i := range s {
			s[i].Cores, s[i].Work, s[i].Round = cores, w.name, round
		}
		all = append(all, s...)
	}
	return all, nil
}

func stopAll(started []*proxy) {
	for _, x := range started {
		x.stop()
	}
}

func startAll(p *place, names []string, cores int) (started []*proxy, err error) {
	for _, name := range names {
		x, err := prepare(p, name, cores)
		if err != nil {
			return started, err
		}
		started = append(started, x)
		if err := x.start(proxyCores(cores), len(p.workers)); err != nil {
			return started, err
		}
	}
	return started, nil
}

// runRound measures every proxy once, in random order.
func runRound(p *place, o options, w work, cores int, started []*proxy) ([]sample, error) {
	var all []sample
	if w.memory {
		for _, name := range shuffled(o.Proxies) {
			f, err := measureMemory(p, o, w, name, cores)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			short, _, _ := strings.Cut(name, "=")
			all = append(all, sample{Proxy: short, Figures: f})
			say(cores, w.name, short, f)
		}
		return all, nil
	}
	if w.alone != nil {
		return w.alone(p, o, w, cores)
	}
	if w.direct {
		f, err := measure(p, o, w, &proxy{name: direct, port: p.workers[0]})
		if err != nil {
			return nil, err
		}
		all = append(all, sample{Proxy: direct, Figures: f})
		say(cores, w.name, direct, f)
	}
	how := measure
	if w.guests != nil {
		how = measureGuest
	}
	for _, x := range shuffled(started) {
		f, err := how(p, o, w, x)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", x.name, err)
		}
		all = append(all, sample{Proxy: x.name, Figures: f})
		say(cores, w.name, x.name, f)
	}
	return all, nil
}

func shuffled[T any](s []T) []T {
	s = slices.Clone(s)
	rand.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
	return s
}

// say tells on standard error how it goes on.
func say(cores int, work, proxy string, f map[string]float64) {
	fmt.Fprintf(os.Stderr, "%d %-9s %-16s", cores, work, proxy)
	for _, name := range []string{"cpu_us", "per_second", "p50", "p99", "transit50", "transit99", "kib_per_stream", "register_ms", "stopped50", "stopped99", "hostile", "waited", "load_waited"} {
		if v, ok := f[name]; ok {
			fmt.Fprintf(os.Stderr, "  %s %.4g", name, v)
		}
	}
	fmt.Fprintln(os.Stderr)
}

// loadArgs are the load generator's arguments for a work.
func loadArgs(p *place, o options, w work, port int) ([]string, error) {
	body, err := bodyFile(p.dir, w.body, w.stream)
	if err != nil {
		return nil, err
	}
	args := []string{"-p", fmt.Sprint(port), "-f", body, "-n", fmt.Sprint(w.conns), "-w", fmt.Sprint(w.warm), "-t", fmt.Sprint(o.Seconds)}
	if w.stream {
		args = append(args, "-s")
	}
	if w.rate > 0 {
		args = append(args, "-r", fmt.Sprint(w.rate))
	}
	if w.openings > 0 {
		args = append(args, "-o", fmt.Sprint(w.openings))
	}
	return append(args, w.args...), nil
}

// measure runs the load of w against x.
func measure(p *place, o options, w work, x *proxy) (map[string]float64, error) {
	if w.stream {
		if err := p.streams(0, w.delay); err != nil {
			return nil, err
		}
	}
	args, err := loadArgs(p, o, w, x.port)
	if err != nil {
		return nil, err
	}
	var before, after ran
	r, err := p.load(
		func() (err error) { before, err = x.runTime(); return err },
		func() (err error) { after, err = x.runTime(); return err },
		args...)
	x.tidy()
	if err != nil {
		return nil, err
	}
	f := map[string]float64{"load_cpu": r.CPU, "load_waited": r.Waited}
	done := r.Requests
	if w.stream {
		done = r.Chunks
		f["transit50"], f["transit99"] = r.Transit50, r.Transit99
	} else {
		f["p50"], f["p99"], f["longest"] = r.P50, r.P99, r.Longest
	}
	if done == 0 {
		return nil, fmt.Errorf("nothing was answered in %.1f s", r.Seconds)
	}
	f["per_second"] = done / r.Seconds
	if x.cmd != nil {
		used := after.since(before)
		f["cpu_us"] = float64(used.cpu.Nanoseconds()) / 1000 / done
		f["waited"] = used.waited.Seconds() / r.Seconds
	}
	return f, nil
}

// measureMemory opens streams through a fresh process and counts what it has
// grown by.
func measureMemory(p *place, o options, w work, name string, cores int) (map[string]float64, error) {
	x, err := prepare(p, name, cores)
	if err != nil {
		return nil, err
	}
	defer x.stop()
	if err := x.start(proxyCores(cores), len(p.workers)); err != nil {
		return nil, err
	}
	w.conns = o.Streams
	return memory(p, o, w, x)
}

func memory(p *place, o options, w work, x *proxy) (map[string]float64, error) {
	// Some requests first: what is needed once is not of the streams.
	warm, err := loadArgs(p, options{Seconds: 0.1}, work{body: w.body, conns: 16}, x.port)
	if err != nil {
		return nil, err
	}
	nothing := func() error { return nil }
	if _, err := p.load(nothing, nothing, warm...); err != nil {
		return nil, err
	}
	idle, err := rss(x.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	if err := p.streams(0, w.delay); err != nil {
		return nil, err
	}
	args, err := loadArgs(p, options{Seconds: 0.1}, w, x.port)
	if err != nil {
		return nil, err
	}
	var full float64
	_, err = p.load(func() (err error) { full, err = rss(x.cmd.Process.Pid); return err }, nothing, args...)
	if err != nil {
		return nil, err
	}
	return map[string]float64{"kib_per_stream": (full - idle) / float64(w.conns), "idle_mib": idle / 1024, "streams": float64(w.conns)}, nil
}
