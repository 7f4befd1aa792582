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
with turns). "sample" is a small one that is built in, - is standard input.
`

// replayOptions are those that are not the simulation's.
type replayOptions struct {
	Trace    string `flag:"trace" help:"trace to replay, compressed with gzip or not; sample for a small one that is built in, - for standard input"`
	Policies string `flag:"policies" help:"policies to compare, with commas in between; a policy's settings follow it, each after a colon and named as the flags of serve are, and their values may have commas; all for every policy"`
	JSON     bool   `flag:"json" help:"print the result as JSON, or as error why there is none"`
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
	std.json = opt.JSON
	trace, err := loadTrace(opt.Trace, std.in)
	if err != nil {
		return failed(std, "replay", err)
	}
	remark(std.err, &opt, &cfg, fs.Changed, trace, contenders)
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
	if res.Trace = filepath.Base(opt.Trace); opt.Trace == fromInput {
		res.Trace = "standard input"
	}
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

// fromInput is the name of the trace that comes through standard input.
const fromInput = "-"

// loadTrace reads the trace that is named.
func loadTrace(name string, in io.Reader) (*tracefile.Trace, error) {
	switch name {
	case "sample":
		return tracefile.Sample()
	case fromInput:
		t, err := tracefile.Read(in)
		if err != nil {
			return nil, fmt.Errorf("reading trace from standard input: %w", err)
		}
		return t, nil
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
	for _, item := range itemsOf(list) {
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

// itemsOf takes a list of policies apart at its commas. What follows a setting
// and is no policy's name is more of the setting's value: cache-boundaries=10,20.
func itemsOf(list string) []string {
	var items []string
	for piece := range strings.SplitSeq(list, ",") {
		piece = strings.TrimSpace(piece)
		if n := len(items) - 1; n >= 0 && !namesPolicy(piece) && endsInValue(items[n]) {
			items[n] += "," + piece
			continue
		}
		items = append(items, piece)
	}
	return items
}

// namesPolicy reports whether an item begins with a policy's name, or with what
// was meant to be one.
func namesPolicy(item string) bool {
	name, _, _ := strings.Cut(item, ":")
	return name == "" || name == "all" || slices.Contains(policy.Names(), name) || config.Nearest(name, policy.Names()) != ""
}

// endsInValue reports whether the last thing in an item is a setting's value.
func endsInValue(item string) bool {
	i := strings.LastIndexByte(item, ':')
	return i >= 0 && strings.Contains(item[i:], "=")
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
		hint := ""
		if strings.Contains(item, ",") {
			hint = "; what follows a setting's comma and is no policy is taken for more of its value"
		}
		return sim.Contender{}, fmt.Errorf("%s: %s%s", item, strings.ReplaceAll(err.Error(), "\n", "; "), hint)
	}
	return sim.Contender{Label: item, Policy: name, Settings: *s}, nil
}
