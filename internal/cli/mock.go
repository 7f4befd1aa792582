package cli

import (
	"fmt"
	"log/slog"

	"sluice/internal/mock"
)

const mockHelp = `Run simulated engines: every endpoint of a real one, deterministic text,
batching and a prefix cache that behave, faults on demand. All in one process,
on ports PORT … PORT+COUNT-1.

  sluice mock --port 9101 --count 4 --model m1
  sluice mock --engine vllm --speed 0            # answer at once, to measure a gateway
  curl -d '{"spec":"status=500","count":5}' http://127.0.0.1:9101/mock/fault
`

// mockEngines runs simulated engines until a signal ends them.
func mockEngines(args []string, std streams) int {
	cfg := mock.DefaultConfig()
	fs := flagsOf("mock", &cfg)
	if wantsHelp(args) {
		usage(std.out, mockHelp, fs)
		return exitOK
	}
	if err := parse(fs, args); err != nil {
		return refuse(std, "mock", err)
	}
	if err := cfg.Validate(); err != nil {
		return refuse(std, "mock", err)
	}
	engines, err := mock.New(cfg, slog.New(slog.NewTextHandler(std.err, nil)))
	if err != nil {
		return failed(std, "mock", err)
	}
	if err := engines.Listen(); err != nil {
		return failed(std, "mock", err)
	}
	for _, u := range engines.URLs() {
		fmt.Fprintln(std.out, u)
	}
	ctx, stop := untilSignal()
	defer stop()
	if err := engines.Serve(ctx); err != nil {
		return failed(std, "mock", err)
	}
	return exitOK
}
