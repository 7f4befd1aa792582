package app

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"os"

	"sluice/internal/gate/auth"
	"sluice/internal/infer"
	"sluice/internal/kit/linelog"
)

// A recording is the file of --route-log; nil for none.
type recording struct {
	lines *linelog.Log
	file  *os.File
}

// openRecording opens the file, to which lines are appended. Prompts cannot be
// read in it, but it tells who has asked for the same: it is the owner's.
func openRecording(path string) (*recording, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the trace of requests (--route-log): %w", err)
	}
	// No line but those of requests: whoever reads a trace knows no others.
	return &recording{linelog.New(f, linelog.Config{JSON: true, Level: slog.Level(math.MaxInt)}), f}, nil
}

// log returns where lines go, nil for nowhere.
func (r *recording) log() *linelog.Log {
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
	err := r.lines.Run(ctx)
	if errClose := r.close(); err == nil {
		err = errClose
	}
	return err
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
