// Package fleet knows the workers: which there are, how they are, and how busy.
//
// Membership is a Snapshot that is replaced as a whole; a Worker is a pointer
// that outlives Snapshots. A request therefore reads the fleet with one atomic
// load, and a worker keeps its counters when its neighbours come and go.
package fleet

import (
	"cmp"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sluice/internal/kit/breaker"
	"sluice/internal/kit/secret"
)

// An ID names a worker for as long as it is registered: a UUID of version 7,
// so IDs sort by the time of registration.
type ID string

// A Role says which part of a request a worker serves.
type Role uint8

// A Regular worker serves a request from end to end.
const (
	Regular Role = iota
	Prefill
	Decode
	Encode
)

// String is the role's name in the API and in metrics.
func (r Role) String() string { return [...]string{"regular", "prefill", "decode", "encode"}[r] }

// A Status says what the health checks found.
type Status uint8

// A worker starts Pending.
const (
	Pending  Status = iota // has not been ready yet
	Ready                  // passes its checks: takes requests
	NotReady               // has failed its checks
	Failed                 // has failed them for long; is asked ever after
	Draining               // was removed: takes no requests, finishes those it has
)

// String is the status's name in the API.
func (s Status) String() string {
	return [...]string{"pending", "ready", "not_ready", "failed", "draining"}[s]
}

// A Worker is an engine that can serve requests. It stays valid for those who
// hold it after it has been removed.
type Worker struct {
	// What every request reads is on one cache line: of a thousand workers, those
	// that are not asked often are far away.
	meter *Meter               // constant
	br    *breaker.Breaker     // constant
	info  atomic.Pointer[Info] // never nil
	base  string               // constant; root, and @rank if it has one
	slot  int32                // constant
	veto  atomic.Uint32        // a Veto

	id   ID       // constant
	from ID       // constant; of the registration, which the ranks of an engine have in common
	url  *url.URL // constant
	root string   // constant; url as text
	rank int      // constant; -1 for none
	reg  *Registry

	status  atomic.Uint32
	suspect atomic.Bool               // the request path asks for a check; false when one begins
	source  atomic.Int32              // where it tells its load
	polling atomic.Bool               // it is being asked for its load
	late    atomic.Bool               // it did not answer that in time
	readyAt atomic.Pointer[time.Time] // nil until it was ready
	epoch   atomic.Uint64
	checks  [2]atomic.Uint64
	report  sync.Mutex           // guards that load is replaced and judged; those who read it take nothing
	load    atomic.Pointer[Load] // nil until the first report
	process process              // guarded by report
	mute    muteness             // guarded by report
	reports [numReportResults]atomic.Uint64
	failure atomic.Uint64 // requests that ended so
	neutral atomic.Uint64 // likewise
	health  health        // guarded by Registry.mu
}

// Info is what is known of a worker. It is never written to after it was
// published; readers may keep it.
type Info struct {
	Models   []ModelCard // in the order the worker told, or as the spec has them
	ModelIDs []string    // all names a request may use: ids and aliases, each once
	Wildcard bool        // joined and names no model: takes any

	Role          Role
	Runtime       string // sglang, vllm, …, or unspecified
	Version       string // of the engine, "" if unknown
	ClosesStreams bool   // closes a connection after a streamed answer without saying so, as llama.cpp's server does
	Labels        map[string]string
	Priority      int
	Cost          float64
	BootstrapPort *int
	Health        *HealthSpec
	MaxAttempts   int // max_connection_attempts, as told; shown, not used
	MaxRunning    int // requests the engine runs at once, 0 if unknown
	ContextLength int // tokens, 0 if unknown; the longest of its models
	KVTokens      int // tokens its KV cache holds, 0 if unknown

	APIKey        secret.String
	Authorization secret.String // the header's value, empty without a key
}

// Load is what a worker said of itself when it was last asked. Counts are those
// of all its ranks, shares their mean.
type Load struct {
	reported

	At            time.Time
	Running       int
	Waiting       int
	WaitingTokens int64 // of the prompts that wait, those that are not cached; 0 if none, or if it does not say
	UsedTokens    int64
	MaxTokens     int64
	TokenUsage    float64 // 0 to 1
	Throughput    float64 // generated tokens per second, 0 if it does not say
	HitRate       float64 // of the prefix cache, 0 to 1
	Utilization   float64 // 0 to 1
	Ranks         []RankLoad
	Raw           []byte // the answer as it came, JSON of at most 64 KiB; nil if it came as metrics

	start  float64 // when its process began, in Unix seconds; 0 if it does not say
	done   float64 // tokens that its process has computed and generated
	counts bool    // it says how many
}

// reported is what Report adds to a Load.
type reported struct {
	until, span int64 // believed while until is from 0 to span nanoseconds away

	Sent    int64  // the Worker's Sent at the time of the report
	Started uint64 // likewise

	served uint64    // likewise Served
	still  time.Time // since when reports have not changed and no request has ended
}

// RankLoad is the load of one data-parallel rank.
type RankLoad struct {
	Rank       int
	Running    int
	Waiting    int
	UsedTokens int64
	TokenUsage float64
	Throughput float64
	HitRate    float64

	waitingTokens, maxTokens int64
	utilization              float64
}

// ID returns the name of w's registration.
func (w *Worker) ID() ID { return w.id }

// Compare tells in which order w and o were registered: negative if w was first.
// The ranks of an engine are together, by their numbers, whenever they were found.
func (w *Worker) Compare(o *Worker) int {
	return cmp.Or(strings.Compare(string(w.from), string(o.from)), cmp.Compare(w.rank, o.rank), strings.Compare(string(w.id), string(o.id)))
}

// URL returns where w is. It must not be written to.
func (w *Worker) URL() *url.URL { return w.url }

// Base returns the name by which w is known: its URL as text without a trailing
// slash, and @rank if it is one rank of several. Equal workers have equal Bases.
func (w *Worker) Base() string { return w.base }

// Slot returns a small number that no other worker of the same Snapshot has: an
// index into a slice of what is kept for each. Another worker has it when w is
// gone.
func (w *Worker) Slot() int { return int(w.slot) }

// Rank returns which data-parallel rank of the engine at URL w is; ok is false
// if w is the whole engine. Requests to a rank must name it.
func (w *Worker) Rank() (rank int, ok bool) { return max(w.rank, 0), w.rank >= 0 }

// Root returns w's URL as text without a trailing slash. It is what the ranks of
// one engine have in common.
func (w *Worker) Root() string { return w.root }

// Info returns what is known of w now.
func (w *Worker) Info() *Info { return w.info.Load() }

// Status returns what the health checks found.
func (w *Worker) Status() Status { return Status(w.status.Load()) }

// ReadyAt returns when w last became ready, the zero time if it never was.
func (w *Worker) ReadyAt() time.Time {
	if t := w.readyAt.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// Epoch returns a number that grows whenever w is thought to have lost what its
// cache held. See Forgot for when that is.
func (w *Worker) Epoch() uint64 { return w.epoch.Load() }

// Forgot tells that w has lost its cache: it was told to flush it, or it is
// another process than it was. The Registry calls it by itself when w passes a
// check after one that nobody listened to, or that broke and made it not ready,
// and when w tells another start than before, or that it has computed less. Checks that took too long or were
// answered with an error, and single ones that broke, are hiccups: they say
// nothing of the cache.
func (w *Worker) Forgot() { w.epoch.Add(1) }

// Vetoed reports whether w, although it is ready, should not be given requests
// while others may be. Every change of it makes a new Snapshot.
func (w *Worker) Vetoed() bool { return w.veto.Load() != 0 }

// Veto returns why w is vetoed, 0 if it is not.
func (w *Worker) Veto() Veto { return Veto(w.veto.Load()) }

// Joined reports whether w's models are known, or known to be unknown.
func (w *Worker) Joined() bool {
	i := w.info.Load()
	return i.Wildcard || len(i.Models) > 0
}

// Breaker returns w's circuit breaker.
func (w *Worker) Breaker() *breaker.Breaker { return w.br }

// Checks returns how many health checks w has passed and failed.
func (w *Worker) Checks() (passed, failed uint64) { return w.checks[0].Load(), w.checks[1].Load() }

// Started returns how many requests of this gateway w was ever given. One that is
// just ending may be missing.
func (w *Worker) Started() uint64 {
	// It leaves those in flight before it is counted among those that have ended:
	// read in this order, none is counted twice.
	served := w.Served()
	return served + uint64(max(w.InFlight(), 0))
}

// Load returns w's last report, or nil.
func (w *Worker) Load() *Load { return w.load.Load() }

// Believed returns w's last report, or nil if at now it is too old to go by, or
// there is none.
func (w *Worker) Believed(now time.Time) *Load { return w.BelievedAt(now.UnixNano()) }

// BelievedAt is Believed for those who look at many workers.
func (w *Worker) BelievedAt(unixNano int64) *Load {
	l := w.load.Load()
	if l == nil || uint64(l.until-unixNano) > uint64(l.span) {
		return nil
	}
	return l
}

// farAhead is how much younger than a request a report may be: the request may
// have waited for long since it was received.
const farAhead = 10 * time.Minute

// Authorization returns the header that requests to w carry: "Bearer k", or
// "" if it has no key.
func (w *Worker) Authorization() string { return w.info.Load().Authorization.Reveal() }

// Available reports whether w would take a request at now.
func (w *Worker) Available(now time.Time) bool {
	return w.Status() == Ready && w.br.Usable(now)
}

// Acquire takes a place on w, or reports that w's breaker keeps requests away.
// The caller must Release the Lease.
func (w *Worker) Acquire(now time.Time) (Lease, bool) {
	if !w.br.Allow(now) {
		return Lease{}, false
	}
	w.meter.inflight.Add(1)
	return Lease{w: w, era: w.br.Era(), trial: w.br.State() == breaker.HalfOpen}, true
}

// Suspect tells that a request could not reach w, or lost it: w is to be asked
// how it is now, not at its next turn. It never blocks.
func (w *Worker) Suspect() {
	if w.suspect.Load() || !w.suspect.CompareAndSwap(false, true) {
		return // it is going to be asked
	}
	select {
	case w.reg.suspects <- w:
	default:
		w.reg.crowded.Store(true)
	}
	w.reg.wakeUp()
}

// A Lease is one request's place on a worker.
type Lease struct {
	w        *Worker
	era      uint64 // of the breaker when it was last told something, or let the request pass
	trial    bool   // the breaker was half-open
	answered bool   // the trial was counted as a success

	prefill, context int64 // charged, and to be given back
}

// Worker returns whose place it is.
func (l *Lease) Worker() *Worker { return l.w }

// Trial reports whether the request tries a worker that has failed before. If
// so, Answered is worth calling.
func (l *Lease) Trial() bool { return l.trial }

// Answered says that a good answer has begun. If the request is a trial, that
// is its success, and another may try: a stream lasts for minutes, and its
// first byte shows what was asked for. Release must be called all the same; of
// what it is told, a failure still counts.
func (l *Lease) Answered(now time.Time) {
	br := l.w.br
	if !l.trial || l.answered || br.Era() != l.era {
		return
	}
	br.Done(now, breaker.Success)
	l.era, l.answered = br.Era(), true
}

// Charge says what the request asks of the worker, in tokens: those of its prompt
// that the worker has to compute, and all of them. It is called at most once.
func (l *Lease) Charge(prefill, context int64) {
	if prefill > 0 {
		l.prefill = prefill
		l.w.meter.prefill.Add(prefill)
	}
	if context > 0 {
		l.context = context
		l.w.meter.context.Add(context)
		l.w.meter.sent.Add(context)
	}
}

// Began says that the answer has begun, so the prompt is computed.
func (l *Lease) Began() {
	if l.prefill != 0 {
		l.w.meter.prefill.Add(-l.prefill)
		l.prefill = 0
	}
}

// Release gives the place back and says what the request showed of the worker.
// It must be called once. How a request ended that began before the breaker's
// last change of state is counted, but does not move the breaker.
func (l *Lease) Release(now time.Time, o breaker.Outcome) {
	w := l.w
	l.Began()
	if l.context != 0 {
		w.meter.context.Add(-l.context)
		l.context = 0
	}
	w.meter.inflight.Add(-1)
	w.end(o)
	if o == breaker.Success && w.veto.Load() != 0 {
		w.moved()
	}
	if w.br.Era() == l.era && (!l.answered || o == breaker.Failure) {
		w.br.Done(now, o)
	}
}
