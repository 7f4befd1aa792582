package core_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"sluice/internal/wasm/core"
)

// modules are the core modules in the components of testdata.
func modules(t testing.TB) map[string]*core.Module {
	t.Helper()
	return modulesOf(t, "../component/testdata/*.wasm")
}

// modulesOf are the core modules of components, by name and number.
func modulesOf(t testing.TB, pattern string) map[string]*core.Module {
	t.Helper()
	ms := make(map[string]*core.Module)
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatal("no components", err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		r := core.NewReader(b[8:], 8)
		for n := 0; r.More(); {
			id := r.Byte()
			p := r.Part()
			if id != 1 {
				continue
			}
			at := p.Offset()
			m, err := core.Decode(p.Bytes(p.Left()), at)
			if err != nil {
				t.Fatal(f, err)
			}
			ms[fmt.Sprintf("%s/%d", strings.TrimSuffix(filepath.Base(f), ".component.wasm"), n)] = m
			n++
		}
	}
	return ms
}

func engine(t testing.TB) wazero.Runtime {
	t.Helper()
	rt := wazero.NewRuntimeWithConfig(t.Context(), wazero.NewRuntimeConfig().WithMemoryLimitPages(1024).
		WithCoreFeatures(api.CoreFeaturesV2|experimental.CoreFeaturesExtendedConst|experimental.CoreFeaturesTailCall|experimental.CoreFeaturesExceptionHandling))
	t.Cleanup(func() { rt.Close(context.Background()) })
	return rt
}

// TestRewrittenModulesAreValid holds that the engine takes them.
func TestRewrittenModulesAreValid(t *testing.T) {
	for name, m := range modules(t) {
		t.Run(name, func(t *testing.T) {
			out, err := core.Rewrite(m, core.Options{Stack: 1 << 20})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := engine(t).CompileModule(t.Context(), out.Binary); err != nil && !strings.Contains(err.Error(), "empty module name") {
				t.Fatal(err)
			}
			t.Logf("%d functions, %d loops, %d to %d bytes, %d globals, frozen %q", out.Funcs, out.Loops, len(m.Binary), len(out.Binary), len(out.Globals), out.Frozen)
			again, err := core.Decode(out.Binary, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := core.Rewrite(again, core.Options{}); err == nil {
				t.Error("a module with the gateway's own names is taken")
			}
		})
	}
}

var _ = errors.Is
