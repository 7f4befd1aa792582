// Package jobs runs work in the background: one job at a time for each key,
// few at once, and with a status to ask for.
//
// What has been done leaves no trace; what has failed is remembered until the
// same key succeeds, is cancelled, or is crowded out by later failures.
package jobs

import (
	"container/list"
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// Reasons why a Queue takes no job.
var (
	ErrFull    = errors.New("the job queue is full")
	ErrStopped = errors.New("the job queue has stopped")
)

// maxFailed bounds how many failures are remembered.
const maxFailed = 1024

// State says how far a job is.
type State string

// A job that succeeded has no State: it is forgotten.
const (
	Pending    State = "pending"
	Processing State = "processing"
	Failed     State = "failed"
)

// Status is what is known of the job of a key.
type Status struct {
	Kind  string
	Key   string
	State State
	Msg   string    // why it failed
	At    time.Time // since when it is in State
}

// A Queue holds jobs and runs them. Its methods may be called by any goroutine.
type Queue struct {
	capacity, concurrency int           // constant
	wake                  chan struct{} // tells Run that something may start

	mu      sync.Mutex
	lines   map[string]*line         // guarded by mu; keys that have a job waiting or running
	turn    []*line                  // guarded by mu; lines whose first job may start, oldest first
	waiting int                      // guarded by mu; jobs that have not started
	running int                      // guarded by mu
	failed  map[string]*list.Element // guarded by mu; of order
	order   list.List                // guarded by mu; of Status, oldest failure first
	stopped bool                     // guarded by mu
}

// A line is the jobs of one key, in order. Queue.mu guards it.
type line struct {
	key    string
	jobs   []job
	now    *job               // running, or nil
	cancel context.CancelFunc // of now
	gone   bool               // now was cancelled: how it ends is of no interest
}

type job struct {
	kind string
	f    func(ctx context.Context) error
	at   time.Time // since when it waits, then runs
}

// New returns a Queue in which at most capacity jobs wait and concurrency
// jobs run. Nothing runs before Run.
func New(capacity, concurrency int) *Queue {
	return &Queue{
		capacity: capacity, concurrency: concurrency,
		wake:  make(chan struct{}, 1),
		lines: make(map[string]*line), failed: make(map[string]*list.Element),
	}
}

// Submit adds a job. Jobs of one key run in the order they came, one at a time.
// kind is for Status only. Errors: ErrFull, ErrStopped.
func (q *Queue) Submit(key, kind string, f func(ctx context.Context) error) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped {
		return ErrStopped
	}
	if q.waiting >= q.capacity {
		return ErrFull
	}
	l := q.lines[key]
	if l == nil {
		l = &line{key: key}
		q.lines[key] = l
	}
	if l.now == nil && len(l.jobs) == 0 {
		q.turn = append(q.turn, l)
	}
	l.jobs = append(l.jobs, job{kind: kind, f: f, at: time.Now()})
	q.waiting++
	q.signal()
	return nil
}

// Cancel drops the waiting jobs of key, ends the context of the running one,
// and forgets the failed one. It does not wait for the running one.
func (q *Queue) Cancel(key string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.forgetLocked(key)
	l := q.lines[key]
	if l == nil {
		return
	}
	q.waiting -= len(l.jobs)
	l.jobs = nil
	if l.now != nil {
		l.gone = true
		l.cancel()
		return
	}
	q.turn = slices.DeleteFunc(q.turn, func(o *line) bool { return o == l })
	delete(q.lines, key)
}

// Status returns what is known of key's job: the one that runs, else the one
// that waits, else the one that failed last.
func (q *Queue) Status(key string) (Status, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if l := q.lines[key]; l != nil {
		if l.now != nil && !l.gone {
			return Status{Kind: l.now.kind, Key: key, State: Processing, At: l.now.at}, true
		}
		if len(l.jobs) > 0 {
			return Status{Kind: l.jobs[0].kind, Key: key, State: Pending, At: l.jobs[0].at}, true
		}
	}
	if e := q.failed[key]; e != nil {
		return e.Value.(Status), true
	}
	return Status{}, false
}

// Run runs jobs until ctx is done. It then takes no more, ends the contexts of
// those that run, drops those that wait, and returns when the last has ended.
func (q *Queue) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for {
		for l := q.start(ctx); l != nil; l = q.start(ctx) {
			wg.Go(l)
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
			q.mu.Lock()
			q.stopped, q.turn, q.waiting = true, nil, 0
			for _, l := range q.lines {
				l.jobs = nil
			}
			q.mu.Unlock()
			wg.Wait()
			return nil
		}
	}
}

// start takes the next job and returns what runs it, or nil if none may start.
func (q *Queue) start(ctx context.Context) func() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.running >= q.concurrency || len(q.turn) == 0 || ctx.Err() != nil {
		return nil
	}
	l := q.turn[0]
	q.turn[0] = nil
	q.turn = q.turn[1:]
	j := l.jobs[0]
	l.jobs = l.jobs[1:]
	j.at = time.Now()
	jctx, cancel := context.WithCancel(ctx)
	l.now, l.cancel, l.gone = &j, cancel, false
	q.waiting--
	q.running++
	return func() {
		err := j.f(jctx)
		cancel()
		q.end(l, err)
	}
}

// end notes how l's running job ended and lets the next one start.
func (q *Queue) end(l *line, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !l.gone {
		q.forgetLocked(l.key)
		if err != nil {
			q.failed[l.key] = q.order.PushBack(Status{Kind: l.now.kind, Key: l.key, State: Failed, Msg: err.Error(), At: time.Now()})
		}
		if q.order.Len() > maxFailed {
			q.forgetLocked(q.order.Front().Value.(Status).Key)
		}
	}
	q.running--
	l.now, l.cancel = nil, nil
	if len(l.jobs) > 0 {
		q.turn = append(q.turn, l)
	} else {
		delete(q.lines, l.key)
	}
	q.signal()
}

// forgetLocked forgets that key's job failed. q.mu must be held.
func (q *Queue) forgetLocked(key string) {
	if e := q.failed[key]; e != nil {
		q.order.Remove(e)
		delete(q.failed, key)
	}
}

func (q *Queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}
