package cli

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sluice/internal/config"
	"sluice/internal/kit/tracefile"
	"sluice/internal/policy"
	"sluice/internal/sim"
)

const replayHelp = `Replay a trace on a simulated fleet, under any policies, and compare what its
users would have seen. The policies are the ones that serve; only the engines
are simulated, so an hour of traffic takes seconds and no GPU.

  sluice replay --trace sample
  sluice replay --trace requests.jsonl.gz --policies all --workers 16 --kv-tokens 1000000 --speed 0.9
  sluice replay --trace requests.jsonl --policies cost,cache_aware:cache-threshold=0.5 --plot replay.html
  sluice replay --trace requests.jsonl --policies cost --slo 2     # how much load it can take

A trace is a file in Mooncake's form (JSON lines with timestamp, input_length,
output_length, hash_ids), what this gateway has recorded, or sessions (lines
with turns). "sample" is a small one that is built in.
`

// replayOptions are those that are not the simulation's.
type replayOptions struct {
	Trace    string `flag:"trace" help:"trace to replay, compressed with gzip or not; sample for a small one that is built in"`
	Policies string `flag:"policies" help:"policies to compare, with commas in between; a policy's settings follow it, each after a colon and named as the flags of serve are; all for every policy"`
	JSON     bool   `flag:"json" help:"print the result as JSON"`
	Plot     string `flag:"plot" help:"also draw the result into this file, .svg or .html"`
}

// replay runs a simulation and prints it.
func replay(args []string, std streams) int {
	opt, cfg := replayOptions{Policies: "all"}, sim.DefaultConfig()
	fs := flagsOf("replay", &opt)
	fs.AddFlagSet(flagsOf("replay", &cfg))
	if wantsHelp(args) {
		usage(std.out, replayHelp, fs)
		return exitOK
	}
	if err := parse(fs, args); err != nil {
		return refuse(std, "replay", err)
	}
	contenders, err := contendersOf(opt.Policies)
	plot, plotErr := plotKind(opt.Plot)
	if err := errors.Join(opt.validate(), err, plotErr, cfg.Validate()); err != nil {
		return refuse(std, "replay", err)
	}
	trace, err := loadTrace(opt.Trace)
	if err != nil {
		return failed(std, "replay", err)
	}
	ctx, stop := untilSignal()
	defer stop()
	var progress io.Writer
	if _, ok := onTerminal(std.err); ok {
		progress = std.err
	}
	res, err := sim.Replay(ctx, cfg, trace, contenders, progress)
	if err != nil {
		return failed(std, "replay", err)
	}
	res.Trace = filepath.Base(opt.Trace)
	if opt.Plot != "" {
		var b bytes.Buffer
		if err := res.WritePlot(&b, plot); err != nil {
			return failed(std, "replay", fmt.Errorf("drawing the result: %w", err))
		}
		if err := os.WriteFile(opt.Plot, b.Bytes(), 0o644); err != nil {
			return failed(std, "replay", fmt.Errorf("writing the plot: %w", err))
		}
	}
	if err := printReplay(std.out, res, opt.JSON); err != nil {
		return failed(std, "replay", fmt.Errorf("printing the result: %w", err))
	}
	return exitOK
}

// validate reports what is wrong with the options by themselves.
func (o replayOptions) validate() error {
	if o.Trace == "" {
		return errors.New("trace is missing; name a file in Mooncake's form, or sample for a small one that is built in")
	}
	return nil
}

func printReplay(out io.Writer, res *sim.Result, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(res)
	}
	_, color := onTerminal(out)
	return res.WriteTable(out, color)
}

// loadTrace reads the trace that is named.
func loadTrace(name string) (*tracefile.Trace, error) {
	if name == "sample" {
		return tracefile.Sample()
	}
	return tracefile.Load(name)
}

// plotKind returns in what form the file's name asks to be drawn.
func plotKind(file string) (sim.Plot, error) {
	switch strings.ToLower(filepath.Ext(file)) {
	case ".svg", "":
		if file == "" || filepath.Ext(file) != "" {
			return sim.SVG, nil
		}
	case ".html", ".htm":
		return sim.HTML, nil
	}
	return sim.SVG, fmt.Errorf("plot %q: the name of the file must end in .svg or .html", file)
}

// contendersOf reads a list of policies.
func contendersOf(list string) ([]sim.Contender, error) {
	var cs []sim.Contender
	var errs []error
	seen := make(map[string]bool)
	for item := range strings.SplitSeq(list, ",") {
		item = strings.TrimSpace(item)
		items := []string{item}
		if item == "all" {
			items = items[:0]
			for _, name := range policy.Names() {
				if name != "passthrough" { // it is for fleets of one
					items = append(items, name)
				}
			}
		}
		for _, item := range items {
			if item == "" || seen[item] {
				continue
			}
			seen[item] = true
			c, err := contenderOf(item)
			if err != nil {
				errs = append(errs, fmt.Errorf("policies: %w", err))
				continue
			}
			cs = append(cs, c)
		}
	}
	if len(cs) == 0 && len(errs) == 0 {
		errs = append(errs, fmt.Errorf("policies is empty; want some of %s, or all", strings.Join(policy.Names(), ", ")))
	}
	return cs, errors.Join(errs...)
}

// contenderOf reads one policy: its name and, each after a colon, settings.
func contenderOf(item string) (sim.Contender, error) {
	parts := strings.Split(item, ":")
	name := parts[0]
	if !slices.Contains(policy.Names(), name) {
		hint := ""
		if n := config.Nearest(name, policy.Names()); n != "" {
			hint = fmt.Sprintf("; did you mean %s?", n)
		}
		return sim.Contender{}, fmt.Errorf("unknown policy %q%s want some of %s, or all", name, cmp.Or(hint, ";"), strings.Join(policy.Names(), ", "))
	}
	var args []string
	for _, p := range parts[1:] {
		args = append(args, "--"+strings.TrimPrefix(p, "--"))
	}
	s, err := config.LoadPolicySettings(args)
	if err != nil {
		return sim.Contender{}, fmt.Errorf("%s: %s", item, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return sim.Contender{Label: item, Policy: name, Settings: *s}, nil
}
