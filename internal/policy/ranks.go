package policy

import (
	"sluice/internal/fleet"
	"sluice/internal/infer"
)

// RanksConfig says how the data-parallel ranks of an engine are told apart.
type RanksConfig struct {
	MinTokens bool `yaml:"minimum_tokens" flag:"dp-minimum-tokens-scheduler" help:"whichever rank of an engine the policy has chosen, take the one that holds the fewest tokens; with dp-aware"`
}

// DefaultRanksConfig leaves it to the policy.
func DefaultRanksConfig() RanksConfig { return RanksConfig{} }

// Validate finds nothing wrong.
func (RanksConfig) Validate() error { return nil }

// minTokens leaves it to another policy which engine serves a request, and takes
// the data-parallel rank of it that holds the fewest tokens: as it reported, and
// what was sent to it since; where one has not reported lately, what they have
// been sent and not yet ended counts. Among equals the lowest rank wins.
type minTokens struct{ Policy }

// NeedsText implements TextReader.
func (p minTokens) NeedsText() bool { return NeedsText(p.Policy) }

// TakesText implements TextTaker.
func (p minTokens) TakesText() bool { return TakesText(p.Policy) }

// PricesLoad implements LoadPricer.
func (p minTokens) PricesLoad() bool { return pricesLoad(p.Policy) }

// Bind implements Policy.
func (p minTokens) Bind(ws []*fleet.Worker) Picker { return p.over(p.Policy.Bind(ws), ws) }

// WantsMembers implements MembersBinder.
func (p minTokens) WantsMembers() bool { return WantsMembers(p.Policy) }

// BindMembers implements MembersBinder.
func (p minTokens) BindMembers(ws []*fleet.Worker, m Members) Picker {
	return p.over(Bind(p.Policy, ws, m), ws)
}

// over returns inner, which chooses among ws, with the choice of ranks.
func (p minTokens) over(inner Picker, ws []*fleet.Worker) Picker {
	engines := make(map[string][]*fleet.Worker)
	for _, w := range ws {
		if _, ok := w.Rank(); ok {
			engines[w.Root()] = append(engines[w.Root()], w)
		}
	}
	ranks := make(map[*fleet.Worker][]*fleet.Worker)
	for _, group := range engines {
		if len(group) > 1 {
			for _, w := range group {
				ranks[w] = group
			}
		}
	}
	if len(ranks) == 0 {
		return inner
	}
	picker := minTokensPicker{inner, ranks}
	if l, ok := inner.(Learner); ok {
		return struct {
			minTokensPicker
			Learner
		}{picker, l}
	}
	return picker
}

type minTokensPicker struct {
	inner Picker
	ranks map[*fleet.Worker][]*fleet.Worker // of the engine that a worker belongs to; not written to
}

// Pick implements Picker.
func (p minTokensPicker) Pick(r *infer.Request, c *Choice) *fleet.Worker {
	chosen := p.inner.Pick(r, c)
	group := p.ranks[chosen]
	if group == nil || c.Alone {
		return chosen
	}
	best := fewestTokens(group, r)
	if best != chosen { // what is known of the other's cache does not count
		c.Hit, c.Uncached, c.Duplicate, c.Decode, c.Price = 0, c.Prompt, 0, 0, 0
	}
	c.Why = "fewest_tokens"
	if c.Prompt == 0 { // what is sent must weigh something until the next report
		c.Prompt = max(r.BodyLength()/bytesPerToken, 1)
		c.Uncached = c.Prompt
	}
	return best
}

// bytesPerToken is about what a prompt has, with the JSON around it.
const bytesPerToken = 4

func fewestTokens(ws []*fleet.Worker, r *infer.Request) *fleet.Worker {
	at := r.Received.UnixNano()
	told := true
	for _, w := range ws {
		told = told && w.BelievedAt(at) != nil
	}
	var best *fleet.Worker
	var fewest int64
	for _, w := range ws {
		n := w.Context()
		if l := w.BelievedAt(at); told && l != nil {
			n = l.UsedTokens + w.Sent() - l.Sent
		}
		if best == nil || n < fewest || n == fewest && rankOf(w) < rankOf(best) {
			best, fewest = w, n
		}
	}
	return best
}

func rankOf(w *fleet.Worker) int {
	n, _ := w.Rank()
	return n
}
