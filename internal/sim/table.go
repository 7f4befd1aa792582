package sim

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A column is one figure of every Row.
type column struct {
	head  string // over it; equal ones in a row are written once
	name  string
	value func(*Row) Figure
	show  func(Figure) string
	most  bool // the greatest is the best, not the least
	plain bool // there is no best
}

// columns returns what a table has beside the policy.
func (r *Result) columns() []column {
	const first, whole, token, even = "first token, s", "whole answer, s", "per token, ms", "imbalance"
	thousand := func(f func(*Row) Figure) func(*Row) Figure { return func(w *Row) Figure { return 1000 * f(w) } }
	cs := []column{
		{name: "hit", value: func(w *Row) Figure { return w.Hit }, show: percent, most: true},
		{head: first, name: "mean", value: func(w *Row) Figure { return w.TTFTMean }},
		{head: first, name: "p50", value: func(w *Row) Figure { return w.TTFTP50 }},
		{head: first, name: "p90", value: func(w *Row) Figure { return w.TTFTP90 }},
		{head: first, name: "p99", value: func(w *Row) Figure { return w.TTFTP99 }},
		{head: whole, name: "p50", value: func(w *Row) Figure { return w.E2EP50 }},
		{head: whole, name: "p99", value: func(w *Row) Figure { return w.E2EP99 }},
		{head: token, name: "p50", value: thousand(func(w *Row) Figure { return w.TPOTP50 })},
		{head: token, name: "p99", value: thousand(func(w *Row) Figure { return w.TPOTP99 })},
		{head: even, name: "prefill", value: func(w *Row) Figure { return w.Imbalance }, show: twoPlaces},
		{head: even, name: "requests", value: func(w *Row) Figure { return w.ImbReqs }, show: twoPlaces, plain: true},
		{name: "busy", value: func(w *Row) Figure { return w.Busy }, show: percent, plain: true},
	}
	if r.SLO > 0 {
		head := "p90 ≤ " + strconv.FormatFloat(r.SLO, 'g', 4, 64) + " s up to"
		cs = append(cs,
			column{head: head, name: "req/s/worker", value: func(w *Row) Figure { return Figure(w.Capacity.Rate) }, show: threePlaces, most: true},
			column{head: head, name: "speed", value: func(w *Row) Figure { return Figure(w.Capacity.Speed) }, show: twoPlaces, plain: true})
	}
	for i := range cs {
		if cs[i].show == nil {
			cs[i].show = figures
		}
	}
	return cs
}

// cells returns the table as text: its names, then a line for each Row, and for
// each of its columns which cells are the best.
func (r *Result) cells(cs []column) (lines [][]string, best [][]bool) {
	for i := range r.Rows {
		line := []string{printable(r.Rows[i].Policy)}
		for _, c := range cs {
			line = append(line, shown(c.value(&r.Rows[i]), c.show))
		}
		lines, best = append(lines, line), append(best, make([]bool, len(line)))
	}
	for k, c := range cs {
		if c.plain || len(r.Rows) < 2 {
			continue
		}
		top := 0
		for i := range r.Rows {
			v, was := c.value(&r.Rows[i]), c.value(&r.Rows[top])
			if c.most && v > was || !c.most && v < was || !was.known() {
				top = i
			}
		}
		known := c.value(&r.Rows[top]).known()
		for i := range lines { // what reads the same is as good
			best[i][k+1] = known && lines[i][k+1] == lines[top][k+1]
		}
	}
	return lines, best
}

// WriteTable writes r for people. With color, out is a terminal: the best of
// each column is set off.
func (r *Result) WriteTable(out io.Writer, color bool) error {
	var b strings.Builder
	bold := func(s string, on bool) string {
		if !color || !on {
			return s
		}
		return "\x1b[1;32m" + s + "\x1b[0m"
	}
	dim := func(s string) string {
		if !color {
			return s
		}
		return "\x1b[2m" + s + "\x1b[0m"
	}
	for _, l := range r.about() {
		fmt.Fprintf(&b, "%s%s\n", dim(pad(l[0], 10)), l[1])
	}
	cs := r.columns()
	lines, best := r.cells(cs)
	widths := make([]int, len(cs)+1)
	widths[0] = len("policy")
	for _, l := range lines {
		widths[0] = max(widths[0], utf8.RuneCountInString(l[0]))
		for k := range cs {
			widths[k+1] = max(widths[k+1], 2+max(utf8.RuneCountInString(l[k+1]), len(cs[k].name)))
		}
	}
	widen(cs, widths)
	b.WriteString("\n" + dim(strings.TrimRight(heads(cs, widths), " ")) + "\n")
	names := pad("policy", widths[0])
	for k, c := range cs {
		names += left(c.name, widths[k+1])
	}
	b.WriteString(dim(names) + "\n")
	for i, l := range lines {
		b.WriteString(pad(l[0], widths[0]))
		for k := range cs {
			b.WriteString(bold(left(l[k+1], widths[k+1]), best[i][k+1]))
		}
		b.WriteByte('\n')
	}
	for _, n := range r.notes() {
		b.WriteString("\n" + dim(pad("note", 10)) + n)
	}
	if len(r.notes()) > 0 {
		b.WriteByte('\n')
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// groups calls f for each row of columns that have the same head.
func groups(cs []column, f func(from, to int)) {
	for k := 0; k < len(cs); {
		from := k
		for k < len(cs) && cs[k].head == cs[from].head {
			k++
		}
		f(from, k)
	}
}

// widen makes room for heads that are longer than their columns are wide.
func widen(cs []column, widths []int) {
	groups(cs, func(from, to int) {
		room := 0
		for k := from; k < to; k++ {
			room += widths[k+1]
		}
		widths[from+1] += max(0, utf8.RuneCountInString(cs[from].head)+2-room)
	})
}

// heads returns the line over the columns' names. A head ends over the last of
// its columns.
func heads(cs []column, widths []int) string {
	line := strings.Repeat(" ", widths[0])
	groups(cs, func(from, to int) {
		width := 0
		for k := from; k < to; k++ {
			width += widths[k+1]
		}
		line += left(cs[from].head, width)
	})
	return line
}

// about says what was replayed.
func (r *Result) about() [][2]string {
	trace := fmt.Sprintf("%s requests in %s s, %s tokens in, %s out", grouped(r.Requests), grouped(int(r.Time+.5)), grouped(int(r.Input+.5)), grouped(int(r.Output+.5)))
	if r.Copies > 1 {
		trace += fmt.Sprintf(", %d copies", r.Copies)
	}
	if r.Trace != "" {
		trace = printable(r.Trace) + ": " + trace
	}
	fleet := fmt.Sprintf("%s workers, %s tokens of KV cache each", grouped(r.Workers), grouped(r.KVTokens))
	if r.Gateways > 1 {
		fleet += fmt.Sprintf(", %d gateways", r.Gateways)
	}
	return [][2]string{{"trace", trace}, {"fleet", fleet}, {"speed", fmt.Sprintf("%v; seed %d", r.Speed, r.Seed)}}
}

// notes says what somebody who reads the figures should know first.
func (r *Result) notes() []string {
	var ns []string
	for i := range r.Rows {
		w, name := &r.Rows[i], printable(r.Rows[i].Policy)
		if w.Refused > 0 {
			ns = append(ns, fmt.Sprintf("%s let nobody serve %s of %s requests", name, grouped(w.Refused), grouped(w.Requests)))
		}
		if w.Unfinished > 0 {
			ns = append(ns, fmt.Sprintf("under %s, %s of %s requests had not ended long after the last one came: the fleet does not keep up, and they count with the time they had taken", name, grouped(w.Unfinished), grouped(w.Requests)))
		}
		if w.Capacity != nil && w.Capacity.Speed == 0 {
			ns = append(ns, fmt.Sprintf("%s has no capacity: p90 was above the bound at every speed that was tried", name))
		}
	}
	return ns
}

// printable makes a name safe for a terminal and for a drawing.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}

// pad fills s up to n columns at its right, left at its left.
func pad(s string, n int) string {
	return s + strings.Repeat(" ", max(0, n-utf8.RuneCountInString(s)))
}
func left(s string, n int) string {
	return strings.Repeat(" ", max(0, n-utf8.RuneCountInString(s))) + s
}

// shown writes v, and a dash if there is none.
func shown(v Figure, show func(Figure) string) string {
	if !v.known() {
		return "-"
	}
	return show(v)
}

func percent(v Figure) string     { return fixed(100*v, 1) + " %" }
func twoPlaces(v Figure) string   { return fixed(v, 2) }
func threePlaces(v Figure) string { return fixed(v, 3) }

func fixed(v Figure, places int) string { return strconv.FormatFloat(float64(v), 'f', places, 64) }

// figures writes v with three figures, none of them finer than a thousandth.
func figures(v Figure) string {
	switch {
	case v < 0.9995:
		return fixed(v, 3)
	case v < 9.995:
		return fixed(v, 2)
	case v < 99.95:
		return fixed(v, 1)
	default:
		return fixed(v, 0)
	}
}

// grouped writes n with a comma before every third digit.
func grouped(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
