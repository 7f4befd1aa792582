package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"sluice/internal/wasm"
)

const wasmBenchHelp = `Time a module, side by side in each isolation: snapshot (an instance is put back
after each call), fresh (each call has an instance of its own), shared (calls see
what earlier ones left).

  sluice wasm bench my-module.wasm
  sluice wasm bench my-module.wasm --hook on-chunk --request test.http --json

Without --request it is called with 12 header lines and a body of --body-bytes.
The time is of the whole call: giving the request, the module, reading its answer,
and putting it back. µs/call is the median; where the mean is far above it, the
machine had other things to do. Of an http-wasm module a call is a request and its
answer: handle_request, and handle_response unless it has answered itself.

The exit code is 1 if in one of the isolations every call failed.
`

// timeOptions are the flags of "sluice wasm bench".
type timeOptions struct {
	Hook     string        `flag:"hook" choices:"on-request,on-response,on-chunk,on-error,on-end" help:"hook to call; the first that the module has if left out"`
	Request  string        `flag:"request" help:"file with a request, and its answer, to call it with; as for sluice wasm test"`
	Body     int           `flag:"body-bytes" help:"size of the body, if there is no --request"`
	Duration time.Duration `flag:"duration" help:"for how long each isolation is measured"`
	Config   string        `flag:"config" help:"what an http-wasm module gets as its configuration"`
	JSON     bool          `flag:"json" help:"print the result as JSON, or as error why there is none"`
}

// wasmBench times a module.
func wasmBench(args []string, std streams) int {
	opt := timeOptions{Body: 2048, Duration: time.Second}
	fs := flagsOf("wasm bench", &opt)
	if wantsHelp(args) {
		usage(std.out, wasmBenchHelp, fs)
		return exitOK
	}
	file, err := takeOne(fs, args, "the module's file")
	switch {
	case err != nil:
	case opt.Body < 0 || opt.Body > 64<<20:
		err = fmt.Errorf("body-bytes %d is not between 0 and 67108864", opt.Body)
	case opt.Duration < 10*time.Millisecond:
		err = fmt.Errorf("duration %s is too short to measure; want 10ms or more", opt.Duration)
	}
	if err != nil {
		return refuse(std, "wasm bench", err)
	}
	std.json = opt.JSON
	module, err := readModule(file, noModule)
	if err != nil {
		return failed(std, "wasm bench", err)
	}
	with, err := inputOf(opt)
	if err != nil {
		return failed(std, "wasm bench", err)
	}
	ctx, end := untilSignal()
	defer end()
	progress := io.Discard
	if _, ok := onTerminal(std.err); ok {
		progress = std.err
	}
	res, err := timeModule(ctx, opt, module, with, progress)
	if err != nil {
		return failed(std, "wasm bench", noComponent(file, fmt.Errorf("%s: %w", filepath.Base(file), err)))
	}
	res.Module = filepath.Base(file)
	if opt.JSON {
		err = printJSON(std.out, res)
	} else {
		err = res.print(std.out)
	}
	if err != nil {
		return failed(std, "wasm bench", err)
	}
	if slices.ContainsFunc(res.Modes, func(m timingMode) bool { return m.Failed == m.Calls }) {
		return exitFailed // what was timed is how long it takes to fail
	}
	return exitOK
}

// An input is what a module is called with.
type input struct {
	request  wasm.Request
	response wasm.Response
	event    []byte
	model    string
}

// inputOf makes it.
func inputOf(opt timeOptions) (*input, error) {
	m := &message{method: "POST", path: "/v1/chat/completions", body: bytes.Repeat([]byte("x"), opt.Body)}
	for _, f := range [][2]string{
		{"Host", "gateway.example.com:8080"}, {"User-Agent", "openai-python/1.40.0"}, {"Accept", "application/json"}, {"Content-Type", "application/json"},
		{"Authorization", "Bearer 0123456789abcdef0123456789abcdef"}, {"X-Request-Id", "req-0123456789abcdef"}, {"X-Forwarded-For", "10.1.2.3, 10.4.5.6"},
		{"X-Real-Ip", "10.1.2.3"}, {"Accept-Encoding", "gzip, deflate, br"}, {"Connection", "keep-alive"}, {"X-Api-Key", "0123456789abcdef"},
		{"Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
	} {
		m.header.AddString(f[0], f[1])
	}
	a := &message{kind: anAnswer, status: 200, body: m.body}
	a.header.AddString("Content-Type", "application/json")
	in := &input{event: []byte(`data: {"id":"chatcmpl-1","object":"chat.completion.chunk","model":"m1","choices":[{"index":0,"delta":{"content":" word"}}]}` + "\n\n")}
	if opt.Request != "" {
		turns, err := readRequests(opt.Request)
		if err != nil {
			return nil, err
		}
		m = turns[len(turns)-1].request // test.http begins with what is refused
		if got := turns[len(turns)-1].answer; got != nil && got.kind == anAnswer {
			a = got
			if event, _, ok := bytes.Cut(got.body, []byte("\n\n")); ok && got.streams() {
				in.event = append(bytes.Clone(event), "\n\n"...)
			}
		}
	}
	in.request = wasm.Request{Method: m.method, Path: m.path, Query: m.query, Header: &m.header, Body: m.body, ID: "req-0123456789abcdef", NowMillis: uint64(time.Now().UnixMilli())}
	in.response = wasm.Response{Status: a.status, Header: &a.header, Body: a.body}
	in.model = "m1"
	return in, nil
}

// A timing is what "sluice wasm bench" measured.
type timing struct {
	Module string       `json:"module"`
	Hook   string       `json:"hook"`
	Modes  []timingMode `json:"isolations"`
}

// A timingMode is one isolation's. Times are microseconds.
type timingMode struct {
	Isolation string  `json:"isolation"`
	Calls     int     `json:"calls"`
	Mean      float64 `json:"mean_us"`
	P50       float64 `json:"p50_us"`
	P99       float64 `json:"p99_us"`
	Max       float64 `json:"max_us"`
	Allocs    float64 `json:"allocs_per_call"`
	Bytes     float64 `json:"bytes_per_call"`
	Memory    int64   `json:"instance_memory_bytes"`
	Load      float64 `json:"load_ms"`
	Failed    int     `json:"failed"`
	Error     string  `json:"error,omitempty"`  // of the first that failed
	Remark    string  `json:"remark,omitempty"` // why it is another isolation than its name says
}

// timeModule measures each isolation.
func timeModule(ctx context.Context, opt timeOptions, module []byte, with *input, progress io.Writer) (*timing, error) {
	e, stop, err := engine(slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	defer stop()
	res := new(timing)
	for i, is := range []wasm.Isolation{wasm.Snapshot, wasm.Fresh, wasm.Shared} {
		fmt.Fprintf(progress, "\r\x1b[Kmeasuring %s, %d of 3", is, i+1)
		mode, hook, err := timeMode(ctx, e, opt, module, with, is)
		if err != nil {
			fmt.Fprint(progress, "\r\x1b[K")
			return nil, err
		}
		res.Hook, res.Modes = hook, append(res.Modes, *mode)
	}
	fmt.Fprint(progress, "\r\x1b[K")
	return res, nil
}

func timeMode(ctx context.Context, e *wasm.Engine, opt timeOptions, module []byte, with *input, is wasm.Isolation) (*timingMode, string, error) {
	set := wasm.DefaultSettings()
	set.Isolation, set.Config = is, opt.Config
	begin := time.Now()
	m, err := e.Load(ctx, module, set)
	if err != nil {
		return nil, "", err
	}
	defer m.Close()
	r := &timingMode{Isolation: string(is), Load: float64(time.Since(begin).Microseconds()) / 1e3}
	if got, why := m.Isolation(); got != is {
		r.Remark = fmt.Sprintf("run as %s, because %s", got, why)
	}
	hook, call, err := callOf(m, opt.Hook, with)
	if err != nil {
		return nil, "", err
	}
	r.measure(ctx, opt.Duration, call)
	if s := m.Stats(); s.Instances > 0 {
		r.Memory = s.Memory / int64(s.Instances)
	}
	return r, hook, ctx.Err()
}

// callOf returns the hook to be called, and what calls it.
func callOf(m *wasm.Module, name string, with *input) (string, func(context.Context) error, error) {
	if m.Whole() {
		if name != "" {
			return "", nil, fmt.Errorf("it is an http-wasm module, of which a request and its answer are timed as one call; want no --hook, got %s", name)
		}
		return callExchange(m, with)
	}
	h := wasm.NumHooks
	for k := range wasm.NumHooks {
		if m.Has(k) && h == wasm.NumHooks && (name == "" || hookName(k) == name) {
			h = k
		}
	}
	if h == wasm.NumHooks {
		return "", nil, fmt.Errorf("it has no hook %s; sluice wasm inspect shows which it has", name)
	}
	c := &wasm.Call{Model: with.model, Store: wasm.NewStore()}
	a, ca := new(wasm.Action), new(wasm.ChunkAction)
	return hookName(h), func(ctx context.Context) error {
		switch h {
		case wasm.OnRequest:
			return m.OnRequest(ctx, c, &with.request, a)
		case wasm.OnResponse:
			return m.OnResponse(ctx, c, &with.response, a)
		case wasm.OnChunk:
			return m.OnChunk(ctx, c, with.event, ca)
		case wasm.OnError:
			return m.OnError(ctx, c, &wasm.Failure{Status: 502, Code: "call_upstream_connection_failed", Message: "The worker cannot be reached."})
		}
		return m.OnEnd(ctx, c, &wasm.Summary{Status: 200, Duration: time.Second, Input: 100, Output: 50})
	}, nil
}

// callExchange returns what calls an http-wasm module for a request and its answer,
// which share an instance.
func callExchange(m *wasm.Module, with *input) (string, func(context.Context) error, error) {
	c, a := &wasm.Call{Model: with.model, Store: wasm.NewStore()}, new(wasm.Action)
	call := func(ctx context.Context) (both bool, err error) {
		defer c.Release()
		if err := m.OnRequest(ctx, c, &with.request, a); err != nil {
			return false, err
		}
		switch {
		case m.Wants(wasm.OnResponse, c):
			return true, m.OnResponse(ctx, c, &with.response, a)
		case m.Wants(wasm.OnEnd, c):
			return true, m.OnEnd(ctx, c, &wasm.Summary{Status: with.response.Status, Header: with.response.Header, Duration: time.Second})
		}
		return false, nil
	}
	what := "handle_request and handle_response as one call"
	if both, err := call(context.Background()); err == nil && !both {
		what = "handle_request, which answers this request itself"
	}
	return what, func(ctx context.Context) error {
		_, err := call(ctx)
		return err
	}, nil
}

// measure calls for as long as it is told, after a tenth of that to get warm.
func (r *timingMode) measure(ctx context.Context, most time.Duration, call func(context.Context) error) {
	for begin := time.Now(); time.Since(begin) < most/10 && ctx.Err() == nil; {
		if err := call(ctx); err != nil {
			break
		}
	}
	const kept = 1 << 20 // times of single calls
	times := make([]float32, 0, kept)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	begin := time.Now()
	for now := begin; now.Sub(begin) < most && ctx.Err() == nil; {
		if err := call(ctx); err != nil {
			r.Failed++
			if r.Error == "" {
				r.Error = err.Error()
			}
		}
		end := time.Now()
		us := float32(end.Sub(now).Nanoseconds()) / 1e3
		now = end
		if len(times) == kept {
			times[r.Calls%kept] = us
		} else {
			times = append(times, us)
		}
		r.Calls++
	}
	all := time.Since(begin)
	runtime.ReadMemStats(&after)
	n := float64(max(r.Calls, 1))
	r.Mean = float64(all.Nanoseconds()) / 1e3 / n
	r.Allocs, r.Bytes = float64(after.Mallocs-before.Mallocs)/n, float64(after.TotalAlloc-before.TotalAlloc)/n
	if slices.Sort(times); len(times) > 0 {
		at := func(q float64) float64 { return float64(times[int(q*float64(len(times)-1))]) }
		r.P50, r.P99, r.Max = at(0.5), at(0.99), at(1)
	}
}

// print writes t as a table.
func (t *timing) print(w io.Writer) error {
	fmt.Fprintf(w, "%s, %s\n\n", t.Module, t.Hook)
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "isolation\tcalls\tµs/call\tp99\tmax\tmean\tallocs\tmemory\tload\t")
	for _, m := range t.Modes {
		fmt.Fprintf(tw, "%s\t%d\t%.2f\t%.2f\t%.0f\t%.2f\t%.1f\t%s\t%.0f ms\t\n",
			m.Isolation, m.Calls, m.P50, m.P99, m.Max, m.Mean, m.Allocs, memoryText(m.Memory), m.Load)
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("printing the result: %w", err)
	}
	var notes []string
	for _, m := range t.Modes {
		if m.Remark != "" {
			notes = append(notes, m.Isolation+": "+m.Remark)
		}
		if m.Failed > 0 {
			notes = append(notes, fmt.Sprintf("%s: %d of %d calls failed, the first with %s", m.Isolation, m.Failed, m.Calls, m.Error))
		}
	}
	if len(notes) > 0 {
		fmt.Fprintf(w, "\n%s\n", strings.Join(notes, "\n"))
	}
	return nil
}

// memoryText is what an instance has, if one is left to be asked.
func memoryText(n int64) string {
	if n == 0 {
		return "–"
	}
	return bytesText(n)
}
