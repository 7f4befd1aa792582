package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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
	f(exitUsage, "prefill-rate 1e-09 is not between 1 and", "--trace", "sample", "--prefill-rate", "1e-9")
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

func TestReplayReadsFromStandardInput(t *testing.T) {
	var out, errs strings.Builder
	in := strings.NewReader(`{"timestamp":0,"input_length":1000,"output_length":5}`)
	code := Main([]string{"replay", "--trace", "-", "--policies", "random", "--workers", "1", "--warmup", "0"}, in, &out, &errs)
	if code != exitOK || !strings.Contains(out.String(), "standard input: 1 requests") || errs.Len() > 0 {
		t.Errorf("%d: %s%s", code, out.String(), errs.String())
	}
	if code, _, errs := run("replay", "--trace", "-"); code != exitFailed || !strings.Contains(errs, "reading trace from standard input: it has no rows") {
		t.Errorf("%d: %s", code, errs)
	}
}

func TestReplayTakesValuesWithCommas(t *testing.T) {
	code, out, errs := run("replay", "--trace", "sample", "--workers", "4", "--json", "--policies",
		"random, cache_aware:cache-index=hash:cache-boundaries=10,20,cache_aware:cache-boundaries=512,1024:cache-index=hash,least_load")
	var res struct {
		Rows []struct {
			Policy string `json:"policy"`
		} `json:"rows"`
	}
	if err := json.Unmarshal([]byte(out), &res); err != nil || code != exitOK || errs != "" {
		t.Fatalf("%d, %v: %s%s", code, err, out, errs)
	}
	var got []string
	for _, r := range res.Rows {
		got = append(got, r.Policy)
	}
	want := []string{"random", "cache_aware:cache-index=hash:cache-boundaries=10,20", "cache_aware:cache-boundaries=512,1024:cache-index=hash", "least_load"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for list, want := range map[string]string{
		"random,20":                                       `unknown policy "20"`,
		"cost:cost-kv-full=0.5,least_laod":                `unknown policy "least_laod"; did you mean least_load?`,
		"cost:cost-kv-full=0.5,2":                         "is taken for more of its value",
		"prefix_hash:routing-key-override,x":              `unknown policy "x"`,
		"cost:cost-kv-full=0.5,random:cost-kv-fulll=0.25": "did you mean --cost-kv-full?",
	} {
		if code, _, errs := run("replay", "--trace", "sample", "--policies", list); code != exitUsage || !strings.Contains(errs, want) {
			t.Errorf("%s: %d: %s", list, code, errs)
		}
	}
}

func TestReplaySaysWhatHasNoEffect(t *testing.T) {
	f := func(want string, args ...string) {
		t.Helper()
		code, _, errs := run(append([]string{"replay", "--workers", "4"}, args...)...)
		if want != "" {
			want = "sluice replay: a setting has no effect: " + want + "\n"
		}
		if code != exitOK || errs != want {
			t.Errorf("%v: %d: %q; want %q", args, code, errs, want)
		}
	}
	sample := []string{"--trace", "sample", "--policies"}
	f("cost-kv-tokens does nothing with policy random", append(sample, "random:cost-kv-tokens=5")...)
	f("cache-threshold does nothing with policy bucket", append(sample, "bucket:balance-abs-threshold=5:cache-threshold=0.4")...)
	f("cache-boundaries does nothing without cache-index hash", append(sample, "cache_aware:cache-boundaries=10")...)
	f("max-idle-secs does nothing with policy random", append(sample, "random:max-idle-secs=5")...)
	f("", append(sample, "random:max-idle-secs=5:routing-key-override=true")...)
	f("dp-minimum-tokens-scheduler does nothing in a replay: no rank is known", append(sample, "random:dp-minimum-tokens-scheduler")...)
	f("", append(sample, "cost:cost-kv-full=0.5,cache_aware:cache-threshold=0.2,least_load:least-load-mean-prefill-tokens=9,manual:max-idle-secs=9")...)
	f("session-rate does nothing with a trace that has no sessions", append(sample, "random", "--session-rate", "2")...)
	f("crowd-tokens does nothing without a crowd", append(sample, "random", "--crowd-tokens", "900")...)
	f("", append(sample, "random", "--crowd-tokens", "900", "--crowd", "1")...)
	sessions := []string{"--trace", "../kit/tracefile/testdata/sessions.jsonl.gz", "--policies", "random", "--session-time", "10s", "--session-rate", "1"}
	f("copies does nothing with a trace of sessions", append(sessions, "--copies", "2")...)
	f("", sessions...)
}

func TestReplaySaysWhatItCouldNotRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "r.jsonl")
	row := `{"timestamp":1763726400123,"input_length":850,"output_length":5,"hash_ids":[11,12],"block_tokens":128}` + "\n"
	for broken, want := range map[string]string{
		row + `{"timestamp":17` + row + row:              "line 2 cannot be read and is left out: invalid character",
		row + `{"timestamp":17` + row + row + `{"timest`: "2 lines cannot be read and are left out; the first is line 2: invalid character",
		row + row: "",
		row + row + "{\"timestamp\":1763726400123,\"input": "line 3 cannot be read and is left out: unexpected end",
	} {
		if err := os.WriteFile(file, []byte(broken), 0o600); err != nil {
			t.Fatal(err)
		}
		code, out, errs := run("replay", "--trace", file, "--policies", "random", "--workers", "1", "--warmup", "0")
		if code != exitOK || !strings.Contains(out, ": 2 requests") || !strings.Contains(errs, want) || want == "" && errs != "" {
			t.Errorf("%d: %s%s; want %q", code, out, errs, want)
		}
	}
}
