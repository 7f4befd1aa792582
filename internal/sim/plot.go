package sim

import (
	"cmp"
	"fmt"
	"html"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Plot says in what form WritePlot writes.
type Plot int

// A page has the drawing and the table.
const (
	SVG Plot = iota
	HTML
)

// WritePlot draws r. What it writes needs nothing else, and follows the
// reader's light or dark theme.
func (r *Result) WritePlot(out io.Writer, p Plot) error {
	var b strings.Builder
	d := &drawing{r: r, order: r.byMean()}
	for i := range r.Rows {
		d.names = append(d.names, printable(r.Rows[i].Policy))
	}
	switch p {
	case HTML:
		d.page(&b)
	default:
		b.WriteString(d.svg(true))
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// byMean returns the rows' numbers, the quickest first.
func (r *Result) byMean() []int {
	order := make([]int, len(r.Rows))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		x, y := r.Rows[a].TTFTMean, r.Rows[b].TTFTMean
		if !x.known() || !y.known() { // NaN is less than all; who has none is last
			x, y = y, x
		}
		return cmp.Compare(x, y)
	})
	return order
}

// A drawing is a Result on a plane of pixels.
type drawing struct {
	r     *Result
	order []int
	names []string // of the rows
	b     strings.Builder
	low   float64 // of the time axis, in seconds
	high  float64
}

// Where things are.
const (
	width     = 980
	margin    = 24
	axisLeft  = 200 // of the time axis; the policies' names are left of it
	axisRight = 690
	curvesTop = 96
	curvesH   = 250
	rowH      = 26
	hitLeft   = 730
	hitRight  = 850
	lastCol   = width - margin
)

// colours are told apart by most people, on light and on dark ground.
var colours = [...]string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7f6fd0", "#8c8c8c"}

// dashes tell apart those that share a colour.
var dashes = [...]string{"", "7 4", "2 4", "10 4 2 4"}

func stroke(i int) string {
	s := fmt.Sprintf(`stroke="%s"`, colours[i%len(colours)])
	if d := dashes[i/len(colours)%len(dashes)]; d != "" {
		s += fmt.Sprintf(` stroke-dasharray="%s"`, d)
	}
	return s
}

const style = `.bg{fill:#fff}.t{fill:#1b1f24}.d{fill:#59636e}.g{stroke:#d8dee4}.n{fill:#eaeef2}
text{font:13px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
.h{font-size:17px;font-weight:600}.s{font-size:12px}.b{font-weight:600}.e{text-anchor:end}.m{text-anchor:middle}
@media(prefers-color-scheme:dark){.bg{fill:#0d1117}.t{fill:#e6edf3}.d{fill:#9198a1}.g{stroke:#30363d}.n{fill:#21262d}}
`

// svg returns the drawing; alone, with a head of its own.
func (d *drawing) svg(alone bool) string {
	d.scale()
	rows := curvesTop + curvesH + 74
	height := rows + len(d.order)*rowH + 44
	fmt.Fprintf(&d.b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="Time to the first token by policy">`+"\n<style>%s</style>\n", width, height, width, height, style)
	fmt.Fprintf(&d.b, `<rect class="bg" width="%d" height="%d"/>`+"\n", width, height)
	if alone {
		d.text(margin, 34, "t h", "Time to the first token")
		about := d.r.about()
		d.text(margin, 54, "d s", about[0][1])
		d.text(margin, 71, "d s", about[1][1]+"; speed "+about[2][1])
	} else {
		d.text(margin, 34, "t h", "Time to the first token")
	}
	d.curves()
	d.ranges(float64(rows))
	d.b.WriteString("</svg>\n")
	return d.b.String()
}

func (d *drawing) text(x, y float64, class, s string) {
	fmt.Fprintf(&d.b, `<text x="%s" y="%s" class="%s">%s</text>`+"\n", px(x), px(y), class, html.EscapeString(s))
}

func (d *drawing) line(x1, y1, x2, y2 float64, rest string) {
	fmt.Fprintf(&d.b, `<line x1="%s" y1="%s" x2="%s" y2="%s" %s/>`+"\n", px(x1), px(y1), px(x2), px(y2), rest)
}

func px(v float64) string { return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) }

// scale finds the ends of the time axis, which is logarithmic.
func (d *drawing) scale() {
	d.low, d.high = math.Inf(1), 0
	for i := range d.r.Rows {
		c := d.r.Rows[i].curve
		for _, p := range []float64{.01, .999} {
			if v := float64(at(c, p)); v > 0 {
				d.low, d.high = min(d.low, v), max(d.high, v)
			}
		}
		if v := d.r.Rows[i].TTFTP99; v.known() {
			d.high = max(d.high, float64(v))
		}
	}
	if d.high == 0 {
		d.low, d.high = .1, 1
	}
	d.low, d.high = max(d.low*.9, 1e-3), d.high*1.15
	if d.high < d.low*10 {
		d.high = d.low * 10
	}
}

// x is where a time is.
func (d *drawing) x(seconds float64) float64 {
	f := math.Log(max(seconds, d.low)/d.low) / math.Log(d.high/d.low)
	return axisLeft + min(1, f)*(axisRight-axisLeft)
}

// ticks draws the time axis from y1 to y2, and what the ticks are below y2.
func (d *drawing) ticks(y1, y2 float64) {
	decades := math.Log10(d.high / d.low)
	for e := -3; e <= 9; e++ {
		for _, m := range []float64{1, 2, 5} {
			v := m * math.Pow(10, float64(e))
			if v < d.low || v > d.high {
				continue
			}
			d.line(d.x(v), y1, d.x(v), y2, `class="g"`)
			if m == 1 || decades < 3.5 {
				d.text(d.x(v), y2+17, "d s m", duration(v))
			}
		}
	}
}

// duration writes seconds for an axis.
func duration(v float64) string {
	if v < 1 {
		return strconv.FormatFloat(math.Round(v*1e6)/1e3, 'g', 4, 64) + " ms"
	}
	return strconv.FormatFloat(v, 'g', 6, 64) + " s"
}

// curves draws what share of the requests had its first token by when.
func (d *drawing) curves() {
	top, bottom := float64(curvesTop), float64(curvesTop+curvesH)
	d.ticks(top, bottom)
	for _, p := range []float64{0, .25, .5, .75, .9, 1} {
		y := bottom - p*curvesH
		d.line(axisLeft, y, axisRight, y, `class="g"`)
		d.text(axisLeft-8, y+4, "d s e", strconv.FormatFloat(100*p, 'f', 0, 64)+" %")
	}
	d.text(axisLeft-60, top+4, "d s e", "of requests")
	for n := len(d.order) - 1; n >= 0; n-- { // the best on top
		c := d.r.Rows[d.order[n]].curve
		var pts strings.Builder
		for i, v := range c {
			fmt.Fprintf(&pts, "%s,%s ", px(d.x(v)), px(bottom-float64(i)/curvePoints*curvesH))
		}
		fmt.Fprintf(&d.b, `<polyline fill="none" stroke-width="2" stroke-linejoin="round" %s points="%s"/>`+"\n", stroke(n), strings.TrimSpace(pts.String()))
	}
	for n, i := range d.order {
		y := top + 12 + float64(n)*20
		if n == maxKeys {
			d.text(hitLeft, y, "d s", fmt.Sprintf("and %d more, below", len(d.order)-n))
			break
		}
		d.line(hitLeft-16, y-4, hitLeft+8, y-4, `stroke-width="3" `+stroke(n))
		d.text(hitLeft+16, y, "t", short(d.names[i], 30))
	}
}

const maxKeys = 12

// ranges draws a line for each policy: its times, hit ratio and imbalance.
func (d *drawing) ranges(top float64) {
	bottom := top + float64(len(d.order)*rowH)
	d.text(axisLeft, top-12, "d s", "first token: p50 to p99, with ◆ mean and | p90")
	d.text(hitLeft, top-12, "d s", "cache hits")
	head := "imbalance"
	if d.r.SLO > 0 {
		head = "req/s/worker"
	}
	d.text(lastCol, top-12, "d s e", head)
	d.ticks(top, bottom)
	for n, i := range d.order {
		w := &d.r.Rows[i]
		y := top + float64(n*rowH) + rowH/2
		d.text(axisLeft-14, y+4, "t e", short(d.names[i], 26))
		c := colours[n%len(colours)]
		if w.TTFTMean.known() {
			d.times(n, y, w)
		}
		hit := 0.0
		if w.Hit.known() {
			hit = float64(w.Hit)
		}
		fmt.Fprintf(&d.b, `<rect x="%d" y="%s" width="%d" height="14" class="n"/><rect x="%d" y="%s" width="%s" height="14" fill="%s"/>`+"\n",
			hitLeft, px(y-7), hitRight-hitLeft, hitLeft, px(y-7), px(hit*(hitRight-hitLeft)), c)
		d.text(hitRight+52, y+4, "t s e", shown(w.Hit, percent))
		last := shown(w.Imbalance, twoPlaces)
		if w.Capacity != nil {
			last = threePlaces(Figure(w.Capacity.Rate))
		}
		d.text(lastCol, y+4, "t s e", last)
	}
}

// times draws at y when first tokens came under the n-th policy.
func (d *drawing) times(n int, y float64, w *Row) {
	c := colours[n%len(colours)]
	mean, p50, p90, p99 := d.x(float64(w.TTFTMean)), d.x(float64(w.TTFTP50)), d.x(float64(w.TTFTP90)), d.x(float64(w.TTFTP99))
	d.line(p50, y, p99, y, `stroke-width="4" stroke-linecap="round" `+stroke(n))
	d.line(p90, y-8, p90, y+8, `stroke-width="2.5" stroke="`+c+`"`)
	fmt.Fprintf(&d.b, `<path d="M%s %s l7 7 -7 7 -7 -7z" fill="%s" class="k"><title>%s: mean %s s, p50 %s, p90 %s, p99 %s</title></path>`+"\n",
		px(mean), px(y-7), c, html.EscapeString(printable(w.Policy)), figures(w.TTFTMean), figures(w.TTFTP50), figures(w.TTFTP90), figures(w.TTFTP99))
}

// short cuts s to n columns.
func short(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

// page writes the drawing and the table as a page.
func (d *drawing) page(b *strings.Builder) {
	b.WriteString(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Replay</title><style>
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;max-width:1080px;margin:2em auto;padding:0 1em;background:#fff;color:#1b1f24}
svg{max-width:100%;height:auto}
dl{display:grid;grid-template-columns:max-content 1fr;gap:0 1em;margin:0 0 1.5em}dt{color:#59636e}dd{margin:0}
.w{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;white-space:nowrap}
td,th{padding:.25em .7em;text-align:right;border-bottom:1px solid #d8dee4}td:first-child,th:first-child{text-align:left}
th{font-weight:500;color:#59636e}td.best{font-weight:700}
@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}td,th{border-color:#30363d}dt,th{color:#9198a1}}
</style></head><body>
<h1>Replay</h1>
<dl>
`)
	for _, l := range d.r.about() {
		fmt.Fprintf(b, "<dt>%s</dt><dd>%s</dd>\n", html.EscapeString(l[0]), html.EscapeString(l[1]))
	}
	b.WriteString("</dl>\n" + d.svg(false) + "<div class=\"w\"><table><thead>\n<tr><th></th>")
	cs := d.r.columns()
	groups(cs, func(from, to int) {
		fmt.Fprintf(b, `<th colspan="%d">%s</th>`, to-from, html.EscapeString(cs[from].head))
	})
	b.WriteString("</tr>\n<tr><th>policy</th>")
	for _, c := range cs {
		fmt.Fprintf(b, "<th>%s</th>", html.EscapeString(c.name))
	}
	b.WriteString("</tr></thead><tbody>\n")
	lines, best := d.r.cells(cs)
	for _, i := range d.order {
		b.WriteString("<tr>")
		for k, cell := range lines[i] {
			class := ""
			if best[i][k] {
				class = ` class="best"`
			}
			fmt.Fprintf(b, "<td%s>%s</td>", class, html.EscapeString(cell))
		}
		b.WriteString("</tr>\n")
	}
	b.WriteString("</tbody></table></div>\n")
	for _, n := range d.r.notes() {
		fmt.Fprintf(b, "<p>%s</p>\n", html.EscapeString(n))
	}
	b.WriteString("</body></html>\n")
}
