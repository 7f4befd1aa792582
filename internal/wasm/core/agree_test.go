package core_test

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"sluice/internal/wasm/core"
	"sluice/internal/wasm/core/coretest"
)

const features = api.CoreFeaturesV2 | experimental.CoreFeaturesExtendedConst | experimental.CoreFeaturesTailCall | experimental.CoreFeaturesExceptionHandling | experimental.CoreFeaturesThreads

// gas is what one call of a random program may use.
const gas = 300

// A run is a module that is called.
type run struct {
	m         api.Module
	p         *coretest.Program
	rewritten bool
	fuel      uint64 // that a call begins with, if it is rewritten
}

func newRun(ctx context.Context, rt wazero.Runtime, p *coretest.Program, binary []byte, rewritten bool) (*run, error) {
	m, err := rt.InstantiateWithConfig(ctx, binary, wazero.NewModuleConfig().WithName("").WithStartFunctions())
	return &run{m: m, p: p, rewritten: rewritten}, err
}

// call calls a function, and tells all that can be seen of what it did.
func (r *run) call(ctx context.Context, f int, args []uint64) string {
	set := func(name string, v uint64) { r.m.ExportedGlobal(name).(api.MutableGlobal).Set(v) }
	set(coretest.GasGlobal, gas)
	if r.rewritten {
		set(core.FuelGlobal, r.fuel)
	}
	results, err := r.m.ExportedFunction(fmt.Sprintf("f%d", f)).Call(ctx, args...)
	if err != nil && r.rewritten {
		set(core.StackGlobal, stack)
	}
	for i, t := range r.p.Funcs[f].Results {
		if err == nil && (t == coretest.I32 || t == coretest.F32) {
			results[i] = uint64(uint32(results[i])) // above that may be anything
		}
	}
	var s strings.Builder
	if err != nil {
		msg, _, _ := strings.Cut(err.Error(), "\n")
		fmt.Fprintf(&s, "%s\n", msg)
	} else {
		fmt.Fprintf(&s, "%#x\n", results)
	}
	mem, _ := r.m.Memory().Read(0, r.m.Memory().Size())
	fmt.Fprintf(&s, "memory %d %08x\n", len(mem), crc32.ChecksumIEEE(mem))
	for i := range r.p.Globals {
		fmt.Fprintf(&s, "g%d %#x\n", i, r.m.ExportedGlobal(fmt.Sprintf("g%d", i)).Get())
	}
	fmt.Fprintf(&s, "gas %d", int32(r.m.ExportedGlobal(coretest.GasGlobal).Get()))
	return s.String()
}

const stack = 16 << 20

// agree runs the program of a seed as it is and rewritten, and holds that nothing
// that can be seen tells them apart. It returns how many calls came to an end.
func agree(t *testing.T, rt wazero.Runtime, seed uint64) (ended int) {
	t.Helper()
	ctx := t.Context()
	p := coretest.New(seed)
	m, err := core.Decode(p.Binary, 0)
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	out, err := core.Rewrite(m, core.Options{Stack: stack})
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	plain, err := newRun(ctx, rt, p, p.Binary, false)
	if err != nil {
		t.Fatalf("seed %d: the program itself: %v", seed, err)
	}
	defer plain.m.Close(ctx)
	changed, err := newRun(ctx, rt, p, out.Binary, true)
	if err != nil {
		t.Fatalf("seed %d: rewritten: %v", seed, err)
	}
	defer changed.m.Close(ctx)
	r := rand.New(rand.NewPCG(seed, 2))
	for range 2 {
		for f := range p.Funcs {
			args := p.Args(f, r)
			changed.fuel = uint64(r.IntN(200)) // so that it looks somewhere
			want, got := plain.call(ctx, f, args), changed.call(ctx, f, args)
			if got != want {
				t.Fatalf("seed %d: f%d of %#x is, rewritten,\n%s\nwant\n%s", seed, f, args, got, want)
			}
			if left := changed.m.ExportedGlobal(core.StackGlobal).Get(); left != stack {
				t.Fatalf("seed %d: f%d leaves %d bytes of stack, want %d", seed, f, left, stack)
			}
			if strings.HasPrefix(want, "[") {
				ended++
			}
		}
	}
	return ended
}

func compiler(t testing.TB) wazero.Runtime {
	t.Helper()
	rt := wazero.NewRuntimeWithConfig(t.Context(), wazero.NewRuntimeConfigCompiler().WithMemoryLimitPages(16).WithCoreFeatures(features))
	t.Cleanup(func() { rt.Close(context.Background()) })
	return rt
}

// TestRewrittenProgramsAgree runs some hundred random programs.
func TestRewrittenProgramsAgree(t *testing.T) {
	rt := compiler(t)
	ended, n := 0, uint64(300)
	if testing.Short() {
		n = 30
	}
	for seed := range n {
		ended += agree(t, rt, seed)
	}
	if ended < int(n) {
		t.Errorf("%d calls of %d programs came to an end; they say little", ended, n)
	}
	t.Logf("%d calls came to an end", ended)
}

// FuzzAgree holds what TestRewrittenProgramsAgree does.
func FuzzAgree(f *testing.F) {
	for seed := range uint64(10) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		rt := wazero.NewRuntimeWithConfig(t.Context(), wazero.NewRuntimeConfigCompiler().WithMemoryLimitPages(16).WithCoreFeatures(features))
		defer rt.Close(context.Background())
		agree(t, rt, seed)
	})
}

// FuzzRewrite holds that no module makes the rewriter panic, and that what it
// lets through the engine takes just as it takes the module itself: what it takes
// for an instruction the engine must take for the same.
func FuzzRewrite(f *testing.F) {
	for name, m := range modules(f) {
		if len(m.Binary) < 16<<10 && !strings.Contains(name, "sgl") {
			f.Add(m.Binary)
		}
	}
	for seed := range uint64(8) {
		f.Add(coretest.New(seed).Binary)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := core.Decode(b, 0)
		if err != nil {
			isNamed(t, err)
			return
		}
		out, err := core.Rewrite(m, core.Options{Stack: stack, Pages: 16})
		if err != nil {
			isNamed(t, err)
			return
		}
		if most := 5*len(b) + 2<<20; len(out.Binary) > most {
			t.Errorf("%d bytes became %d", len(b), len(out.Binary))
		}
		if len(b) > 64<<10 {
			return // the engine takes long
		}
		ctx := t.Context()
		rt := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter().WithMemoryLimitPages(17).WithCoreFeatures(features))
		defer rt.Close(ctx)
		_, changed := rt.CompileModule(ctx, out.Binary)
		_, plain := rt.CompileModule(ctx, b)
		if plain != nil && changed == nil && !strings.Contains(plain.Error(), "custom") && !strings.Contains(plain.Error(), "subsection") && !strings.Contains(plain.Error(), "name") {
			t.Errorf("the engine takes it rewritten, but not as it is: %v", plain)
		}
		if plain == nil && changed != nil {
			t.Errorf("the engine takes it as it is, but not rewritten: %v", changed)
		}
	})
}

// isNamed holds that an error says what is wrong and where.
func isNamed(t *testing.T, err error) {
	t.Helper()
	var e *core.Error
	if !errors.Is(err, core.ErrNotModule) && (!errors.As(err, &e) || e.Offset < 0 || e.Msg == "") {
		t.Errorf("an error without a place: %v", err)
	}
}
