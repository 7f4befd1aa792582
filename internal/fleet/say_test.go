package fleet

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"sluice/internal/kit/bubble"
)

// A pipe is a log that somebody reads slowly: each line waits for it to be free.
type pipe struct {
	slog.Handler // nil: only what is below is asked for
	free         chan struct{}
	lines        []string // written by the Registry's goroutine
}

func (p *pipe) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

func (p *pipe) Handle(_ context.Context, r slog.Record) error {
	<-p.free
	p.lines = append(p.lines, r.Message)
	return nil
}

func TestAStuckLogHoldsNobodyUp(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		p := &pipe{free: make(chan struct{})}
		r.opt.Log = slog.New(p)
		r.start()
		w := r.add("a", Spec{})
		after(time.Second)
		r.want("before its line is written", w, Ready)
		for i := range maxLines + 10 { // none of these may wait, nor be kept without a bound
			v := r.add(fmt.Sprintf("b%d", i), Spec{})
			if err := r.Remove(v.ID()); err != nil {
				t.Fatal(err)
			}
		}
		close(p.free)
		after(time.Second)
		if len(p.lines) != maxLines+2 || p.lines[0] != "worker status changed" || !strings.Contains(p.lines[maxLines+1], "left out") {
			t.Errorf("%d lines, the last %q; want %d and word of those left out", len(p.lines), p.lines[len(p.lines)-1], maxLines+2)
		}
	})
}

// A worker that never tells what it serves is asked for ever; the log says so once.
func TestASilentWorkerFillsNoLog(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		p := &pipe{free: make(chan struct{})}
		close(p.free)
		r.opt.Log = slog.New(p)
		r.start()
		r.es.at("a").answer("/v1/models", "500")
		w := r.add("a", Spec{})
		after(10 * time.Minute)
		r.want("all the time", w, Pending)
		if got := strings.Join(p.lines, ", "); got != "worker did not tell what it serves" {
			t.Errorf("lines: %s; want one", got)
		}
	})
}
