package fleet

import (
	"context"
	"errors"
	"io"
	"io/fs"
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

// toldStartLocked compares the start that f tells with the one that w told
// before. r.mu must be held.
func (r *Registry) toldStartLocked(w *Worker, f *found) {
	h := &w.health
	if f == nil || f.start == "" {
		return
	}
	if h.start != "" && h.start != f.start && h.startEpoch == w.Epoch() {
		w.Forgot() // nothing else has shown it
	}
	h.start, h.startEpoch = f.start, w.Epoch()
}

// startOf asks w which start it is.
func (r *Registry) startOf(ctx context.Context, w *Worker, timeout time.Duration) (string, error) {
	b, err := r.get(ctx, w, "/server_info", timeout, maxAnswer)
	if errors.Is(err, errAbsent) {
		b, err = r.get(ctx, w, "/get_server_info", timeout, maxAnswer)
	}
	if err != nil {
		return "", err
	}
	var f found
	f.labels = make(map[string]string)
	f.readServer(readAnswer(b))
	return f.start, nil
}
