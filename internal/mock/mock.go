// Package mock simulates inference engines: SGLang, vLLM or llama.cpp as a
// gateway sees them, many in one process, without a GPU.
//
// An Engine answers the calls of OpenAI's, Anthropic's and SGLang's APIs with
// words that depend on nothing but the prompt and its parameters, so every
// engine of a Fleet gives the same answer and a test can know it before. A
// token is a word. Three parts make it behave as an engine does:
//
//   - The scheduler is the clock. It batches continuously: each step computes a
//     chunk of the waiting prompts and one token of every running answer, so the
//     first token comes later when prompts are long and tokens come slower when
//     many run. A client that leaves frees its place at once. With Config.Speed
//     0 no time passes at all, which is for measuring what stands before it.
//   - The block cache remembers prefixes in blocks, within a capacity that
//     running requests share, so a repeated prompt costs less time and says so
//     in usage.
//   - A Fault breaks an answer in a chosen way. It comes from the settings, from
//     rules that POST /mock/fault adds while the engine runs, or from the request
//     itself: the header X-Mock-Fault, or in the body "user" beginning with
//     "mock:" or metadata.mock_fault, because gateways drop unknown headers.
//
// An answer is as long as the request allows: max_tokens words with finish
// reason "length", or Config.OutputTokens words with "stop" if it sets no
// limit. Anthropic's API requires a limit, so there the shorter of the two
// counts, unless ignore_eos is set. A tool is called when tool_choice demands it
// or the last message is the user's and holds "[tool]"; a call is always
// complete, whatever the limit. The answer begins with reasoning when the
// request asks for it or its last user message holds "[think]".
//
// GET /mock/state shows counters, the request ids that came and how often, the
// load and the fault rules. POST /mock/kill?seconds=5 takes the engine off the
// network and brings it back; POST /mock/health and POST /mock/models change
// what it says of itself.
package mock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
)

// A Fleet is engines that run in one process.
type Fleet struct {
	cfg     Config
	engines []*Engine
}

// New returns a Fleet of cfg.Count engines. Nothing happens before Listen.
func New(cfg Config, log *slog.Logger) (*Fleet, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	f := &Fleet{cfg: cfg}
	for i := range cfg.Count {
		e, err := newEngine(cfg, i, log)
		if err != nil {
			return nil, err
		}
		f.engines = append(f.engines, e)
	}
	return f, nil
}

// Listen binds the ports of all engines, or none. Callers can connect from
// then on; they are answered once Serve runs.
func (f *Fleet) Listen() error {
	for i, e := range f.engines {
		port := f.cfg.Port
		if port != 0 {
			port += i
		}
		if err := e.bind(net.JoinHostPort(f.cfg.Host, strconv.Itoa(port))); err != nil {
			for _, bound := range f.engines[:i] {
				bound.unbind()
			}
			return fmt.Errorf("listening for engine %d: %w", i, err)
		}
	}
	return nil
}

// Addrs returns the engines' addresses as host:port, good after Listen.
func (f *Fleet) Addrs() []string {
	as := make([]string, len(f.engines))
	for i, e := range f.engines {
		as[i] = e.Addr()
	}
	return as
}

// URLs returns the engines' URLs, good after Listen.
func (f *Fleet) URLs() []string {
	us := f.Addrs()
	for i, a := range us {
		us[i] = "http://" + a
	}
	return us
}

// Len is how many engines there are.
func (f *Fleet) Len() int { return len(f.engines) }

// Engine returns engine i, counted from 0.
func (f *Fleet) Engine(i int) *Engine { return f.engines[i] }

// Seen returns the sum of what all engines counted.
func (f *Fleet) Seen() Seen {
	var sum Seen
	for _, e := range f.engines {
		sum = sum.Plus(e.Seen())
	}
	return sum
}

// Times says how often the request id came to all engines together.
func (f *Fleet) Times(id string) Times {
	var sum Times
	for _, e := range f.engines {
		t := e.Times(id)
		sum.Asked += t.Asked
		sum.Begun += t.Begun
		sum.Served += t.Served
	}
	return sum
}

// Serve answers until ctx is done, then cuts what still runs. All goroutines
// that the Fleet starts end before it returns.
func (f *Fleet) Serve(ctx context.Context) error {
	var errs []error
	for _, e := range f.engines {
		if err := e.start(); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		<-ctx.Done()
	}
	for _, e := range f.engines {
		e.end()
	}
	return errors.Join(errs...)
}
