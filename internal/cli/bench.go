package cli

import (
	"encoding/json"
	"fmt"
	"io"

	"sluice/internal/bench"
)

const benchHelp = `Measure a server that speaks OpenAI's, Anthropic's or SGLang's API.

  sluice bench --url http://127.0.0.1:30000 --model m1 --concurrency 32 --stream
  sluice bench --url http://127.0.0.1:30000 --model m1 --rate 100 --duration 60s --json
  sluice bench --url http://127.0.0.1:30000 --model m1 --sessions agents.jsonl --rate 2

With --concurrency, requests follow each other (closed loop); with --rate, they
begin on time however slow the answers are, and latency counts from that time.
With --sessions, recorded conversations are played turn by turn.
`

// benchmark runs a measurement and prints it.
func benchmark(args []string, std streams) int {
	cfg := bench.DefaultConfig()
	opt := struct {
		JSON bool `flag:"json" help:"print the result as JSON, or as error why there is none"`
	}{}
	fs := flagsOf("bench", &cfg)
	if fs.Lookup("json") == nil {
		fs.BoolVar(&opt.JSON, "json", false, "print the result as JSON, or as error why there is none")
	}
	if wantsHelp(args) {
		usage(std.out, benchHelp, fs)
		return exitOK
	}
	if err := parse(fs, args); err != nil {
		return refuse(std, "bench", err)
	}
	if err := cfg.Validate(); err != nil {
		return refuse(std, "bench", err)
	}
	std.json = opt.JSON
	ctx, stop := untilSignal()
	defer stop()
	var progress io.Writer
	if _, ok := onTerminal(std.err); ok {
		progress = std.err
	}
	res, err := bench.Run(ctx, cfg, progress, std.err)
	if err != nil {
		return failed(std, "bench", err)
	}
	if opt.JSON {
		enc := json.NewEncoder(std.out)
		enc.SetIndent("", "  ")
		err = enc.Encode(res)
	} else {
		_, colour := onTerminal(std.out)
		err = res.WriteTable(std.out, colour)
	}
	if err != nil {
		return failed(std, "bench", fmt.Errorf("printing the result: %w", err))
	}
	if res.Requests.OK == 0 && res.Requests.Failed > 0 {
		return exitFailed // a script must not take this for a measurement
	}
	return exitOK
}
