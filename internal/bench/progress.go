package bench

import (
	"fmt"
	"io"
	"time"
)

const (
	progressEvery = 200 * time.Millisecond
	eraseLine     = "\r\x1b[K"
)

// showProgress keeps one line of w up to date until end is closed, and then
// blanks it. A terminal that cannot be written to is left alone.
func showProgress(w io.Writer, l *load, end <-chan struct{}) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	var before float64
	last := l.start
	for {
		select {
		case <-end:
			_, _ = io.WriteString(w, eraseLine)
			return
		case now := <-tick.C:
			s := l.rec.glance()
			rate := per(float64(s.ended)-before, now.Sub(last).Seconds())
			before, last = float64(s.ended), now
			if _, err := io.WriteString(w, eraseLine+progressLine(l, s, now, rate)); err != nil {
				<-end
				return
			}
		}
	}
}

// A glance is what the progress line shows of a run.
type glance struct {
	ended, failed, shed int64
	first               time.Duration // p50 of the time to the first token
	streamed            bool          // whether there was one
}

func (r *recorder) glance() glance {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := glance{ended: r.t.ended, failed: r.t.failures, shed: r.t.shed}
	if r.t.ttft.n > 0 {
		g.first, g.streamed = r.t.ttft.at(.5), true
	}
	return g
}

func progressLine(l *load, s glance, now time.Time, rate float64) string {
	elapsed := now.Sub(l.start)
	line := seconds(elapsed)
	switch {
	case !l.until.IsZero():
		line += " of " + seconds(l.until.Sub(l.start))
	case l.cfg.Requests > 0:
		line += fmt.Sprintf("  %s of %s requests", grouped(s.ended), grouped(l.cfg.Requests))
	case l.prompts.rows != nil:
		line += fmt.Sprintf("  %s of %s rows", grouped(s.ended), grouped(int64(len(l.prompts.rows))))
	}
	if now.Before(l.rec.from) {
		line += "  warming up"
	}
	if l.why() != "" {
		return line + fmt.Sprintf("  waiting for %s answers", grouped(l.inFlight.Load()))
	}
	line += fmt.Sprintf("  %s req/s  %s in flight", grouped(int64(rate+.5)), grouped(l.inFlight.Load()))
	if s.failed > 0 {
		line += fmt.Sprintf("  %s errors", grouped(s.failed))
	}
	if s.shed > 0 {
		line += fmt.Sprintf("  %s shed", grouped(s.shed))
	}
	if s.streamed {
		line += "  first token p50 " + span(ms(s.first))
	}
	return line
}
