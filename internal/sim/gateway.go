package sim

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/breaker"
	"sluice/internal/policy"
)

// epoch is when simulated time begins. It is a constant, so that a policy that
// looks at the clock's hands sees the same in every run.
var epoch = time.Unix(2_000_000_000, 0)

// tokenBytes is how many bytes of text a token is taken for, here and by the
// policies.
const tokenBytes = 4

// A gateway routes requests with a policy, as the Router does: it picks, takes
// a lease, charges it, and tells a learner what became of it.
type gateway struct {
	w       *workload
	workers []*fleet.Worker // by engine
	engine  map[*fleet.Worker]int32
	policy  policy.Policy
	offered []*fleet.Worker // those that pick was bound to
	pick    policy.Picker
	learner policy.Learner // nil if pick is none

	request infer.Request
	session []byte // the value of the session's header
	now     *request
	body    []byte // spaces: a body's length is looked at, and what is in it is told by Extract
}

// A place is what a gateway keeps of a request that it has sent.
type place struct {
	gateway *gateway
	lease   fleet.Lease
	learner policy.Learner // that was told; nil for none
	choice  policy.Choice
	engine  int32
}

// newGateway returns the n-th gateway before the fleet.
func newGateway(cfg *Config, w *workload, p Contender, n int) (*gateway, error) {
	health, trips := fleet.DefaultHealthConfig(), breaker.DefaultConfig()
	health.Disabled, trips.Disabled = true, true
	fc := fleet.DefaultConfig()
	fc.LoadInterval, fc.Stale = cfg.LoadInterval, max(fc.Stale, cfg.LoadInterval*3/2)
	fc.Protect, fc.OverWaiting, fc.OverUsage = cfg.Protect, cfg.OverWaiting, cfg.OverUsage
	reg := fleet.New(fc, health, trips, fleet.Options{})
	g := &gateway{w: w, engine: make(map[*fleet.Worker]int32, cfg.Workers)}
	for i := range cfg.Workers {
		spec := fleet.Spec{URL: fmt.Sprintf("http://10.0.%d.%d:8000", i>>8, i&255), Models: []fleet.ModelCard{{ID: model}}, KVTokens: cfg.KVTokens}
		if _, err := reg.Add(spec); err != nil {
			return nil, fmt.Errorf("making a worker: %w", err)
		}
	}
	g.workers = reg.Snapshot().Ready // in the order of their IDs, which is that of Add
	for i, w := range g.workers {
		g.engine[w] = int32(i)
	}
	s := p.Settings
	s.Metrics = new(policy.Metrics)
	s.Rand = rand.New(rand.NewPCG(uint64(cfg.Seed), chanceOfPolicy+uint64(n)<<8)).Uint32
	var err error
	if g.policy, err = policy.New(p.Policy, &s); err != nil {
		return nil, err
	}
	g.offer()
	longest := 0
	for i := range w.requests {
		longest = max(longest, w.requests[i].input)
	}
	g.body = make([]byte, longest*tokenBytes)
	for i := range g.body {
		g.body[i] = ' '
	}
	return g, nil
}

const model = "m"

// offer binds the policy to the workers that are not vetoed, as the table's
// build does, if those are others than before.
func (g *gateway) offer() {
	ws, _ := fleet.Offered(g.workers, policy.Minds(g.policy))
	if slices.Equal(ws, g.offered) {
		return
	}
	g.offered, g.pick = ws, g.policy.Bind(ws)
	g.learner, _ = g.pick.(policy.Learner)
}

// send chooses an engine for q and leaves in r what there is to remember. It
// reports false if the policy lets nobody serve q.
func (g *gateway) send(q *request, r *run, now time.Duration) bool {
	g.now = q
	q0 := &g.request
	q0.Reset()
	q0.Endpoint, q0.Method, q0.Path, q0.Model = infer.Chat, "POST", infer.Chat.Path(), model
	q0.Received = epoch.Add(now)
	q0.Body = g.body[:q.input*tokenBytes]
	q0.Size = int64(len(q0.Body))
	q0.Extract = g.text
	if q.session >= 0 {
		g.session = strconv.AppendInt(append(g.session[:0], "session-"...), int64(q.session), 10)
		q0.Header.Add(routingKey, g.session)
	}
	r.place.gateway = g
	r.choice.Reset()
	w := g.pick.Pick(q0, &r.choice)
	if w == nil {
		return false
	}
	lease, ok := w.Acquire(q0.Received)
	if !ok {
		return false
	}
	if g.learner != nil {
		g.learner.Sent(q0, w, &r.choice)
	}
	lease.Charge(r.choice.Uncached, r.choice.Prompt)
	q0.DropText()
	r.lease, r.learner, r.engine = lease, g.learner, g.engine[w]
	return true
}

// routingKey is the header in which sessions come, for the policies that go by
// one.
var routingKey = []byte("x-smg-routing-key")

// began tells that r's first token came.
func (g *gateway) began(r *run, now time.Duration) {
	r.lease.Began()
	if r.learner != nil {
		r.learner.Began(r.lease.Worker(), &r.choice, epoch.Add(now))
	}
}

// ended tells that r is through.
func (g *gateway) ended(r *run, now time.Duration) {
	w := r.lease.Worker()
	r.lease.Release(epoch.Add(now), breaker.Success)
	if r.learner == nil {
		return
	}
	served := infer.Served{
		Worker: w.Base(), Tries: 1, FirstByte: r.first - r.begun, Events: int64(r.answered),
		Tokens: infer.Tokens{Input: int64(r.input), Cached: int64(r.cached), Output: int64(r.answered)},
	}
	r.learner.Ended(w, &r.choice, &served, nil, epoch.Add(now))
}

// text appends the prompt of the present request: each block has a text of its
// own, always the same, of letters that mean nothing.
func (g *gateway) text(dst, _ []byte) []byte {
	left := g.now.input * tokenBytes
	for _, b := range g.now.blocks {
		n := min(left, g.w.block*tokenBytes)
		dst = appendBlock(dst, uint64(b), n)
		left -= n
	}
	return dst
}

// appendBlock appends the first n bytes of a block's text.
func appendBlock(dst []byte, block uint64, n int) []byte {
	x := block * 0x9e3779b97f4a7c15
	for ; n > 0; n -= 8 {
		// splitmix64, each byte of it a letter of sixteen.
		x += 0x9e3779b97f4a7c15
		z := (x ^ x>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		z ^= z >> 31
		dst = binary.LittleEndian.AppendUint64(dst, z&0x0f0f0f0f0f0f0f0f+0x6161616161616161)
	}
	return dst[:len(dst)+min(0, n)]
}
