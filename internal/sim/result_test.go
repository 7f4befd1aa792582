package sim

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"
)

// drowned is a fleet that is given far more than it can do.
func drowned(t *testing.T, rate float64) *Result {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Workers, cfg.PrefillRate, cfg.Copies = 2, rate, 1
	r := mustReplay(t, cfg, sample(t), contenders("random", "round_robin"))
	for _, w := range r.Rows {
		if w.Unfinished == 0 || w.Unfinished == w.Requests && rate > 1 {
			t.Fatalf("%d of %d requests are unfinished: no case of this test", w.Unfinished, w.Requests)
		}
	}
	return r
}

// TestADrownedFleetDoesNotLookGood: an answer that did not come counts, and no
// answer is not before its first token.
func TestADrownedFleetDoesNotLookGood(t *testing.T) {
	for _, w := range drowned(t, 2000).Rows {
		if !(w.E2EP50 >= w.TTFTP50 && w.E2EP99 >= w.TTFTP99 && w.TPOTP50 > 0) {
			t.Errorf("%+v", w)
		}
	}
}

func TestWhatNothingIsKnownOfIsNoZero(t *testing.T) {
	r := drowned(t, 1)
	w := &r.Rows[0]
	if !(w.E2EP50 >= w.TTFTP50 && w.TTFTP50 > 60) || w.TPOTP50.known() || w.TPOTP99.known() || w.Hit.known() || !(w.Busy > 0.5) {
		t.Errorf("%+v", w)
	}
	b, err := json.Marshal(r)
	if err != nil || !strings.Contains(string(b), `"tpot_p50_s":null`) {
		t.Errorf("%v: %s", err, b)
	}
	var table, page strings.Builder
	if err := r.WriteTable(&table, true); err != nil {
		t.Fatal(err)
	}
	if err := r.WritePlot(&page, HTML); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{table.String(), page.String()} {
		if strings.Contains(s, "NaN") {
			t.Errorf("what is not known is written:\n%s", s)
		}
	}
	if !strings.Contains(table.String(), " -") || strings.Contains(table.String(), "\x1b[1;32m"+"          -") {
		t.Errorf("what is not known has no dash, or is set off as the best:\n%q", table.String())
	}
	r.Rows[0].TTFTMean, r.Rows[0].TTFTP50, r.Rows[0].TTFTP90, r.Rows[0].TTFTP99, r.Rows[0].curve = none, none, none, none, nil
	var svg strings.Builder
	if err := r.WritePlot(&svg, SVG); err != nil || strings.Contains(svg.String(), "NaN") {
		t.Errorf("%v: %s", err, svg.String())
	}
	if order := r.byMean(); order[0] != 1 {
		t.Errorf("who has no time is drawn as the quickest: %v", order)
	}
}

// TestAnAnswerThatDidNotEndHasAPace: steps of 12 ms and what a sequence and its
// context add.
func TestAnAnswerThatDidNotEndHasAPace(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Workers, cfg.Copies, cfg.ContextTime = 1, 1, 0
	w := mustReplay(t, cfg, trace(t, `{"timestamp":0,"input_length":100,"output_length":900000}`), contenders("random")).Rows[0]
	want := (cfg.StepTime + cfg.SequenceTime).Seconds()
	if near := func(f Figure, want float64) bool { return math.Abs(float64(f)-want) < 1e-9 }; w.Unfinished != 1 || !near(w.TPOTP50, want) || !near(w.E2EP50, leastSlack.Seconds()) || !(w.TTFTP50 < 1) {
		t.Errorf("%+v; want %v s for each token", w, want)
	}
}

func TestTheBestIsAmongWhatIsKnown(t *testing.T) {
	r := &Result{Rows: []Row{{TTFTMean: none, TPOTP50: none}, {TTFTMean: 2, TPOTP50: none}, {TTFTMean: 3, TPOTP50: none}}}
	lines, best := r.cells(r.columns())
	if lines[0][2] != "-" || best[0][2] || !best[1][2] || best[2][2] {
		t.Errorf("%v of %v", best, lines)
	}
	for i := range best {
		if best[i][8] {
			t.Error("one of those that are not known is the best")
		}
	}
}

// TestAStepOfYearsDoesNotComeAtOnce: its length is no number that overflows.
func TestAStepOfYearsDoesNotComeAtOnce(t *testing.T) {
	c := roundConfig()
	c.PrefillRate, c.Chunk, c.DoubleContext, c.KVTokens = 1, 1<<30, 1, 1<<24
	e := newEngine(c, 10)
	e.waiting = append(e.waiting, &run{input: 1 << 22, output: 5, blocks: prompt(0, 1<<22/10+1)})
	if !e.step(maxTime) || e.end() <= maxTime+maxTime/2 {
		t.Errorf("a step of %v ends at %v", e.each, e.end())
	}
	c.ContextTime, c.StepTime = time.Hour, time.Microsecond
	e = newEngine(c, 10)
	e.writing, e.context = []*run{{input: 1, output: 1000, answered: 1}}, math.MaxInt32
	if !e.step(maxTime) || e.end() <= maxTime+maxTime/2 {
		t.Errorf("a step of %v ends at %v", e.each, e.end())
	}
}

func TestSillyRatesAreRefused(t *testing.T) {
	for _, rate := range []float64{1e-9, 0.5, 2e9, math.NaN(), math.Inf(1)} {
		c := DefaultConfig()
		if c.PrefillRate = rate; c.Validate() == nil || !strings.Contains(c.Validate().Error(), "is not between 1 and 1e+09 tokens a second") {
			t.Errorf("%v: %v", rate, c.Validate())
		}
	}
}
