package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A guest is a module that has a gateway of its own, beside one without any.
type guest struct {
	name, file string
	at         string  // the hook at which it is called, "" for all that it has
	bar        float64 // µs that it may add to a request; 0 is no bar
}

// without is the name of the gateway that runs no modules.
const without = "without"

const (
	components = "internal/wasm/component/testdata/"
	every      = "internal/wasm/testdata/every.wasm"
	chase      = "internal/wasm/testdata/chase.wasm"
	redact     = "examples/wasm/redact/redact.wasm"
	rustAuth   = components + "rust-auth-smg.component.wasm"
	cAuth      = components + "c-auth-smg.component.wasm"
)

// askers look at requests: all fields of the header, and the body. What some of
// them cost at both hooks shows the price of looking at answers too.
var askers = []guest{
	{"c", cAuth, "OnRequest", 5},
	{"c, both hooks", cAuth, "", 0},
	{"c with libc", components + "clibc-auth-smg.component.wasm", "OnRequest", 0},
	{"rust", rustAuth, "OnRequest", 10},
	{"rust, both hooks", rustAuth, "", 0},
}

// watchers look at each event of a stream.
var watchers = []guest{{"c", every, "OnChunk", 0}, {"rust", redact, "OnChunk", 0}}

// ownBars are those of guests that are too large to be kept here; -modules names
// their files.
var ownBars = map[string]float64{"quickjs": 55}

// guestKey lets a request pass the guests, and the gateway. guestFields make the
// header's fields twelve.
const guestKey = "secret-api-key-12345"

var guestFields = []string{
	"-k", guestKey, "-x", "X-Request-Id: req-0123456789abcdef", "-x", "X-Forwarded-For: 10.1.2.3, 10.4.5.6",
	"-x", "Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}

// guestsOf returns what w is measured with.
func guestsOf(o options, w work) []guest {
	all := slices.Clone(w.guests)
	if w.stream {
		return all
	}
	for _, m := range o.Modules {
		name, file, _ := strings.Cut(m, "=")
		all = append(all, guest{name, file, "OnRequest", ownBars[name]})
	}
	return all
}

// startGuests starts a gateway for each guest, and one without.
func startGuests(p *place, o options, w work, cores int) (started []*proxy, err error) {
	for _, g := range append([]guest{{name: without}}, guestsOf(o, w)...) {
		var flags []string
		if g.file != "" {
			module := fmt.Sprintf("guest=%s;fail_closed=true", g.file)
			if g.at != "" {
				module += ";attach_points=" + g.at
			}
			if flags, err = wasmFlags(module); err != nil {
				return started, err
			}
		}
		x, err := sluiceWith(p, g.name, p.binary, guestKey, flags...)
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

// wasmFlags are the flags of a gateway with modules, which have the form of
// --wasm-module; their files may be relative.
func wasmFlags(modules ...string) ([]string, error) {
	flags := []string{"--enable-wasm"}
	for _, m := range modules {
		name, rest, _ := strings.Cut(m, "=")
		file, settings, _ := strings.Cut(rest, ";")
		file, err := filepath.Abs(file)
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(file); err != nil {
			return nil, err
		}
		flags = append(flags, "--wasm-module", name+"="+file+";"+settings)
	}
	return flags, nil
}

// measureGuest is measure of a gateway whose guest has to be called for all that
// is counted, and must not fail.
func measureGuest(p *place, o options, w work, x *proxy) (map[string]float64, error) {
	before, _, err := x.guestCalls()
	if err != nil {
		return nil, err
	}
	f, err := measure(p, o, w, x)
	if err != nil || x.name == without {
		return f, err
	}
	after, failed, err := x.guestCalls()
	if err != nil {
		return nil, err
	}
	if done := f["per_second"] * o.Seconds; after-before < 0.9*done || failed > 0 {
		return nil, fmt.Errorf("the module was called %g times for %g of the load, and failed %g times", after-before, done, failed)
	}
	return f, nil
}

var (
	guestCalls  = regexp.MustCompile(`(?m)^sluice_wasm_calls_total\{.*\} (\S+)$`)
	guestErrors = regexp.MustCompile(`(?m)^sluice_wasm_errors_total\{.*\} (\S+)$`)
)

// guestCalls is how often the gateway has called its modules, and how many of
// the calls failed.
func (x *proxy) guestCalls() (calls, failed float64, err error) {
	status, body := get(x.metrics, "/metrics")
	if status != 200 {
		return 0, 0, fmt.Errorf("%s: /metrics answers %d", x.name, status)
	}
	return sumOf(guestCalls, body), sumOf(guestErrors, body), nil
}

func sumOf(series *regexp.Regexp, metrics string) (sum float64) {
	for _, m := range series.FindAllStringSubmatch(metrics, -1) {
		if v, err := strconv.ParseFloat(m[1], 64); err == nil {
			sum += v
		}
	}
	return sum
}

// guestTable writes what modules add, each beside the gateway without in the
// same round.
func guestTable(out io.Writer, r result) {
	head := false
	for _, w := range works {
		if w.guests == nil || !slices.Contains(r.Options.Only, w.name) {
			continue
		}
		if !head {
			head = true
			fmt.Fprintf(out, "\n| cores | work | module | | without | with | added | bar |\n|---|---|---|---|--:|--:|--:|--:|\n")
		}
		for _, g := range guestsOf(r.Options, w) {
			for _, l := range w.lines {
				guestRow(out, r.Samples, w, g, l)
			}
		}
	}
}

func guestRow(out io.Writer, all []sample, w work, g guest, l line) {
	alone, with := figures(all, 1, w.name, without, l), figures(all, 1, w.name, g.name, l)
	if len(alone) == 0 || len(with) == 0 {
		return
	}
	bar := ""
	if g.bar > 0 && w.name == "wasm" {
		bar = fmt.Sprintf("≤ %g", g.bar)
	}
	fmt.Fprintf(out, "| 1 | %s | %s | %s | %.*f | %.*f | %.*f | %s |\n", w.title, g.name, l.what,
		l.digits, median(slices.Collect(maps.Values(alone))), l.digits, median(slices.Collect(maps.Values(with))), l.digits, median(differences(with, alone)), bar)
}

// differences are those of the rounds that have both.
func differences(a, b map[int]float64) []float64 {
	var v []float64
	for round := range a {
		if _, ok := b[round]; ok {
			v = append(v, a[round]-b[round])
		}
	}
	return v
}
