// Package sim replays a trace of requests on a simulated fleet, under any
// policies, in virtual time: hours of a hundred engines in seconds.
//
// The engines are a model. The policies are not: they are made, bound, asked and
// told by the same calls as in the gateway, on the same workers and leases, and
// read prompts that are text. So what a replay compares is the code that serves.
package sim

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"sluice/internal/kit/tracefile"
	"sluice/internal/policy"
)

// A Contender is a policy to replay the trace under.
type Contender struct {
	Label    string // as the Result names it
	Policy   string // a name that policy.New knows
	Settings policy.Settings
}

// How long a replay goes on after the last arrival: a share of the time until
// then, but not less than leastSlack. What has not been answered by then counts
// with the time it has waited.
const (
	slack         = 0.5
	slackCapacity = 0.1
	leastSlack    = 2 * time.Minute
)

// Replay replays t under each of the contenders, on as many cores as there are,
// and returns a Result with a Row for each in their order. Figures follow from
// cfg, t and the contender alone. progress, if not nil, is a terminal on which
// one line is kept up to date; it is blank again in the end.
//
// Errors: cfg is wrong, t does not fit it, a policy cannot be made, or ctx ended.
func Replay(ctx context.Context, cfg Config, t *tracefile.Trace, contenders []Contender, progress io.Writer) (*Result, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	w, err := newWorkload(t, &cfg, cfg.Speed)
	if err != nil {
		return nil, fmt.Errorf("the trace cannot be replayed: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := &work{total: int64(len(contenders)) * int64(len(w.requests))}
	if cfg.SLO > 0 {
		work.total *= 1 + probes
	}
	var wg sync.WaitGroup
	if progress != nil {
		end := make(chan struct{})
		defer wg.Wait()
		defer close(end)
		wg.Go(func() { showProgress(progress, work, end) })
	}
	rows := make([]Row, len(contenders))
	var next atomic.Int64
	var cores sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(contenders)) {
		cores.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(contenders) {
					return
				}
				row, err := replay(ctx, &cfg, t, w, contenders[i], work)
				if err != nil {
					cancel(fmt.Errorf("policy %s: %w", contenders[i].Label, err))
					return
				}
				rows[i] = row
			}
		})
	}
	cores.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return newResult(&cfg, w, rows), nil
}

// work is how far a Replay is.
type work struct {
	total int64
	done  atomic.Int64
}

// replay replays w under one policy, and finds its capacity if that is asked for.
func replay(ctx context.Context, cfg *Config, t *tracefile.Trace, w *workload, c Contender, work *work) (Row, error) {
	s, err := simulate(ctx, cfg, w, c, slack, work)
	if err != nil {
		return Row{}, err
	}
	row := s.row(c.Label)
	if cfg.SLO > 0 {
		row.Capacity, err = capacity(ctx, cfg, t, c, work)
	}
	return row, err
}

// simulate runs one simulation to its end.
func simulate(ctx context.Context, cfg *Config, w *workload, c Contender, slack float64, work *work) (*simulation, error) {
	s, err := newSimulation(cfg, w, c, slack, &work.done)
	if err != nil {
		return nil, err
	}
	return s, s.run(ctx)
}

// probes is how many speeds are tried to find a capacity.
const probes = 9

// capacity finds the greatest speed at which the first tokens come in time.
func capacity(ctx context.Context, cfg *Config, t *tracefile.Trace, c Contender, work *work) (*Capacity, error) {
	const stride = 1.35 // until a bound is found on either side
	best := new(Capacity)
	slow, fast := 0.0, 0.0 // 0: not found
	speed := cfg.Speed
	for range probes {
		w, err := newWorkload(t, cfg, speed)
		if err != nil {
			return nil, fmt.Errorf("at --speed %.3g: %w", speed, err)
		}
		s, err := simulate(ctx, cfg, w, c, slackCapacity, work)
		if err != nil {
			return nil, err
		}
		if row := s.row(c.Label); float64(row.TTFTP90) <= cfg.SLO.Seconds() {
			slow = speed
			*best = Capacity{Speed: speed, Rate: row.Rate, TTFTP90: row.TTFTP90, Hit: row.Hit}
		} else {
			fast = speed
		}
		switch {
		case fast == 0:
			speed *= stride
		case slow == 0:
			speed /= stride
		default:
			speed = (slow + fast) / 2
		}
	}
	return best, nil
}
