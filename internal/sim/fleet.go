package sim

import (
	"context"
	"sync/atomic"
	"time"

	"sluice/internal/fleet"
)

// A simulation runs a workload on a fleet, in an order of events.
type simulation struct {
	cfg      *Config
	w        *workload
	engines  []*engine
	gateways []*gateway
	turn     int // of the gateway that is next
	events   events
	now      time.Duration
	limit    time.Duration // when it is cut off
	records  []record      // of the workload's requests
	idle     []*run        // to be used again
	done     *atomic.Int64 // counts requests, for who waits

	began, ended func(*run) // made once
}

// A record is what became of a request. Times are after the beginning; 0 is
// never.
type record struct {
	sent, first, end time.Duration
	cached           int32
	state            state
}

type state uint8

const (
	unsent  state = iota
	running       // or waiting, when the simulation ended
	refused       // the policy let nobody serve it
	answered
)

// What happens.
const (
	arrival = iota // of request n
	stepEnd        // of engine n
	report         // all engines say how busy they are
)

func newSimulation(cfg *Config, w *workload, p Contender, slack float64, done *atomic.Int64) (*simulation, error) {
	s := &simulation{cfg: cfg, w: w, records: make([]record, len(w.requests)), done: done}
	for range cfg.Workers {
		s.engines = append(s.engines, newEngine(cfg, w.block))
	}
	for n := range cfg.Gateways {
		g, err := newGateway(cfg, w, p, n)
		if err != nil {
			return nil, err
		}
		s.gateways = append(s.gateways, g)
	}
	s.limit = w.last + max(leastSlack, time.Duration(float64(w.last)*slack))
	s.began, s.ended = s.begin, s.end
	for _, n := range w.starts {
		s.events.push(event{at: w.requests[n].at, kind: arrival, n: n})
	}
	s.events.push(event{kind: report})
	return s, nil
}

// run runs until all is answered, the limit, or the end of ctx.
func (s *simulation) run(ctx context.Context) error {
	for n := 1; s.events.len() > 0 && s.events.first().at <= s.limit; n++ {
		if n%4096 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		e := s.events.pop()
		s.now = e.at
		switch e.kind {
		case arrival:
			s.arrive(e.n)
		case stepEnd:
			if g := s.engines[e.n]; g.epoch == e.epoch {
				g.finish(s.now, s.began, s.ended)
				s.step(e.n)
			}
		case report:
			s.report()
		}
	}
	return nil
}

// arrive sends a request to the engine that its gateway chooses.
func (s *simulation) arrive(n int32) {
	q := &s.w.requests[n]
	r := s.take()
	r.request, r.input, r.output, r.blocks, r.begun = n, q.input, q.output, q.blocks, s.now
	g := s.gateways[s.turn]
	s.turn = (s.turn + 1) % len(s.gateways)
	rec := &s.records[n]
	rec.sent, rec.state = s.now, running
	if !g.send(q, r, s.now) {
		rec.state = refused
		s.idle = append(s.idle, r)
		s.done.Add(1)
		return
	}
	e := s.engines[r.place.engine]
	e.served++
	e.waiting = append(e.waiting, r)
	if !e.busy {
		s.step(r.place.engine)
	} else if e.hurry(s.now) {
		s.events.push(event{at: e.end(), kind: stepEnd, n: r.place.engine, epoch: e.epoch})
	}
}

// take returns a run to fill.
func (s *simulation) take() *run {
	if n := len(s.idle); n > 0 {
		r := s.idle[n-1]
		s.idle = s.idle[:n-1]
		*r = run{held: r.held[:0], place: place{choice: r.choice}}
		return r
	}
	return new(run)
}

// step begins engine n's next step.
func (s *simulation) step(n int32) {
	if e := s.engines[n]; e.step(s.now) {
		s.events.push(event{at: e.end(), kind: stepEnd, n: n, epoch: e.epoch})
	}
}

// begin notes that r's first token came.
func (s *simulation) begin(r *run) {
	rec := &s.records[r.request]
	rec.first, rec.cached = s.now, int32(r.cached)
	r.place.gateway.began(r, s.now)
}

// end notes that r is through. The next turn of its session comes after a while.
func (s *simulation) end(r *run) {
	rec := &s.records[r.request]
	rec.end, rec.state = s.now, answered
	r.place.gateway.ended(r, s.now)
	if q := &s.w.requests[r.request]; q.next >= 0 {
		s.events.push(event{at: s.now + q.gap, kind: arrival, n: q.next})
	}
	s.idle = append(s.idle, r)
	s.done.Add(1)
}

// report tells the gateways how busy the engines are, and when it does so again.
func (s *simulation) report() {
	for n, e := range s.engines {
		l := e.load(s.cfg.LoadInterval)
		l.At = epoch.Add(s.now)
		for _, g := range s.gateways {
			own := *l // a worker adds to its report
			g.workers[n].Report(&own)
		}
	}
	for _, g := range s.gateways {
		g.offer()
	}
	if s.events.len() > 0 {
		s.events.push(event{at: s.now + s.cfg.LoadInterval, kind: report})
	}
}

// uncached returns how many tokens of the prompts that wait are not in the cache.
func (e *engine) uncached() int64 {
	n := 0
	for _, r := range e.waiting {
		n += max(1, r.input-e.cache.match(r.blocks)*e.block)
	}
	return int64(n)
}

// load is what an engine says of itself, every so often.
func (e *engine) load(every time.Duration) *fleet.Load {
	used := (e.cache.held() + e.reserved) * e.block
	l := &fleet.Load{
		Running: len(e.reading) + len(e.writing), Waiting: len(e.waiting),
		WaitingTokens: e.uncached(), UsedTokens: int64(used), MaxTokens: int64(e.room * e.block), TokenUsage: float64(used) / float64(e.room*e.block),
		Throughput: float64(e.written-e.said) / every.Seconds(),
	}
	e.said = e.written
	l.Utilization = float64(l.Running) / float64(e.cfg.MaxRunning)
	if e.asked > 0 {
		l.HitRate = float64(e.found) / float64(e.asked)
	}
	l.Ranks = []fleet.RankLoad{{Running: l.Running, Waiting: l.Waiting, UsedTokens: l.UsedTokens, TokenUsage: l.TokenUsage, Throughput: l.Throughput, HitRate: l.HitRate}}
	return l
}
