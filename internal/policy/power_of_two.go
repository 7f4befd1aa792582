package policy

import (
	"fmt"
	"slices"
	"strings"

	"sluice/internal/fleet"
	"sluice/internal/infer"
)

// PowerOfTwoConfig says what power_of_two compares.
type PowerOfTwoConfig struct {
	Metric string `yaml:"load_metric" flag:"power-of-two-load-metric" choices:"expected_wait,requests,least_requests" help:"what power_of_two compares: the wait that workers report, or the requests that this gateway has with them (requests and least_requests are the same)"`
}

// DefaultPowerOfTwoConfig returns the contract's default.
func DefaultPowerOfTwoConfig() PowerOfTwoConfig { return PowerOfTwoConfig{Metric: "expected_wait"} }

// Validate reports everything that is wrong with c.
func (c PowerOfTwoConfig) Validate() error {
	if known := []string{"expected_wait", "requests", "least_requests"}; !slices.Contains(known, c.Metric) {
		return fmt.Errorf("power-of-two-load-metric %q is none of %s", c.Metric, strings.Join(known, ", "))
	}
	return nil
}

// powerOfTwo asks two different workers, chosen at random, and takes the less
// busy one (Mitzenmacher, "The Power of Two Choices in Randomized Load
// Balancing", 2001).
type powerOfTwo struct {
	byWait bool
	waits  waits // with the defaults: the flags are least_load's
	dice   dice
}

func newPowerOfTwo(s *Settings) *powerOfTwo {
	return &powerOfTwo{s.PowerOfTwo.Metric == "expected_wait", newWaits(DefaultLeastLoadConfig()), s.dice()}
}

func (p *powerOfTwo) Bind(ws []*fleet.Worker) Picker { return &powerOfTwoPicker{p, crewOf(ws)} }

type powerOfTwoPicker struct {
	*powerOfTwo
	ws crew
}

// Pick implements Picker.
func (p *powerOfTwoPicker) Pick(r *infer.Request, c *Choice) *fleet.Worker {
	n := len(p.ws.workers)
	c.Considered = min(n, 2)
	if n == 1 {
		c.Why = "only"
		return p.ws.workers[0]
	}
	i, step := p.dice.step(n)
	if p.byWait {
		return p.waits.shortest(p.ws, i, step, 2, r.Received, c)
	}
	c.Why = "fewest"
	j := onward(i, step, n)
	if p.ws.meters[j].InFlight() < p.ws.meters[i].InFlight() {
		return p.ws.workers[j]
	}
	return p.ws.workers[i]
}
