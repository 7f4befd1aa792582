package main

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/internal/kit/bubble"
)

func TestMedian(t *testing.T) {
	f := func(want float64, v ...float64) {
		t.Helper()
		if got := median(v); got != want {
			t.Errorf("median of %v: %g, want %g", v, got, want)
		}
	}
	f(7, 7)
	f(2, 3, 1, 2)
	f(2.5, 4, 1, 3, 2)
	f(2, 1000, 2, 1)
}

func TestSchedstat(t *testing.T) {
	r, err := parseSchedstat("123456789 2000 42\n")
	if err != nil || r != (ran{cpu: 123456789, waited: 2000}) {
		t.Errorf("got %v, %v", r, err)
	}
	for _, s := range []string{"", "x 1 2", "1"} {
		if _, err := parseSchedstat(s); err == nil {
			t.Errorf("%q was read", s)
		}
	}
	if got := (ran{cpu: 5, waited: 3}).since(ran{cpu: 2, waited: 2}); got != (ran{cpu: 3, waited: 1}) {
		t.Errorf("since: %v", got)
	}
}

func TestFiguresOfALine(t *testing.T) {
	s := func(cores, round int, work, proxy string, v float64) sample {
		return sample{Cores: cores, Round: round, Work: work, Proxy: proxy, Figures: map[string]float64{"p50": v}}
	}
	all := []sample{
		s(1, 0, "rate", direct, 100), s(1, 0, "rate", "sluice", 180),
		s(1, 1, "rate", direct, 150), s(1, 1, "rate", "sluice", 200),
		s(2, 0, "rate", direct, 10), s(2, 0, "rate", "sluice", 30),
		s(1, 0, "unary", "sluice", 999),
	}
	f := func(what string, cores int, l line, want ...float64) {
		t.Helper()
		got := figures(all, cores, "rate", "sluice", l)
		if len(got) != len(want) {
			t.Fatalf("%s: %v, want %v", what, got, want)
		}
		for i := range got {
			if got[i] != want[i] {
				t.Errorf("%s: %v, want %v", what, got, want)
			}
		}
	}
	f("as measured", 1, line{figure: "p50"}, 180, 200)
	f("beside the direct run of the same round", 1, line{figure: "p50", added: true}, 80, 50)
	f("at the same number of cores", 2, line{figure: "p50", added: true}, 20)
	f("of the other work that has it", 2, line{figure: "p50"}, 30)
	f("what was not measured", 1, line{figure: "p99"})
}

func TestRatio(t *testing.T) {
	f := func(want string, a, b map[int]float64) {
		t.Helper()
		if got := ratio(a, b); got != want {
			t.Errorf("%v to %v: %q, want %q", a, b, got, want)
		}
	}
	f("2.00", map[int]float64{0: 2, 1: 20, 2: 200}, map[int]float64{0: 1, 1: 10, 2: 10})
	f("3.00", map[int]float64{0: 2, 1: 3}, map[int]float64{1: 1}) // of rounds that have both
	f("", map[int]float64{0: -2}, map[int]float64{0: 1})
	f("", nil, map[int]float64{0: 1})
}

func TestTable(t *testing.T) {
	figures := func(us float64) map[string]float64 { return map[string]float64{"cpu_us": us, "waited": 0.2} }
	var out bytes.Buffer
	table(&out, result{
		Machine: "a machine", Versions: map[string]string{"go": "go1"},
		Options: options{Proxies: []string{"haproxy", "floor", "sluice", "old=/bin/old"}, Cores: []int{1}, Rounds: 2, Seconds: 1},
		Samples: []sample{
			{Cores: 1, Work: "unary", Proxy: "haproxy", Figures: figures(20)},
			{Cores: 1, Work: "unary", Proxy: "floor", Figures: figures(10)},
			{Cores: 1, Work: "unary", Proxy: "sluice", Figures: figures(14)},
			{Cores: 1, Work: "unary", Round: 1, Proxy: "sluice", Figures: figures(16)},
			{Cores: 1, Work: "unary", Proxy: "old", Figures: figures(40)},
		},
	})
	for _, want := range []string{
		"a machine; go go1; 2 rounds of 1 s; medians, and medians of the rounds' ratios.",
		"wait for it 20 % of the time",
		"| cores | work | | haproxy | floor | sluice | old | sluice ÷ haproxy | sluice ÷ floor | bar |\n",
		"| CPU µs/request | 20.0 | 10.0 | 15.0 | 40.0 | 0.70 | 1.40 | ≤ 0.95 haproxy, ≤ 1.3 floor |\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
	if n := strings.Count(out.String(), "\n| 1 |"); n != 1 {
		t.Errorf("%d rows, want the one that was measured:\n%s", n, out.String())
	}
}

func TestCalls(t *testing.T) {
	const trace = `100 1700000000.500000 read(7<TCP:[127.0.0.1:8000->127.0.0.1:40001]>, ""..., 4096) = 1200
100 1700000001.000000 read(7<TCP:[127.0.0.1:8000->127.0.0.1:40001]>, ""..., 4096) = 1200
101 1700000001.100000 write(8<TCP:[127.0.0.1:50000->127.0.0.1:9002]>, ""..., 1300 <unfinished ...>
100 1700000001.200000 write(2</tmp/x.log>, ""..., 200) = 200
101 1700000001.300000 <... write resumed>) = 1300
100 1700000001.400000 read(8<TCP:[127.0.0.1:50000->127.0.0.1:9002]>, 0xc000, 4096) = -1 EAGAIN (Resource temporarily unavailable)
100 1700000001.410000 read(8<TCP:[127.0.0.1:50000->127.0.0.1:9002]>, ""..., 4096) = 1100
100 1700000001.500000 writev(7<TCP:[127.0.0.1:8000->127.0.0.1:40001]>, [{iov_base=""..., iov_len=90}], 1) = 90
100 1700000001.600000 write(9<TCP:[127.0.0.1:29000->127.0.0.1:40002]>, ""..., 4096) = 4096
100 1700000001.700000 write(3<anon_inode:[eventfd]>, ""..., 8) = 8
100 1700000001.800000 --- SIGURG {si_signo=SIGURG} ---
100 1700000003.000000 read(7<TCP:[127.0.0.1:8000->127.0.0.1:40001]>, ""..., 4096) = 0
`
	got, err := count(strings.NewReader(trace), time.Unix(1700000001, 0), time.Unix(1700000002, 0), 8000, []int{9001, 9002})
	if err != nil {
		t.Fatal(err)
	}
	if got.exchange != 5 || got.other != 3 {
		t.Errorf("%g calls of the exchange and %g others, want 5 and 3: %v", got.exchange, got.other, got.kinds)
	}
	for _, kind := range []string{"client read", "worker write", "worker read in vain", "worker read", "client writev", "x.log write", "TCP write", "anon_inode write"} {
		if got.kinds[kind] != 1 {
			t.Errorf("%s: %g, want 1 in %v", kind, got.kinds[kind], got.kinds)
		}
	}
	if s := got.per(2); !strings.Contains(s, "client writev 0.50") {
		t.Errorf("told as %q", s)
	}
}

func TestChatBody(t *testing.T) {
	for _, size := range []int{2 << 10, 200_000, 2 << 20} {
		b, err := chatBody(size, true)
		if err != nil {
			t.Fatal(err)
		}
		if !json.Valid(b) || !bytes.HasPrefix(b, []byte(`{"messages":`)) {
			t.Fatalf("%d bytes begin %.40s", size, b)
		}
		if got := float64(len(b)) / float64(size); math.Abs(got-1) > 0.2 {
			t.Errorf("%d bytes were asked for and %d made", size, len(b))
		}
		// The worker looks at the last 255 bytes only.
		if !bytes.Contains(b[len(b)-255:], []byte(`"stream":true`)) {
			t.Errorf("a body of %d bytes ends %s", size, b[len(b)-255:])
		}
		if bytes.Count(b, []byte(`\"`)) == 0 || bytes.Count(b, []byte(`\n`)) == 0 {
			t.Errorf("a body of %d bytes has no escapes", size)
		}
	}
}

func TestFollow(t *testing.T) {
	var (
		r     loadResult
		steps []string
		in    bytes.Buffer
	)
	note := func(s string) func() error { return func() error { steps = append(steps, s); return nil } }
	err := follow(strings.NewReader("begin\nend\n{\"requests\":7,\"p99\":1.5}\n"), &in, note("begin"), note("end"), &r)
	if err != nil || strings.Join(steps, " ") != "begin end" || r.Requests != 7 || r.P99 != 1.5 || in.String() != "\n" {
		t.Errorf("%v %v %+v %q", err, steps, r, in.String())
	}
	if err := follow(strings.NewReader("begin\n"), &in, note(""), note(""), &r); err == nil {
		t.Error("a load generator that dies is not noticed")
	}
}

func TestJudge(t *testing.T) {
	if err := judge([]gate{{what: "at its bar", have: 4, bar: 4}}); err != nil {
		t.Error(err)
	}
	if err := judge([]gate{{what: "ok", have: 1, bar: 2}, {what: "over", have: 2.1, bar: 2}}); err == nil {
		t.Error("a bar that is not met passes")
	}
}

func TestNames(t *testing.T) {
	f := func(ok bool, only, proxy string) {
		t.Helper()
		if err := checkNames(options{Only: []string{only}, Proxies: []string{proxy}}); (err == nil) != ok {
			t.Errorf("%s, %s: %v", only, proxy, err)
		}
	}
	f(true, "unary", "sluice")
	f(true, "2m", "floor")
	f(false, "uni", "sluice")
	f(false, "unary", "envoy")
	f(false, "unary", "old=/no/such/file")
}

func TestGuestTable(t *testing.T) {
	var samples []sample
	add := func(proxy string, us ...float64) {
		for round, v := range us {
			samples = append(samples, sample{Cores: 1, Work: "wasm", Round: round, Proxy: proxy, Figures: map[string]float64{"cpu_us": v}})
		}
	}
	add(without, 20, 40, 21) // a round in which all was slow says what the others say
	add("c", 23, 44, 25)
	add("mine", 30, 50, 31)
	var out bytes.Buffer
	guestTable(&out, result{Options: options{Only: []string{"wasm", "wasm-sse"}, Modules: []string{"mine=/a/file", "quickjs=/b"}}, Samples: samples})
	for _, want := range []string{
		"| c | CPU µs/request | 21.0 | 25.0 | 4.0 | ≤ 5 |\n",
		"| mine | CPU µs/request | 21.0 | 31.0 | 10.0 |  |\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
	if n := strings.Count(out.String(), "\n| 1 |"); n != 2 {
		t.Errorf("%d rows, want those two that were measured:\n%s", n, out.String())
	}
}

func TestAloneTable(t *testing.T) {
	s := func(cores int, name string, f map[string]float64) sample {
		return sample{Cores: cores, Work: "hostile", Proxy: name, Figures: f}
	}
	var out bytes.Buffer
	aloneTable(&out, result{Options: options{Only: []string{"hostile"}, Cores: []int{1, 2}}, Samples: []sample{
		s(1, "spin", map[string]float64{"p50": 300, "p99": 900, "longest": 1000, "hostile": 80, "stopped50": 52000, "stopped99": 58000}),
		s(2, "none", map[string]float64{"p50": 200, "p99": 800, "longest": 850}),
	}})
	for _, want := range []string{"| 1 | spin | 300 | 900 | 1000 | 80 | 52000 | 58000 |\n", "| 2 | none | 200 | 800 | 850 |  |  |  |\n", "spin, chase ≤ 60000"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
}

func TestGuestCalls(t *testing.T) {
	const metrics = `# TYPE sluice_wasm_calls_total counter
sluice_wasm_calls_total{action="continue",hook="OnRequest",module="good"} 1.5e+06
sluice_wasm_calls_total{action="error",hook="OnRequest",module="bad"} 7
sluice_wasm_errors_total{hook="OnRequest",kind="trap",module="bad"} 7
`
	if calls, failed := sumOf(guestCalls, metrics), sumOf(guestErrors, metrics); calls != 1500007 || failed != 7 {
		t.Errorf("%g calls, %g failed; want 1500007 and 7", calls, failed)
	}
}

func TestWasmFlags(t *testing.T) {
	file := filepath.Join(t.TempDir(), "m.wasm")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := wasmFlags("a=" + file + ";order=1;paths=/v1/*")
	if want := []string{"--enable-wasm", "--wasm-module", "a=" + file + ";order=1;paths=/v1/*"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	if _, err := wasmFlags("a=/no/such/file.wasm;order=1"); err == nil {
		t.Error("a file that is not there is taken")
	}
}

// TestGuestsAreThere holds that the modules that are measured are where they are
// looked for, from the repository's root.
func TestGuestsAreThere(t *testing.T) {
	for _, g := range append(slices.Clone(askers), watchers...) {
		if _, err := os.Stat(filepath.Join("..", "..", g.file)); err != nil {
			t.Error(err)
		}
	}
}

// TestAProxyThatEnds holds that a gateway that does not start is not waited for, and
// that what it says is told.
func TestAProxyThatEnds(t *testing.T) {
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	x := &proxy{name: "sluice", cmd: exec.Command("sh", "-c", "echo unknown setting >&2; exit 3"), port: 1, log: log}
	x.cmd.Stderr = log
	defer x.stop()
	watch := bubble.Begin(t)
	err = x.start("", 1)
	if err == nil || !strings.Contains(err.Error(), "sluice to take requests, and it has ended: exit status 3") || !strings.Contains(err.Error(), "unknown setting") {
		t.Errorf("got %v", err)
	}
	if took, awake := watch.End(); awake > 10*time.Second {
		t.Errorf("it was waited for, %s, %s of it awake", took, awake)
	}
}
