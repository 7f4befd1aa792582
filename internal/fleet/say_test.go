package fleet

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
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
	synctest.Test(t, func(t *testing.T) {
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
