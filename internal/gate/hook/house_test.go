package hook

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/internal/infer"
	"sluice/internal/kit/metric"
	"sluice/internal/wasm"
)

// compiled is a directory for compiled code: all houses have the same modules, and
// a busy machine takes long to compile them.
var compiled string

func TestMain(m *testing.M) {
	var err error
	if compiled, err = os.MkdirTemp("", "sluice-hook-"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(compiled)
		os.Exit(code)
	}))
}

// A house is a gate with modules. The module of the tests does what a request's
// query says (internal/wasm/testdata/every.c).
type house struct {
	gate    infer.Gate
	modules *wasm.Registry
	metrics *metric.Registry
	log     *notes
	known   map[string]bool // metrics that failures has told of
	own     func(model string) string

	gateWith func(change func(*Options)) infer.Gate
}

// notes are what is logged.
type notes struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (n *notes) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.b.Write(p)
}

func (n *notes) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.b.String()
}

func (n *notes) reset() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.b.Reset()
}

func newHouse(t testing.TB) *house {
	t.Helper()
	h := &house{metrics: metric.NewRegistry([]float64{0.001, 1}), log: new(notes)}
	log := slog.New(slog.NewTextHandler(h.log, nil))
	e, err := wasm.NewEngine(compiled, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	h.modules = wasm.NewRegistry(e, "", log)
	t.Cleanup(func() {
		h.modules.Close()
		cancel()
		<-done
	})
	m := new(Metrics)
	metric.Fill(h.metrics, m)
	o := Options{Modules: h.modules, Look: lookAt, Log: log, Metrics: m, Own: func(model string) string {
		if h.own == nil {
			return model
		}
		return h.own(model)
	}}
	h.gate = Gate(o)
	h.gateWith = func(change func(*Options)) infer.Gate {
		o := o
		o.Metrics = new(Metrics)
		metric.Fill(metric.NewRegistry(nil), o.Metrics)
		change(&o)
		return Gate(o)
	}
	return h
}

// lookAt is what the front does with a body.
func lookAt(r *infer.Request) error {
	var body struct{ Model string }
	if err := json.Unmarshal(r.Body, &body); err != nil {
		return &infer.Error{Status: http.StatusBadRequest, Code: "json_parse_error", Err: err}
	}
	r.Model = body.Model
	return nil
}

var everything = sync.OnceValues(func() ([]byte, error) { return os.ReadFile("../../wasm/testdata/every.wasm") })

// add loads the module of the tests. Each further one is another component: its
// bytes end with a section that says nothing. Its calls have so much time that
// none ends for want of it, however busy the machine is, but one that does not end.
func (h *house) add(t testing.TB, name string, change func(*wasm.Spec)) *wasm.Attached {
	t.Helper()
	b, err := everything()
	if err != nil {
		t.Fatal(err)
	}
	n := byte(len(h.modules.Set().All))
	b = append(slices.Clone(b), 0, 3, 1, 'n', n) // a custom section called n
	s := wasm.Spec{Name: name, Settings: wasm.DefaultSettings()}
	s.Settings.Time, s.Settings.Limits.MemoryPages = 20*time.Second, 256
	if change != nil {
		change(&s)
	}
	m, err := h.modules.Add(t.Context(), s, b)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// soon is how long calls have where one does not end.
const soon = 500 * time.Millisecond

const chat = `{"model":"m","messages":[]}`

// newRequest is one with a query.
func newRequest(query string) *infer.Request {
	r := &infer.Request{ID: "id", Method: "POST", Path: "/v1/chat/completions", Query: query, Endpoint: infer.Chat, Received: time.Now(), Model: "m"}
	r.Header.AddString("Content-Type", "application/json")
	r.Header.AddString("X-Gone", "soon")
	r.Header.AddString("x-set", "old")
	r.SetBytes([]byte(chat))
	return r
}

// ask sends a request past the gate to next, and answers errors as the server
// does.
func (h *house) ask(r *infer.Request, next infer.HandlerFunc) (*client, error) {
	c := new(client)
	w := infer.NewReply(c)
	err := h.gate(sound(next)).Serve(context.Background(), r, w)
	if err != nil && !w.Committed() {
		refuse(w, err)
	}
	return c, err
}

// sound is next for requests that the front found no fault with.
func sound(next infer.HandlerFunc) infer.HandlerFunc {
	return func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
		if r.Fault != nil {
			return r.Fault
		}
		return next(ctx, r, w)
	}
}

// scrape returns the metrics that begin with a text, without those that are 0.
func (h *house) scrape(begin string) []string {
	rec := httptest.NewRecorder()
	h.metrics.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	var lines []string
	for l := range strings.Lines(rec.Body.String()) {
		if l = strings.TrimSpace(l); strings.HasPrefix(l, begin) && !strings.HasSuffix(l, " 0") {
			lines = append(lines, l)
		}
	}
	return lines
}

// failures are the kinds of failures at a hook that have been counted since the
// last call.
func (h *house) failures(hook wasm.Hook) (kinds []string) {
	for _, l := range h.scrape("sluice_wasm_errors_total") {
		if h.known[l] {
			continue
		}
		if h.known == nil {
			h.known = make(map[string]bool)
		}
		h.known[l] = true
		_, kind, _ := strings.Cut(l, `kind="`)
		kind, _, _ = strings.Cut(kind, `"`)
		if !strings.Contains(l, `hook="`+hook.String()+`"`) {
			kind = "of another hook: " + kind
		}
		kinds = append(kinds, kind)
	}
	return kinds
}

// has reports whether one of lines begins so.
func has(lines []string, begin string) bool {
	return slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, begin) })
}

// whole fails unless no instance is missing. One that has failed with much memory
// is put back beside.
func (h *house) whole(t *testing.T) {
	t.Helper()
	for _, m := range h.modules.Set().All {
		for begun := time.Now(); time.Since(begun) < 30*time.Second; runtime.Gosched() {
			if s := m.Module.Stats(); s.Idle == s.Instances {
				break
			}
		}
		if s := m.Module.Stats(); s.Idle != s.Instances || s.Idle == 0 {
			t.Errorf("module %s: %d of %d instances stand ready", m.Name, s.Idle, s.Instances)
		}
	}
}

// seen is what a worker is sent.
func seen(r *infer.Request) string {
	s := r.Model + " " + string(r.Body)
	for _, f := range r.Header.Fields() {
		if n := strings.ToLower(string(f.Name)); n != "content-type" && n != "x-seen" {
			s += " " + n + "=" + string(f.Value)
		}
	}
	return s
}
