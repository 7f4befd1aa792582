package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// A result is what is kept of a run.
type result struct {
	Time     string            `json:"time"`
	Machine  string            `json:"machine"`
	Versions map[string]string `json:"versions"`
	Options  options           `json:"options"`
	Samples  []sample          `json:"samples"`
}

func (r result) write(name string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "perf: raw figures in", name)
	return os.WriteFile(name, append(b, '\n'), 0o644)
}

// table writes the medians of a run and their ratios, as Markdown.
func table(w io.Writer, r result) {
	names := columns(r.Options.Proxies)
	fmt.Fprintf(w, "\n%s; %s; %d rounds of %g s; medians, and medians of the rounds' ratios.", r.Machine, strings.Join(sortedValues(r.Versions), "; "), r.Options.Rounds, r.Options.Seconds)
	if p := waits(r.Samples); p > 0.05 {
		fmt.Fprintf(w, " The machine was busy with other things: with a core of their own the proxies had to wait for it %.0f %% of the time.", 100*p)
	}
	fmt.Fprintln(w)
	var rows bytes.Buffer
	for _, cores := range r.Options.Cores {
		for _, wk := range works {
			for _, l := range wk.lines {
				if wk.memory {
					wk.title = fmt.Sprintf("%d open streams, an event a second", r.Options.Streams)
				}
				row(&rows, r.Samples, cores, wk, l, names)
			}
		}
	}
	if rows.Len() == 0 {
		return
	}
	fmt.Fprintf(w, "\n| cores | work | | %s | sluice ÷ haproxy | sluice ÷ floor | bar |\n|---|---|---|%s\n%s",
		strings.Join(names, " | "), strings.Repeat("---:|", len(names)+2)+"---|", &rows)
}

func columns(proxies []string) []string {
	var names []string
	for _, p := range proxies {
		name, _, _ := strings.Cut(p, "=")
		names = append(names, name)
	}
	return names
}

func row(w io.Writer, all []sample, cores int, wk work, l line, names []string) {
	measured := false
	var cells []string
	for _, name := range names {
		v := figures(all, cores, wk.name, name, l)
		if len(v) == 0 {
			cells = append(cells, "")
			continue
		}
		measured = true
		cells = append(cells, fmt.Sprintf("%.*f", l.digits, median(slices.Collect(maps.Values(v)))))
	}
	if !measured {
		return
	}
	for _, other := range []string{"haproxy", "floor"} {
		cells = append(cells, ratio(figures(all, cores, wk.name, "sluice", l), figures(all, cores, wk.name, other, l)))
	}
	fmt.Fprintf(w, "| %d | %s | %s | %s | %s |\n", cores, wk.title, l.what, strings.Join(cells, " | "), l.bar)
}

// ratio is the median of the rounds' ratios, of those that have one: what else
// the machine does changes from round to round, and less within one.
func ratio(a, b map[int]float64) string {
	var v []float64
	for round := range a {
		if a[round] > 0 && b[round] > 0 {
			v = append(v, a[round]/b[round])
		}
	}
	if len(v) == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", median(v))
}

// figures returns what was measured for a line, by round.
func figures(all []sample, cores int, work, proxy string, l line) map[int]float64 {
	v := map[int]float64{}
	for _, s := range all {
		f, ok := s.Figures[l.figure]
		if !ok || s.Cores != cores || s.Work != work || s.Proxy != proxy {
			continue
		}
		if l.added {
			f -= alone(all, s, l.figure)
		}
		v[s.Round] = f
	}
	return v
}

// alone returns the figure of the round of s without a proxy.
func alone(all []sample, s sample, figure string) float64 {
	for _, d := range all {
		if d.Proxy == direct && d.Cores == s.Cores && d.Work == s.Work && d.Round == s.Round {
			return d.Figures[figure]
		}
	}
	return 0
}

// waits returns for what part of the time a proxy had to wait for the core
// that is its own if nothing else runs; the median of all measurements. Only
// those with a single thread count: others' threads wait for each other.
func waits(all []sample) float64 {
	var v []float64
	for _, s := range all {
		if w, ok := s.Figures["waited"]; ok && s.Cores == 1 && slices.Contains([]string{"haproxy", "nginx", "floor"}, s.Proxy) {
			v = append(v, w)
		}
	}
	if len(v) == 0 {
		return 0
	}
	return median(v)
}

// median returns the middle value; of an even number the mean of the two.
func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	m := len(s) / 2
	if len(s)%2 == 1 {
		return s[m]
	}
	return (s[m-1] + s[m]) / 2
}

func sortedValues(m map[string]string) []string {
	var all []string
	for k, v := range m {
		all = append(all, k+" "+strings.TrimPrefix(v, k+" "))
	}
	slices.Sort(all)
	return all
}
