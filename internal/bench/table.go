package bench

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// WriteTable writes r for people. With color, w is a terminal: figures are set
// off and distributions are drawn. Without, it is plain text.
func (r *Result) WriteTable(w io.Writer, color bool) error {
	t := &table{color: color}
	t.head(r)
	t.counts(r)
	t.times(r)
	if color {
		t.drawn(r)
	}
	t.errors(r)
	t.byName("status", r.Statuses)
	t.byName("worker", r.Workers)
	t.uses(r)
	t.remarks(r)
	_, err := io.WriteString(w, t.b.String())
	return err
}

const labelWidth = 16

type table struct {
	b     strings.Builder
	color bool
}

func (t *table) paint(code, s string) string {
	if !t.color || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (t *table) bold(s string) string { return t.paint("1", s) }
func (t *table) dim(s string) string  { return t.paint("2", s) }
func (t *table) red(s string) string  { return t.paint("31", s) }

// line writes a label and what stands behind it.
func (t *table) line(label, rest string) {
	fmt.Fprintf(&t.b, "%s%s\n", t.dim(left(label, labelWidth)), strings.TrimRight(rest, " "))
}

func (t *table) head(r *Result) {
	c := r.Config
	kind := c.words
	if c.Stream {
		kind += ", streamed"
	}
	prompt := fmt.Sprintf("%s tokens in, up to %s out", grouped(int64(c.PromptTokens)), grouped(int64(c.OutputTokens)))
	if c.SharedPrefix > 0 {
		prompt += fmt.Sprintf("; %s shared, %s prefixes", grouped(int64(c.SharedPrefix)), grouped(int64(c.Prefixes)))
	}
	if c.Trace != "" {
		prompt = clean(c.Trace)
	}
	if c.Sessions != "" {
		prompt = fmt.Sprintf("%s; a user takes %s, a tool %s", clean(c.Sessions), span(1000*c.UserGapS), span(1000*c.ToolGapS))
	}
	prompt += fmt.Sprintf("; seed %d", c.Seed)
	when := seconds(sec(r.MeasuredS)) + " measured"
	if c.WarmupS > 0 {
		when = seconds(sec(c.WarmupS)) + " warm-up, " + when
	}
	if r.DrainS >= 0.1 {
		when += ", " + seconds(sec(r.DrainS)) + " for the last answers"
	}
	t.line("target", t.bold(clean(c.URL))+"  "+clean(c.Model))
	t.line("load", kind)
	t.line("prompts", prompt)
	t.line("time", when)
	t.b.WriteByte('\n')
}

// counts writes what there was how much of, and per second.
func (t *table) counts(r *Result) {
	q := r.Requests
	part := func(n int64, what string, paint func(string) string) string {
		s := grouped(n) + " " + what
		if n > 0 {
			s = paint(s)
		}
		return "   " + s
	}
	rest := left(grouped(q.OK)+" ok", 18) + t.bold(right(rate(r.RequestsPerS)+" /s", 14)) + part(q.Failed, "failed", t.red)
	if q.Shed > 0 {
		rest += part(q.Shed, "shed", t.red)
	}
	if q.Unfinished > 0 {
		rest += part(q.Unfinished, "unfinished", t.dim)
	}
	t.line("requests", rest)
	if s := r.Sessions; s != nil {
		t.line("sessions", left(grouped(s.Begun)+" begun", 18)+right(grouped(s.Whole)+" whole", 14)+part(s.Shed, "shed", t.red))
	}
	if n := r.Tokens.Output; n > 0 {
		t.line("tokens out", left(grouped(n), 18)+t.bold(right(rate(r.OutputTokensPerS)+" /s", 14)))
	}
	if n := r.Tokens.Input; n > 0 {
		rest := left(grouped(n), 18) + t.bold(right(rate(r.InputTokensPerS)+" /s", 14))
		if r.Tokens.Cached > 0 {
			rest += fmt.Sprintf("   %.1f %% cached", 100*per(float64(r.Tokens.Cached), float64(n)))
		}
		t.line("tokens in", rest)
	}
	t.line("bodies", size(r.BytesSent)+" sent, "+size(r.BytesReceived)+" received")
}

// rows are the distributions in the order in which they are shown.
func (r *Result) rows() []struct {
	name string
	d    Distribution
} {
	return []struct {
		name string
		d    Distribution
	}{
		{"first token", r.TTFT}, {"token gap", r.Gap}, {"time per token", r.TPOT}, {"whole answer", r.Latency}, {"sent late by", r.SendLag},
	}
}

func (t *table) times(r *Result) {
	t.b.WriteByte('\n')
	head := strings.Builder{}
	for _, name := range []string{"mean", "p50", "p90", "p95", "p99", "p99.9", "max"} {
		head.WriteString(right(name, 10))
	}
	fmt.Fprintln(&t.b, strings.Repeat(" ", labelWidth)+t.dim(head.String()))
	for _, row := range r.rows() {
		d := row.d
		if d.Count == 0 || row.name == "sent late by" && r.Config.Mode == "closed" {
			continue
		}
		rest := strings.Builder{}
		for i, v := range []float64{d.Mean, d.P50, d.P90, d.P95, d.P99, d.P999, d.Max} {
			s := right(span(v), 10)
			if i == 1 || i == 4 {
				s = t.bold(s)
			}
			rest.WriteString(s)
		}
		t.line(row.name, rest.String())
	}
}

var levels = []rune("▁▂▃▄▅▆▇█")

// drawn draws the distributions that matter most, each as a row of columns
// between its least and its greatest time, on a logarithmic scale.
func (t *table) drawn(r *Result) {
	t.b.WriteByte('\n')
	for _, row := range r.rows() {
		if row.d.Count < 2 || row.name != "first token" && row.name != "whole answer" {
			continue
		}
		t.line(row.name, t.dim(right(span(ms(row.d.low)), 9))+" "+t.paint("36", sparkline(row.d.bars))+" "+t.dim(span(ms(row.d.high))))
	}
}

// sparkline draws counts. Whatever is not zero is seen: one slow answer among
// thousands is what one looks for.
func sparkline(counts []int64) string {
	most := slices.Max(counts)
	b := strings.Builder{}
	for _, n := range counts {
		if n == 0 {
			b.WriteByte(' ')
			continue
		}
		b.WriteRune(levels[int(float64(n)/float64(most)*float64(len(levels)-1)+.5)])
	}
	return b.String()
}

func (t *table) errors(r *Result) {
	if len(r.Errors) == 0 {
		return
	}
	t.b.WriteByte('\n')
	kinds := slices.SortedFunc(maps.Keys(r.Errors), func(a, b string) int {
		return cmp.Or(cmp.Compare(r.Errors[b].Count, r.Errors[a].Count), cmp.Compare(a, b))
	})
	for _, kind := range kinds {
		e := r.Errors[kind]
		t.line(kind, t.red(right(grouped(e.Count), 10))+"  "+t.dim(short(clean(e.Example), 90)))
	}
}

const mostNames = 16 // lines of one count by name

// byName writes a count by name as bars, if there is more to see than one name.
func (t *table) byName(what string, counts map[string]int64) {
	if len(counts) == 0 || what == "status" && len(counts) == 1 && counts["200"] > 0 {
		return
	}
	t.b.WriteByte('\n')
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
	most, all := counts[names[0]], int64(0)
	for _, n := range counts {
		all += n
	}
	for i, name := range names {
		label := what
		if i > 0 {
			label = ""
		}
		if i == mostNames {
			t.line(label, t.dim(fmt.Sprintf("… and %d more", len(names)-i)))
			break
		}
		n := counts[name]
		rest := right(grouped(n), 10) + right(fmt.Sprintf("%.1f %%", 100*per(float64(n), float64(all))), 9) + "  "
		if t.color {
			rest += t.paint("36", left(strings.Repeat("█", int(math.Ceil(16*per(float64(n), float64(most))))), 17))
		}
		t.line(label, rest+short(clean(name), 60))
	}
}

func (t *table) uses(r *Result) {
	t.b.WriteByte('\n')
	if p := r.Process; p != nil {
		t.line(fmt.Sprintf("process %d", p.PID), fmt.Sprintf("%s CPU a request, %.2f cores; memory %s, %s at most, %s in the end",
			span(p.CPUPerRequestUS/1000), p.CPUCores, size(p.RSSStart), size(p.RSSMax), size(p.RSSEnd)))
		if p.Error != "" {
			t.line("", t.red(clean(p.Error)))
		}
	}
	if c := r.Client; c.CPUSeconds > 0 {
		t.line("this client", fmt.Sprintf("%s CPU a request, %.2f cores", span(c.CPUPerRequestUS/1000), c.CPUCores))
	}
}

// remarks says what somebody who reads the figures should know first.
func (t *table) remarks(r *Result) {
	say := func(format string, args ...any) { t.line("note", t.paint("33", fmt.Sprintf(format, args...))) }
	if r.Interrupted {
		say("interrupted; these are the figures until then")
	}
	if r.StoppedBy == stoppedByMaxErrors {
		say("ended early: %s requests failed", grouped(r.Requests.Failed+r.Requests.WarmupFailed))
	}
	if r.Requests.Shed > 0 {
		say("shed are requests that were due while %s ran already: the server does not keep up with this rate", grouped(int64(r.Config.MaxInFlight)))
	}
	if r.Config.Mode != "closed" && r.SendLag.P99 > 10 {
		say("requests were sent late (p99 %s): this client, or its machine, is too busy for this rate, and that delay is in the figures", span(r.SendLag.P99))
	}
	if q := r.Requests; q.Failed > 0 && q.OK > 0 {
		say("times are those of the %s answers that came well", grouped(q.OK))
	}
}

// left and right pad s to n columns.
func left(s string, n int) string {
	return s + strings.Repeat(" ", max(1, n-utf8.RuneCountInString(s)))
}
func right(s string, n int) string {
	return strings.Repeat(" ", max(1, n-utf8.RuneCountInString(s))) + s
}

// short cuts s to n columns.
func short(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}

// clean makes a text that a server wrote safe for a terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}

// span writes a time in the unit that suits it, with three figures.
func span(millis float64) string {
	switch {
	case millis <= 0:
		return "0 ms"
	case millis < 0.9995:
		return figures(millis*1000) + " µs"
	case millis < 999.5:
		return figures(millis) + " ms"
	default:
		return figures(millis/1000) + " s"
	}
}

func figures(v float64) string {
	switch {
	case v < 9.995:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case v < 99.95:
		return strconv.FormatFloat(v, 'f', 1, 64)
	default:
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
}

func rate(v float64) string {
	if v < 99.95 {
		return figures(v)
	}
	return grouped(int64(v + .5))
}

func sec(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func seconds(d time.Duration) string {
	if d >= 10*time.Minute {
		return d.Round(time.Second).String()
	}
	return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
}

func trimFloat(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// grouped writes n with a comma before every third digit.
func grouped(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func size(n int64) string {
	v, units := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for v >= 999.5 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	if i == 0 {
		return strconv.FormatInt(n, 10) + " B"
	}
	return figures(v) + " " + units[i]
}
