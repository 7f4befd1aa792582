package route

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/policy"
)

// A ledger is a policy that counts what it is told of attempts.
type ledger struct {
	policy.Policy
	t *rapid.T

	mu   *sync.Mutex
	open map[*policy.Choice]*fleet.Worker // guarded by mu; of attempts that were sent and have not ended
	n    *[3]int                          // guarded by mu; Sent, Began, Ended
}

func (l ledger) Bind(ws []*fleet.Worker) policy.Picker { return ledgerPicker{l, l.Policy.Bind(ws)} }

type ledgerPicker struct {
	ledger
	policy.Picker
}

func (l ledgerPicker) Pick(r *infer.Request, c *policy.Choice) *fleet.Worker {
	c.Prompt, c.Uncached = 100, 40
	return l.Picker.Pick(r, c)
}

func (l ledgerPicker) Sent(_ *infer.Request, w *fleet.Worker, c *policy.Choice) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[c] != nil {
		l.t.Error("a choice is sent that has not ended")
	}
	l.open[c] = w
	l.n[0]++
}

func (l ledgerPicker) Began(w *fleet.Worker, c *policy.Choice, _ time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[c] != w {
		l.t.Error("a choice begins that was not sent, or to another worker")
	}
	l.n[1]++
}

func (l ledgerPicker) Ended(w *fleet.Worker, c *policy.Choice, _ *infer.Served, _ error, _ time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[c] != w {
		l.t.Error("a choice ends that was not sent, or to another worker")
	}
	delete(l.open, c)
	l.n[2]++
}

// A fate is what becomes of an attempt.
type fate uint8

const (
	answers fate = iota
	streams
	fails
	refuses
	breaksOff
	panics
	panicsLate
	clientLeaves
	clientLeavesLate
	hangs
	numFates = iota
)

func (f fate) meet(ctx context.Context, leave func(), w *infer.Reply) error {
	gone := &infer.Error{Status: infer.StatusClientGone, Code: "client_closed_request"}
	switch f {
	case fails:
		return broken
	case refuses:
		return &infer.Error{Status: 400, Code: "bad", Answer: &infer.Answer{Status: 400}}
	case panics:
		panic("a backend")
	case clientLeaves:
		leave()
		return gone
	case hangs:
		<-ctx.Done()
		return &infer.Error{Status: 504, Code: "call_upstream_timeout"}
	}
	_, _ = w.Write([]byte("data: 1\n\n"))
	switch f {
	case breaksOff:
		return broken
	case panicsLate:
		panic("a backend")
	case clientLeavesLate:
		leave()
		return gone
	}
	return nil
}

// TestNothingIsLeftBehind holds that load returns to zero when all requests have
// ended, and that who learns hears of each end once, whatever becomes of requests
// and of the fleet meanwhile.
func TestNothingIsLeftBehind(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		words := rapid.SliceOfN(rapid.SampledFrom([]string{"r", "r", "r", "p", "d", "x"}), 1, 8).Draw(rt, "workers")
		fates := rapid.SliceOfN(rapid.IntRange(0, numFates-1), 1, 60).Draw(rt, "fates")
		reg := kinds(t, strings.Join(words, " "))
		l := ledger{t: rt, mu: new(sync.Mutex), open: make(map[*policy.Choice]*fleet.Worker), n: new([3]int)}
		ps := policies("least_load")
		ps.New = func(name string) (policy.Policy, error) {
			p, err := policy.New(name, policy.DefaultSettings())
			l.Policy = p
			return l, err
		}
		next := make(chan fate, len(fates))
		for _, f := range fates {
			next <- fate(f)
		}
		close(next)
		r := before(t, reg, Options{Policies: ps, Receipts: 16}, backendFunc(func(ctx context.Context, _ *infer.Request, w *infer.Reply, _ fleet.Team) error {
			return (<-next).meet(ctx, ctx.Value(leaving{}).(context.CancelFunc), w)
		}))
		r.cfg.Timeout, r.cfg.Initial, r.cfg.Max = 20*time.Millisecond, time.Microsecond, time.Microsecond
		snap := reg.Snapshot()
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range fates {
					askAndLeave(r)
				}
			})
		}
		for i := range 20 {
			ready := append([]*fleet.Worker(nil), snap.All...)
			for len(ready) > 0 && rand.IntN(2) == 0 {
				at := rand.IntN(len(ready))
				ready = append(ready[:at], ready[at+1:]...)
			}
			r.Publish(&fleet.Snapshot{Epoch: uint64(i), All: snap.All, Ready: ready})
		}
		r.Publish(snap)
		wg.Wait()
		for _, w := range snap.All {
			if w.InFlight() != 0 || w.Prefill() != 0 || w.Context() != 0 {
				rt.Errorf("%s is left with %d requests, %d tokens to compute and %d in its context", w.Base(), w.InFlight(), w.Prefill(), w.Context())
			}
		}
		if len(l.open) != 0 || l.n[0] != l.n[2] || l.n[1] > l.n[0] {
			rt.Errorf("%d attempts were sent, %d began, %d ended, %d are open", l.n[0], l.n[1], l.n[2], len(l.open))
		}
		for _, one := range r.Recent(100, all) {
			if !one.Ended {
				rt.Errorf("a receipt says that a request runs: %+v", one)
			}
		}
	})
}

type leaving struct{}

// askAndLeave asks as a client that a backend can make leave.
func askAndLeave(rt *Router) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer func() { _ = recover() }()
	ctx = context.WithValue(ctx, leaving{}, cancel)
	r := &infer.Request{Endpoint: infer.Chat, Model: "m", Received: time.Now()}
	_ = rt.Serve(ctx, r, infer.NewReply(new(wire)))
}
