package server

import (
	"log/slog"
	"runtime/debug"
	"sync/atomic"

	"sluice/internal/infer"
)

// maxFollowing is how many answers' ends may be followed at once by what has a
// goroutine of its own. Beyond it a request over HTTP/2 ends with what follows
// it, so that no client can pile it up.
const maxFollowing = 1000

// A trail is what runs for requests that net/http serves and does not wait for
// when it shuts down: handlers whose client has left, and what follows answers.
type trail struct {
	log       *slog.Logger
	following atomic.Int64  // what follows answers
	running   atomic.Int64  // that, and handlers
	awaited   atomic.Bool   // somebody waits for none to run
	none      chan struct{} // has room for one word that it may be so
}

func newTrail(log *slog.Logger) *trail { return &trail{log: log, none: make(chan struct{}, 1)} }

// done says that what was counted in running has ended.
func (t *trail) done() {
	if t.running.Add(-1) == 0 && t.awaited.Load() {
		select {
		case t.none <- struct{}{}:
		default:
		}
	}
}

// wait returns when nothing runs. Nothing may begin then but what follows.
func (t *trail) wait() {
	t.awaited.Store(true)
	for t.running.Load() > 0 {
		<-t.none
	}
}

// follow ends reply beside the caller, who is counted in running. It reports
// false if too many are ended so.
func (t *trail) follow(reply *infer.Reply) bool {
	if t.following.Add(1) > maxFollowing {
		t.following.Add(-1)
		return false
	}
	t.running.Add(1)
	go func() {
		defer t.done()
		defer t.following.Add(-1)
		endReply(reply, t.log)
	}()
	return true
}

// endReply does what was to wait for an answer's end.
func endReply(reply *infer.Reply, log *slog.Logger) {
	defer func() {
		if p := recover(); p != nil {
			log.Error("what follows an answer panicked", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	reply.End()
}
