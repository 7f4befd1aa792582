package app

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"sluice/internal/gate/auth"
	"sluice/internal/infer"
	"sluice/internal/kit/linelog"
	"sluice/internal/kit/logfile"
)

// A recording is the file of --route-log; nil for none.
type recording struct {
	lines *linelog.Log
	file  *logfile.File
	path  string
	log   *slog.Logger

	lost  atomic.Int64  // lines that are missing, and that nobody was told of
	wake  chan struct{} // there are some; holds at most one word
	turns chan error    // the file was moved, and another was begun, or why not
}

// openRecording opens the file, to which lines are appended. Prompts cannot be
// read in it, but it tells who has asked for the same: it is the owner's.
func openRecording(path string, log *slog.Logger) (*recording, error) {
	if path == "" {
		return nil, nil
	}
	r := &recording{path: path, log: log, wake: make(chan struct{}, 1), turns: make(chan error, 16)}
	f, err := logfile.OpenFile(path, 0o600, time.Now, r.turned)
	if err != nil {
		return nil, fmt.Errorf("opening the trace of requests (--route-log): %w", err)
	}
	// No line but those of requests: whoever reads a trace knows no others.
	r.file, r.lines = f, linelog.New(f, linelog.Config{JSON: true, Level: slog.Level(math.MaxInt)})
	r.lines.OnDrop(func(lines int) {
		r.lost.Add(int64(lines))
		select {
		case r.wake <- struct{}{}:
		default: // it is known already
		}
	})
	return r, nil
}

// turned hears that the file was moved. What there is to say of it waits, as whoever
// reads the log may be slow.
func (r *recording) turned(err error) {
	select {
	case r.turns <- err:
	default: // the log has been stuck for long
	}
}

// trace returns where lines go, nil for nowhere.
func (r *recording) trace() *linelog.Log {
	if r == nil {
		return nil
	}
	return r.lines
}

// run writes lines until ctx is done, and those that wait then.
func (r *recording) run(ctx context.Context) error {
	if r == nil {
		<-ctx.Done()
		return nil
	}
	var wg sync.WaitGroup
	wg.Go(func() { r.speak(ctx) })
	err := r.lines.Run(ctx)
	wg.Wait()
	r.tell()
	if errClose := r.close(); err == nil {
		err = errClose
	}
	return err
}

// tellEvery is how often the log says at most that lines are missing in the trace.
const tellEvery = time.Minute

// speak tells of lines that are missing, and of a file that was moved, until ctx is
// done.
func (r *recording) speak(ctx context.Context) {
	rest := time.NewTimer(tellEvery)
	defer rest.Stop()
	wake := r.wake
	for {
		select {
		case err := <-r.turns:
			if err != nil {
				r.log.Warn("the trace of requests (--route-log) was moved, and no new one can be begun: the old one is written on", "file", r.path, "err", err)
			} else {
				r.log.Info("the trace of requests (--route-log) was moved: a new one is begun", "file", r.path)
			}
		case <-wake:
			r.tell()
			wake = nil
			rest.Reset(tellEvery)
		case <-rest.C:
			wake = r.wake
		case <-ctx.Done():
			return
		}
	}
}

// tell says how many lines are missing since it did so last.
func (r *recording) tell() {
	if n := r.lost.Swap(0); n > 0 {
		r.log.Warn("lines are missing in the trace of requests (--route-log): it could not be written fast enough, or not at all", "file", r.path, "lines", n)
	}
}

func (r *recording) close() error {
	if r == nil {
		return nil
	}
	if err := r.file.Close(); err != nil {
		return fmt.Errorf("closing the trace of requests (--route-log): %w", err)
	}
	return nil
}

// headerDebug is how a client asks to be told what the gateway has done.
const headerDebug = "x-sluice-debug"

// explains reports whether r's client asks how it was routed, and may know it:
// the answer names a worker, as the control plane's do.
func (a *App) explains(r *infer.Request) bool {
	return r.Header.Has(headerDebug) && r.Header.HasToken(headerDebug, "route") &&
		(a.cfg.Receipts.Header || auth.MayControl(a.cfg.Auth, r))
}
