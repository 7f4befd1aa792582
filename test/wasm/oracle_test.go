//go:build cgo

package oracle

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bytecodealliance/wasmtime-go/v44"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"sluice/internal/infer"
	"sluice/internal/wasm"
	"sluice/internal/wasm/core"
	"sluice/internal/wasm/core/coretest"
)

// requests are what guests are given: what they look at, and what might be
// carried from one side to the other in another form.
func requests() map[string]*request {
	base := func(change func(*request)) *request {
		r := &request{
			method: "POST", path: "/v1/chat/completions", id: "req-1", body: `{"model":"m"}`, now: 1700000000000,
			headers: []field{{"host", "gateway.example.com"}, {"authorization", "Bearer secret-api-key-12345"}},
		}
		change(r)
		return r
	}
	return map[string]*request{
		"with a key":       base(func(*request) {}),
		"without":          base(func(r *request) { r.headers = nil }),
		"with a wrong key": base(func(r *request) { r.headers = []field{{"authorization", "Bearer x"}} }),
		"of nothing":       {},
		"of a long body":   base(func(r *request) { r.body = strings.Repeat("long ", 40_000) }),
		"of many headers": base(func(r *request) {
			for i := range 300 {
				r.headers = append(r.headers, field{fmt.Sprintf("x-%d", i), strings.Repeat("v", i)})
			}
		}),
		"in other letters": base(func(r *request) {
			r.path, r.headers = "/ü/日本語/🦆", append(r.headers, field{"x-name", "Ægir"})
		}),
		"to be logged":  base(func(r *request) { r.query = "log" }),
		"to be trapped": base(func(r *request) { r.query = "trap" }),
		"to panic":      base(func(r *request) { r.query = "panic" }),
		"to grow":       base(func(r *request) { r.query = "grow" }),
		"of all bytes": base(func(r *request) {
			b := make([]byte, 256)
			for i := range b {
				b[i] = byte(i)
			}
			r.body = string(b)
		}),
	}
}

// TestComponentsDoTheSame gives the same requests to the same components, run by
// wasmtime and by us, and compares what they want.
func TestComponentsDoTheSame(t *testing.T) {
	files, err := filepath.Glob("../../internal/wasm/component/testdata/*.component.wasm")
	if err != nil || len(files) == 0 {
		t.Fatal("no components", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	engine, err := wasm.NewEngine("", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- engine.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(f), ".component.wasm")
		pkg, ours := "smg:gateway", strings.HasPrefix(name, "sluice-")
		if strings.HasSuffix(name, "-sgl") {
			pkg = "sgl:model-gateway"
		}
		if ours {
			continue // made for our own world, whose host wasmtime does not have
		}
		for _, isolation := range []wasm.Isolation{wasm.Snapshot, wasm.Fresh} {
			t.Run(name+"/"+string(isolation), func(t *testing.T) {
				oracle, err := newComponent(b)
				if err != nil {
					t.Fatal(err)
				}
				set := wasm.DefaultSettings()
				set.Isolation = isolation
				m, err := engine.Load(ctx, b, set)
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				for what, r := range requests() {
					want, werr := oracle.call(pkg+"/middleware-on-request", "on-request", r)
					got, gerr := answer(ctx, m, r)
					if got != want || (gerr == nil) != (werr == nil) {
						t.Errorf("a request %s: %.300s, %v; wasmtime: %.300s, %v", what, got, gerr, want, werr)
					}
				}
			})
		}
	}
}

// answer is what our host makes of a request, in the words of oracle_call.
func answer(ctx context.Context, m *wasm.Module, r *request) (string, error) {
	h := new(infer.Header)
	for _, f := range r.headers {
		h.AddString(f.name, f.value)
	}
	var a wasm.Action
	err := m.OnRequest(ctx, new(wasm.Call), &wasm.Request{Method: r.method, Path: r.path, Query: r.query, Header: h, Body: []byte(r.body), ID: r.id, NowMillis: r.now}, &a)
	if err != nil {
		return "", err
	}
	switch a.Kind {
	case wasm.Reject:
		return fmt.Sprintf("reject(%d)", a.Status), nil
	case wasm.Modify:
		status, body := "none", "none"
		if a.Status != 0 {
			status = fmt.Sprintf("some(%d)", a.Status)
		}
		if a.HasBody {
			body = fmt.Sprintf("some('%x')", a.Body)
		}
		var remove []string
		for _, n := range a.Remove {
			remove = append(remove, fmt.Sprintf("'%x'", n))
		}
		return fmt.Sprintf("modify({%s %s %s [%s] %s})", status, fields(a.Set), fields(a.Add), strings.Join(remove, " "), body), nil
	}
	return a.Kind.String(), nil
}

func fields(fs []wasm.Field) string {
	var s []string
	for _, f := range fs {
		s = append(s, fmt.Sprintf("{'%x' '%x'}", f.Name, f.Value))
	}
	return "[" + strings.Join(s, " ") + "]"
}

const (
	gas   = 300
	pages = 16
	stack = 16 << 20
)

// TestProgramsDoTheSame runs random core modules: as they are in wasmtime,
// rewritten in our engine.
func TestProgramsDoTheSame(t *testing.T) {
	engine := wasmtime.NewEngine()
	rt := wazero.NewRuntimeWithConfig(t.Context(), wazero.NewRuntimeConfigCompiler().WithMemoryLimitPages(pages).
		WithCoreFeatures(api.CoreFeaturesV2|experimental.CoreFeaturesExtendedConst|experimental.CoreFeaturesTailCall|experimental.CoreFeaturesExceptionHandling))
	defer rt.Close(context.Background())
	ended, compared := 0, 0
	for seed := range uint64(600) {
		p := coretest.New(seed)
		if p.Throws {
			continue // the library's Go part cannot switch exceptions on
		}
		theirs, err := newProgram(engine, p)
		if err != nil {
			t.Fatalf("seed %d: wasmtime: %v", seed, err)
		}
		m, err := core.Decode(p.Binary, 0)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		out, err := core.Rewrite(m, core.Options{Stack: stack})
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		ours, err := rt.InstantiateWithConfig(t.Context(), out.Binary, wazero.NewModuleConfig().WithName(""))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		r := rand.New(rand.NewPCG(seed, 2))
		for f := range p.Funcs {
			args := p.Args(f, r)
			want, got := theirs.call(f, args), ourCall(t.Context(), p, ours, f, args)
			if compared++; got != want {
				t.Fatalf("seed %d: f%d of %#x is\n%s\nwasmtime:\n%s", seed, f, args, got, want)
			}
			if strings.HasPrefix(want, "[") {
				ended++
			}
		}
		ours.Close(t.Context())
	}
	if ended < compared/8 {
		t.Errorf("%d of %d calls came to an end; they say little", ended, compared)
	}
	t.Logf("%d calls agree, of which %d came to an end", compared, ended)
}

// state is what can be seen after a call.
func state(result string, memory []byte, globals []uint64) string {
	return fmt.Sprintf("%s\nmemory %d %08x\nglobals %#x", result, len(memory), crc32.ChecksumIEEE(memory), globals)
}

// trap is why a call ended early, in words that both engines' can be put in.
func trap(msg string) string {
	for word, is := range map[string]string{
		"unreachable": "unreachable", "divide by zero": "division", "integer overflow": "overflow",
		"invalid conversion": "conversion", "out of bounds memory": "memory", "indirect call type mismatch": "signature",
		"out of bounds table": "table", "undefined element": "table", "uninitialized element": "table", "invalid table access": "table",
	} {
		if strings.Contains(msg, word) {
			return is
		}
	}
	return msg
}

func ourCall(ctx context.Context, p *coretest.Program, m api.Module, f int, args []uint64) string {
	m.ExportedGlobal(coretest.GasGlobal).(api.MutableGlobal).Set(gas)
	results, err := m.ExportedFunction(fmt.Sprintf("f%d", f)).Call(ctx, args...)
	for i := range results {
		results[i] = narrow(p.Funcs[f].Results[i], results[i])
	}
	result := fmt.Sprintf("%#x", results)
	if err != nil {
		m.ExportedGlobal(core.StackGlobal).(api.MutableGlobal).Set(stack)
		msg, _, _ := strings.Cut(err.Error(), "\n")
		result = trap(msg)
	}
	var globals []uint64
	for i := range p.Globals {
		globals = append(globals, narrow(p.Globals[i], m.ExportedGlobal(fmt.Sprintf("g%d", i)).Get()))
	}
	mem, _ := m.Memory().Read(0, m.Memory().Size())
	return state(result, mem, globals)
}

// narrow is a value without what stands above the bits that it has, which may be
// anything.
func narrow(t coretest.ValType, v uint64) uint64 {
	if t == coretest.I32 || t == coretest.F32 {
		return uint64(uint32(v))
	}
	return v
}

// A program is a core module that wasmtime runs.
type program struct {
	p     *coretest.Program
	store *wasmtime.Store
	in    *wasmtime.Instance
}

func newProgram(engine *wasmtime.Engine, p *coretest.Program) (*program, error) {
	m, err := wasmtime.NewModule(engine, p.Binary)
	if err != nil {
		return nil, err
	}
	store := wasmtime.NewStore(engine)
	store.Limiter(pages<<16, -1, -1, -1, -1)
	in, err := wasmtime.NewInstance(store, m, nil)
	return &program{p, store, in}, err
}

func (p *program) call(f int, args []uint64) string {
	if err := p.in.GetExport(p.store, coretest.GasGlobal).Global().Set(p.store, wasmtime.ValI32(gas)); err != nil {
		return err.Error()
	}
	var vs []any
	for i, t := range p.p.Funcs[f].Params {
		switch v := args[i]; t {
		case coretest.I32:
			vs = append(vs, int32(v))
		case coretest.I64:
			vs = append(vs, int64(v))
		case coretest.F32:
			vs = append(vs, math.Float32frombits(uint32(v)))
		default:
			vs = append(vs, math.Float64frombits(v))
		}
	}
	got, err := p.in.GetExport(p.store, fmt.Sprintf("f%d", f)).Func().Call(p.store, vs...)
	result := fmt.Sprintf("%#x", bits(got))
	if err != nil {
		var t *wasmtime.Trap
		if result = err.Error(); errors.As(err, &t) {
			result = trap(t.Message())
		}
	}
	var globals []uint64
	for i := range p.p.Globals {
		globals = append(globals, bits(p.in.GetExport(p.store, fmt.Sprintf("g%d", i)).Global().Get(p.store))...)
	}
	return state(result, p.in.GetExport(p.store, "memory").Memory().UnsafeData(p.store), globals)
}

// bits is a result as our engine has it.
func bits(v any) []uint64 {
	switch v := v.(type) {
	case nil:
		return nil
	case int32:
		return []uint64{uint64(uint32(v))}
	case int64:
		return []uint64{uint64(v)}
	case float32:
		return []uint64{uint64(math.Float32bits(v))}
	case float64:
		return []uint64{math.Float64bits(v)}
	case wasmtime.Val:
		return bits(v.Get())
	case []wasmtime.Val:
		var all []uint64
		for _, x := range v {
			all = append(all, bits(x)...)
		}
		return all
	}
	panic(fmt.Sprintf("a result of type %T", v))
}
