package wasm

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/tetratelabs/wazero"

	"sluice/internal/wasm/component"
	"sluice/internal/wasm/core"
)

// probe is a core module for the test below. Its function "count" adds one to a
// global and to its memory's first word, grows the memory by a page, and returns
// the sum; "spin" counts to 2²⁷.
var probe = []byte("\x00asm\x01\x00\x00\x00" +
	"\x01\x08\x02\x60\x00\x01\x7f\x60\x00\x00" + // types: () -> i32, () -> ()
	"\x03\x03\x02\x00\x01" +
	"\x05\x03\x01\x00\x01" + // a memory of one page
	"\x06\x06\x01\x7f\x01\x41\x00\x0b" + // a mutable global
	"\x07\x10\x02\x05count\x00\x00\x04spin\x00\x01" +
	"\x0a\x3d\x02" +
	"\x23\x00\x23\x00\x41\x01\x6a\x24\x00\x41\x00\x41\x00\x28\x02\x00\x41\x01\x6a\x36\x02\x00\x41\x01\x40\x00\x1a\x23\x00\x41\x00\x28\x02\x00\x6a\x0b" +
	"\x17\x01\x01\x7f\x03\x40\x20\x00\x41\x01\x6a\x22\x00\x41\x80\x80\x80\xc0\x00\x49\x0d\x00\x0b\x0b")

// selfTest holds what the Engine leans on and the engine beneath does not
// promise: that a memory can be put back, its length included, and that a guest
// that runs can be stopped, also while the garbage collector waits for it. frozen
// says why instances cannot be put back here, "" if they can; an error is why
// guests cannot be run at all.
func selfTest(ctx context.Context) (frozen string, err error) {
	m, err := core.Decode(probe, 0)
	if err != nil {
		return "", fmt.Errorf("BUG: reading the probe: %w", err)
	}
	limits := DefaultLimits()
	out, err := core.Rewrite(m, core.Options{Stack: limits.Stack})
	if err != nil {
		return "", fmt.Errorf("BUG: rewriting the probe: %w", err)
	}
	c := &code{plan: new(component.Plan), limits: limits, rt: newRuntime(ctx, limits, nil)}
	defer c.close(ctx)
	compiled, err := compileCore(ctx, c.rt, m, out)
	if err != nil {
		return "", fmt.Errorf("compiling for this machine: %w", err)
	}
	c.parts = []part{{compiled: compiled, rewrite: out, name: partName(0)}}
	in, err := c.newInstance(&allocator{limit: uint64(limits.MemoryPages) * pageSize})
	if err != nil {
		return "", err
	}
	defer in.close()
	frozen = in.testReset()
	return frozen, in.testStop()
}

// testReset holds that each call of count is the first.
func (in *instance) testReset() string {
	s, err := in.snapshot()
	if err != nil {
		return err.Error()
	}
	defer s.close()
	if err := in.adopt(s); err != nil {
		return err.Error()
	}
	count := in.mods[0].ExportedFunction("count")
	for range 3 {
		var st [1]uint64
		if err := count.CallWithStack(in.ctx, st[:]); err != nil {
			return err.Error()
		}
		if grown := in.grow[0].Size(); st[0] != 2 || grown != 2*pageSize {
			return fmt.Sprintf("a call sees what the one before left: it counts %d, in %d bytes", st[0], grown)
		}
		if err := in.reset(); err != nil {
			return err.Error()
		}
		if size := in.grow[0].Size(); size != pageSize {
			return fmt.Sprintf("a memory that grew stays at %d bytes", size)
		}
	}
	return ""
}

var errUnstoppable = errors.New("a guest that runs for too long cannot be stopped on this machine")

// testStop holds that spin does not run to its end.
func (in *instance) testStop() error {
	var wg sync.WaitGroup
	defer wg.Wait()
	in.begin(1)
	time.AfterFunc(time.Millisecond, func() { in.stopIfLate(1<<32, 1) })
	wg.Go(runtime.GC)
	err := in.mods[0].ExportedFunction("spin").CallWithStack(in.ctx, nil)
	stopped := in.end()
	if err == nil || !stopped || in.why() != core.WhyStopped {
		return errUnstoppable
	}
	return nil
}

func newRuntime(ctx context.Context, limits Limits, cache wazero.CompilationCache) wazero.Runtime {
	// One page more than a guest may have: a memory that is to be put back has
	// to be able to be grown by one.
	cfg := wazero.NewRuntimeConfigCompiler().WithMemoryLimitPages(limits.MemoryPages + 1).WithCoreFeatures(features)
	if cache != nil {
		cfg = cfg.WithCompilationCache(cache)
	}
	return wazero.NewRuntimeWithConfig(ctx, cfg)
}
