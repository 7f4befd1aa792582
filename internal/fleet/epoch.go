package fleet

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"syscall"
	"time"
)

// returnedLocked hears that w passes a check after it failed some, or for the
// first time, and decides whether it is the process that it was. r.mu must be
// held.
func (r *Registry) returnedLocked(w *Worker) {
	h := &w.health
	away := w.Status() == NotReady || w.Status() == Failed
	lost := h.gone || h.broke && away
	h.gone, h.broke = false, false
	if lost && w.Status() != Pending {
		w.Forgot()
	}
}

// absent reports whether err is that of a check that nobody listened to: there
// was no process to remember anything. A listener that is only too busy lets
// callers wait instead.
func absent(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist)
}

// broken reports whether err is that of a check whose connection broke.
func broken(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// sameStart is how far apart two guesses of when one process began may be: answers
// take some time.
const sameStart = 10 * time.Second

// toldStartLocked compares the start that f tells with the one that w told
// before. r.mu must be held.
func (r *Registry) toldStartLocked(w *Worker, f *found) {
	h := &w.health
	if f == nil || !f.tellsStart() {
		return
	}
	anew := h.start != "" && f.start != "" && h.start != f.start
	if !f.began.IsZero() && f.began.After(h.began.Add(sameStart)) {
		anew = anew || !h.began.IsZero()
		h.began = f.began
	}
	if anew && h.startEpoch == w.Epoch() {
		w.Forgot() // nothing else has shown it
		r.sayLocked(slog.LevelInfo, startedAnew, "worker", w.base)
	}
	if f.start != "" {
		h.start = f.start
	}
	h.startEpoch = w.Epoch()
}

// startedAnew is what the log says of a worker that was not seen away.
const startedAnew = "worker was started anew: what it had in its cache is forgotten"

// tellsStart reports whether f tells one start from another.
func (f *found) tellsStart() bool { return f.start != "" || !f.began.IsZero() }

// startOf asks w which start it is, and notes it in f.
func (r *Registry) startOf(ctx context.Context, w *Worker, f *found, timeout time.Duration) error {
	b, err := r.get(ctx, w, "/server_info", timeout, maxAnswer)
	if errors.Is(err, errAbsent) {
		b, err = r.get(ctx, w, "/get_server_info", timeout, maxAnswer)
	}
	if err != nil {
		return err
	}
	now := found{labels: make(map[string]string)}
	now.readServer(readAnswer(b))
	f.start, f.began = now.start, now.began
	return nil
}
