package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// run runs a command and returns how it ended and what it printed.
func run(args ...string) (code int, out, err string) {
	var o, e strings.Builder
	code = Main(args, strings.NewReader(""), &o, &e)
	return code, o.String(), e.String()
}

func TestReplayPrintsWhatAScriptCanRead(t *testing.T) {
	code, out, errs := run("replay", "--trace", "sample", "--policies", "random,least_load", "--workers", "4", "--speed", "0.5", "--json")
	var res struct {
		Rows []struct {
			Policy string  `json:"policy"`
			Hit    float64 `json:"hit"`
			Mean   float64 `json:"ttft_mean_s"`
			P50    float64 `json:"ttft_p50_s"`
			P90    float64 `json:"ttft_p90_s"`
			P99    float64 `json:"ttft_p99_s"`
		} `json:"rows"`
	}
	if err := json.Unmarshal([]byte(out), &res); err != nil || code != exitOK || errs != "" {
		t.Fatalf("%d, %v: %s%s", code, err, out, errs)
	}
	if len(res.Rows) != 2 || res.Rows[0].Policy != "random" || res.Rows[1].Policy != "least_load" {
		t.Fatalf("%+v", res)
	}
	for _, r := range res.Rows {
		if !(0 < r.P50 && r.P50 < r.P90 && r.P90 < r.P99 && r.Mean > 0 && r.Hit > 0) {
			t.Errorf("%+v", r)
		}
	}
}

func TestReplayDraws(t *testing.T) {
	for file, begins := range map[string]string{"a.svg": "<svg ", "b.html": "<!doctype html>"} {
		file = filepath.Join(t.TempDir(), file)
		if code, out, errs := run("replay", "--trace", "sample", "--policies", "random", "--plot", file); code != exitOK || !strings.Contains(out, "random") {
			t.Fatalf("%d: %s%s", code, out, errs)
		}
		if b, err := os.ReadFile(file); err != nil || !strings.HasPrefix(string(b), begins) {
			t.Errorf("%v: %.100s", err, b)
		}
	}
}

func TestReplaySaysWhatToDo(t *testing.T) {
	f := func(code int, want string, args ...string) {
		t.Helper()
		got, out, errs := run(append([]string{"replay"}, args...)...)
		if got != code || !strings.Contains(errs, want) || out != "" {
			t.Errorf("%v: exit %d, want %d\n%s%s", args, got, code, out, errs)
		}
	}
	sample := []string{"--trace", "sample", "--policies"}
	f(exitUsage, "trace is missing; name a file")
	f(exitUsage, "unknown flag --polices; did you mean --policies?", "--polices", "x")
	f(exitUsage, `unknown policy "least_laod"; did you mean least_load?`, append(sample, "least_laod")...)
	f(exitUsage, "policies is empty", append(sample, " ,")...)
	f(exitUsage, "random:port=1: --port is not a setting of a policy", append(sample, "random:port=1")...)
	f(exitUsage, "--config is not a setting of a policy", append(sample, "random:config=x")...)
	f(exitUsage, "did you mean --prefix-hash-load-factor?", append(sample, "prefix_hash:prefix-hash-load-facto=1")...)
	f(exitUsage, `plot "x.png": the name of the file must end in .svg or .html`, "--trace", "sample", "--plot", "x.png")
	f(exitUsage, "workers 0 is not between", "--trace", "sample", "--workers", "0")
	f(exitFailed, "no such file", "--trace", filepath.Join(t.TempDir(), "none"))
	f(exitFailed, "--kv-tokens must be at least", "--trace", "sample", "--kv-tokens", "1000")
}

func TestReplayHelpTeaches(t *testing.T) {
	code, out, _ := run("replay", "--help")
	for _, want := range []string{"sluice replay --trace sample", "--policies", "--kv-tokens", "--slo", "--prefill-rate"} {
		if code != exitOK || !strings.Contains(out, want) {
			t.Errorf("%d: no %q in\n%s", code, want, out)
		}
	}
}
