package policy

import (
	"math"
	"sync"
	"sync/atomic"

	"sluice/internal/infer"
	"sluice/internal/kit/blocks"
)

// learned is what the policy cost has learned of a model's requests. A request
// that finds another learning passes by: one more or less does not matter.
type learned struct {
	heard atomic.Int64  // answers, up to hearAll
	ratio atomic.Uint64 // float bits: bytes of text per token of a prompt
	size  atomic.Uint64 // float bits: the ratio that the index's capacities go by
	out   atomic.Uint64 // float bits: tokens of an answer
	mean  atomic.Uint64 // float bits: tokens of a prompt

	mu     sync.Mutex // tried only
	bytes  float64    // guarded by mu; of late prompts
	tokens float64    // guarded by mu; of the same
}

const (
	// Where a model begins that nothing is known of.
	startRatio  = 4    // bytes per token, English text's
	startOut    = 200  // tokens of an answer
	startPrompt = 1000 // tokens of a prompt

	hearAll  = 256 // answers that all count; then
	hearEach = 8   // one of so many does

	// What a worker may say of a prompt. Further off it is nonsense, or there is
	// more in the prompt than text.
	minRatio, maxRatio = 0.5, 32
	maxAnswer          = 1 << 20
)

func (l *learned) begin() {
	l.bytes, l.tokens = startRatio*startPrompt, startPrompt
	setFloat(&l.ratio, startRatio)
	setFloat(&l.size, startRatio)
	setFloat(&l.out, startOut)
	setFloat(&l.mean, startPrompt)
}

func setFloat(a *atomic.Uint64, f float64) { a.Store(math.Float64bits(f)) }
func getFloat(a *atomic.Uint64) float64    { return math.Float64frombits(a.Load()) }

// bytesPerToken returns how many bytes of text make a token.
func (l *learned) bytesPerToken() float64 { return getFloat(&l.ratio) }

// sized returns bytesPerToken as it was when it last changed much.
func (l *learned) sized() float64 { return getFloat(&l.size) }

// answerTokens returns how many tokens an answer has on average.
func (l *learned) answerTokens() float64 { return getFloat(&l.out) }

// meanPrompt returns how many tokens a prompt has on average.
func (l *learned) meanPrompt() int64 { return int64(getFloat(&l.mean)) }

// wants reports whether an answer is to be heard: at first all, then some, so that
// requests do not all write to the same memory.
func (l *learned) wants(d dice) bool {
	return l.heard.Load() < hearAll || d.below(hearEach) == 0
}

// hear learns from an answer. It reports whether bytesPerToken has changed so much
// that the index's capacities are to follow.
func (l *learned) hear(c *Choice, s *infer.Served, err error) (resize bool) {
	if !l.mu.TryLock() {
		return false
	}
	defer l.mu.Unlock()
	n := l.heard.Load()
	if n < hearAll {
		l.heard.Store(n + 1)
	}
	part := max(0.02, 1/float64(n+8)) // what one answer counts
	out := s.Tokens.Output
	if out <= 0 {
		out = s.Events
	}
	if err == nil && out >= 0 && out <= maxAnswer && (out > 0 || s.Tokens.Input > 0) {
		setFloat(&l.out, getFloat(&l.out)+part*(float64(out)-getFloat(&l.out)))
	}
	in, bytes := float64(s.Tokens.Input), float64(c.bytes)
	if in <= 0 || bytes < minRatio*in || bytes > maxRatio*in {
		return false
	}
	setFloat(&l.mean, getFloat(&l.mean)+part*(in-getFloat(&l.mean)))
	// Long prompts say more of the ratio, short ones more of the chat template.
	in, bytes = min(in, 100*startPrompt), bytes*min(1, 100*startPrompt/in)
	keep := 1 - in/(in+20*getFloat(&l.mean))
	l.bytes, l.tokens = l.bytes*keep+bytes, l.tokens*keep+in
	ratio := l.bytes / l.tokens
	setFloat(&l.ratio, ratio)
	if was := getFloat(&l.size); ratio > 1.1*was || ratio < was/1.1 {
		setFloat(&l.size, ratio)
		return true
	}
	return false
}

// indexes makes m tell how much memory of b is in use.
func (m *Metrics) indexes(b *blocks.Budget) {
	m.IndexBytes.Set(func() float64 { return float64(b.Used()) })
}
