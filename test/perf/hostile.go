package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
)

// A hostility is what a module is made to do all the while by requests of its
// own, which nobody else's go through.
type hostility struct {
	does   string // every.wasm knows the word, but chase.wasm is one itself; "" is nothing, and no such requests
	conns  int
	rate   int // a second; 0 is a closed loop
	status int // that these requests get; 0 for any
}

// hostilities: guests that spin and those that take memory are as many at a time
// as would keep the processor for themselves. A bomb may be done in time.
var hostilities = []hostility{
	{does: ""}, {"spin", 8, 0, 503}, {"chase", 8, 0, 503}, {"bomb", 8, 0, 0}, {"deep", 64, 1000, 503}, {"trap", 64, 1000, 503},
}

// hostileLimit is how long a call of the module may take.
const hostileLimit = 50 * time.Millisecond

var hostileLines = []line{
	{what: "others' p50 µs", figure: "p50"},
	{what: "p99 µs", figure: "p99"},
	{what: "longest µs", figure: "longest"},
	{what: "hostile requests/s", figure: "hostile"},
	{what: "theirs p50 µs", figure: "stopped50"},
	{what: "p99 µs", figure: "stopped99", bar: fmt.Sprintf("spin, chase ≤ %d", (hostileLimit + 10*time.Millisecond).Microseconds())},
}

// hostileRound measures requests through a module that behaves, beside each
// hostility of another module in the same gateway.
func hostileRound(p *place, o options, w work, cores int) ([]sample, error) {
	bad := func(name, file, path string) string {
		return fmt.Sprintf("%s=%s;fail_closed=true;paths=%s;max_execution_time_ms=%d", name, file, path, hostileLimit.Milliseconds())
	}
	flags, err := wasmFlags("good="+cAuth+";fail_closed=true;paths=/v1/chat/*", bad("bad", every, "/v1/completions"), bad("chase", chase, "/v1/responses"))
	if err != nil {
		return nil, err
	}
	x, err := sluiceWith(p, w.name, p.binary, guestKey, flags...)
	if err != nil {
		return nil, err
	}
	defer x.stop()
	if err := x.start(proxyCores(cores), len(p.workers)); err != nil {
		return nil, err
	}
	var all []sample
	for _, h := range shuffled(hostilities) {
		f, err := beside(p, o, w, x, h)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", h.name(), err)
		}
		all = append(all, sample{Proxy: h.name(), Figures: f})
		say(cores, w.name, h.name(), f)
	}
	return all, nil
}

func (h hostility) name() string {
	if h.does == "" {
		return "none"
	}
	return h.does
}

// beside is measure while h goes on.
func beside(p *place, o options, w work, x *proxy, h hostility) (map[string]float64, error) {
	if h.does == "" {
		return measure(p, o, w, x)
	}
	_, failed, err := x.guestCalls()
	if err != nil {
		return nil, err
	}
	hostile := w
	hostile.conns, hostile.rate = h.conns, h.rate
	long := o
	long.Seconds += w.warm + 1
	args, err := loadArgs(p, long, hostile, x.port)
	if err != nil {
		return nil, err
	}
	url := "/v1/completions?request=" + h.does
	if h.does == "chase" {
		url = "/v1/responses"
	}
	args = append(args, "-u", url, "-a", fmt.Sprint(h.status))
	begun, ended := make(chan bool, 1), make(chan error, 1)
	var bad loadResult
	go func() {
		var err error
		bad, err = p.load(func() error { begun <- true; return nil }, func() error { return nil }, args...)
		ended <- err
	}()
	select {
	case <-begun:
	case err := <-ended:
		return nil, fmt.Errorf("the hostile requests ended before they began: %w", err)
	}
	f, err := measure(p, o, w, x)
	if again := <-ended; err == nil {
		err = again
	}
	if err != nil {
		return nil, err
	}
	_, now, err := x.guestCalls()
	if err != nil {
		return nil, err
	}
	if h.status != 0 && now-failed < bad.Requests {
		return nil, fmt.Errorf("%g requests made the module fail %g times", bad.Requests, now-failed)
	}
	f["hostile"], f["stopped50"], f["stopped99"], f["stopped_longest"] = bad.Requests/bad.Seconds, bad.P50, bad.P99, bad.Longest
	return f, nil
}

var registerLines = []line{
	{what: "registered in ms", figure: "register_ms", bar: "rust ≤ 300"},
	{what: "others' p99 µs meanwhile", figure: "p99"},
	{what: "and before", figure: "quiet99"},
	{what: "longest µs meanwhile", figure: "longest"},
	{what: "and before", figure: "quiet_longest"},
}

// registerRound registers each module in a fresh gateway, to which it is new,
// while others ask.
func registerRound(p *place, o options, w work, cores int) ([]sample, error) {
	var all []sample
	for _, g := range shuffled(guestsOf(o, work{guests: []guest{{name: "c", file: cAuth}, {name: "rust", file: rustAuth}}})) {
		f, err := register(p, o, w, g, cores)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", g.name, err)
		}
		all = append(all, sample{Proxy: g.name, Figures: f})
		say(cores, w.name, g.name, f)
	}
	return all, nil
}

// registerWindow is for how long requests are looked at. It is not much longer
// than registering takes: else that would be little of what is measured.
const registerWindow = 0.5

func register(p *place, o options, w work, g guest, cores int) (map[string]float64, error) {
	binary, err := os.ReadFile(g.file)
	if err != nil {
		return nil, err
	}
	x, err := sluiceWith(p, w.name, p.binary, guestKey, "--enable-wasm")
	if err != nil {
		return nil, err
	}
	defer x.stop()
	if err := x.start(proxyCores(cores), len(p.workers)); err != nil {
		return nil, err
	}
	o.Seconds = registerWindow
	quiet, err := measure(p, o, w, x)
	if err != nil {
		return nil, err
	}
	args, err := loadArgs(p, o, w, x.port)
	if err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	var took time.Duration
	sent := false
	r, err := p.load(func() error {
		sent = true
		go func() {
			begin := time.Now()
			err := x.post("/wasm?name=guest&attach_points=OnRequest", "application/wasm", binary)
			took = time.Since(begin)
			done <- err
		}()
		return nil
	}, func() error { return nil }, args...)
	if sent {
		if failed := <-done; err == nil {
			err = failed
		}
	}
	if err != nil {
		return nil, err
	}
	return map[string]float64{
		"register_ms": float64(took.Microseconds()) / 1000, "quiet99": quiet["p99"], "quiet_longest": quiet["longest"],
		"p50": r.P50, "p99": r.P99, "longest": r.Longest,
	}, nil
}

// post sends to the gateway, as an administrator.
func (x *proxy) post(target, kind string, body []byte) error {
	u, err := url.Parse(fmt.Sprintf("http://127.0.0.1:%d%s", x.port, target))
	if err != nil {
		return err
	}
	req := &http.Request{Method: http.MethodPost, URL: u, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
		Header: http.Header{"Content-Type": {kind}, "Authorization": {"Bearer " + guestKey}}}
	patient := http.Client{Timeout: 2 * time.Minute}
	res, err := patient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 4<<10))
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("POST %s: %d %s", target, res.StatusCode, answer)
	}
	return nil
}

// aloneTable writes what was measured in ways of its own: a table for each work,
// a row for each case.
func aloneTable(out io.Writer, r result) {
	for _, w := range works {
		if w.alone == nil || !slices.Contains(r.Options.Only, w.name) {
			continue
		}
		var heads []string
		for _, l := range w.lines {
			if l.bar != "" {
				l.what += " (" + l.bar + ")"
			}
			heads = append(heads, l.what)
		}
		fmt.Fprintf(out, "\n%s\n\n| cores | case | %s |\n|---|---|%s\n", w.title, strings.Join(heads, " | "), strings.Repeat("--:|", len(heads)))
		for _, cores := range r.Options.Cores {
			for _, name := range cases(r.Samples, cores, w.name) {
				fmt.Fprintf(out, "| %d | %s |", cores, name)
				for _, l := range w.lines {
					cell := ""
					if v := figures(r.Samples, cores, w.name, name, l); len(v) > 0 {
						cell = fmt.Sprintf("%.*f", l.digits, median(slices.Collect(maps.Values(v))))
					}
					fmt.Fprintf(out, " %s |", cell)
				}
				fmt.Fprintln(out)
			}
		}
	}
}

// cases are the names of what a work was measured with, in order.
func cases(all []sample, cores int, work string) []string {
	names := map[string]bool{}
	for _, s := range all {
		if s.Cores == cores && s.Work == work {
			names[s.Proxy] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}
