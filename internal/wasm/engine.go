package wasm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"sluice/internal/wasm/component"
	"sluice/internal/wasm/core"
	"sluice/internal/wasm/httpwasm"
)

const pageSize = 64 << 10 // of WebAssembly

// Limits bound what a guest may use.
type Limits struct {
	MemoryPages uint32 // of 64 KiB, all of a component's memories each
	Stack       uint32 // bytes that nested calls may use
}

// DefaultLimits are the contract's.
func DefaultLimits() Limits { return Limits{MemoryPages: 1024, Stack: 1 << 20} }

// code is a component that is compiled: all that its instances share.
type code struct {
	plan   *component.Plan
	world  string
	hooks  [NumHooks]*component.Func
	limits Limits

	rt       wazero.Runtime
	parts    []part                // by instance of the Plan
	batch    wazero.CompiledModule // see batch.go; nil for none
	builtins []*component.Builtin
	hosts    []hostFunc // by builtin
	http     bool       // it is an http-wasm module
	config   []byte     // for it
	frozen   string     // why instances cannot be put back; "" if they can

	wary atomic.Int64 // the tick until which calls begin with short slices, see adapt

	done func(context.Context) // gives back what it was compiled with; nil for nothing
}

// A part is a core instance to be.
type part struct {
	compiled wazero.CompiledModule
	rewrite  *core.Rewritten
	name     string // that others import it by
}

// hostModule is what functions of the host are imported from.
const hostModule = "sluice:host"

// features are what guests' tools use beyond WebAssembly 2.0.
const features = api.CoreFeaturesV2 | experimental.CoreFeaturesExtendedConst | experimental.CoreFeaturesTailCall | experimental.CoreFeaturesExceptionHandling | experimental.CoreFeaturesThreads

// compile reads, checks, rewrites and compiles a component. cache is on files that
// are this component's, nil for none: what it compiles ends with the code, and no
// other component shares it. The engine beneath keeps some pages for each type of
// a module whose functions it tells of (see compileCore) until it ends itself, so
// one for all components would have more with each that is registered.
func compile(ctx context.Context, binary []byte, limits Limits, cache wazero.CompilationCache) (c *code, err error) {
	if core.Is(binary) {
		m, err := core.Decode(binary, 0)
		if err != nil {
			return nil, err
		}
		if httpwasm.Is(m) {
			return compileHTTP(ctx, m, limits, cache)
		}
	}
	plan, err := component.Link(binary)
	switch {
	case len(binary) == 0:
		return nil, errors.New("it is empty; want a WebAssembly component")
	case errors.Is(err, component.ErrNotComponent) && core.Is(binary):
		return nil, errors.New("it is a core module; want a component, which 'sluice wasm wrap' makes of it, or an http-wasm module, which exports handle_request")
	case errors.Is(err, component.ErrNotComponent):
		return nil, notWasm(binary)
	case err != nil:
		return nil, err
	}
	if err := checkCode(plan.Modules...); err != nil {
		return nil, err
	}
	c = &code{plan: plan, limits: limits}
	if c.world, c.hooks, err = hooksOf(plan); err != nil {
		return nil, err
	}
	c.rt = newRuntime(ctx, limits, cache)
	if err := c.link(ctx); err != nil {
		c.close(ctx)
		return nil, err
	}
	return c, nil
}

// notWasm says of what is no component and no core module what it is.
func notWasm(binary []byte) error {
	if magic := core.Header[:4]; bytes.HasPrefix(binary, magic) && len(binary) >= len(core.Header) {
		return fmt.Errorf("it is WebAssembly of another version (% x); want a component, or an http-wasm core module of version 1", binary[len(magic):len(core.Header)])
	}
	return errors.New("it is no WebAssembly; want a component, or an http-wasm core module")
}

// maxCode bounds the code of a component, in bytes: some times what the largest
// guests have, which hold a whole interpreter. What takes the engine long within
// that, core.Rewrite refuses.
const maxCode = 24 << 20

// checkCode holds that compiling modules can come to an end soon.
func checkCode(modules ...*core.Module) error {
	const codeSection = 10
	n := 0
	for _, m := range modules {
		r := core.NewReader(m.Binary[len(core.Header):], 0)
		for r.More() {
			id, part := r.Byte(), r.Part()
			if id == codeSection {
				n += part.Left()
			}
		}
	}
	return checkSize(n)
}

func checkSize(code int) error {
	if code > maxCode {
		return fmt.Errorf("it has %d bytes of code, its data not counted; at most %d are compiled", code, maxCode)
	}
	return nil
}

// An amount is what compiling the parts of a component takes. A core module is
// compiled for each of its instances, which import different things.
type amount struct{ code, effort int }

// add counts another part, and holds that all together can be compiled soon.
func (a *amount) add(out *core.Rewritten) error {
	a.code, a.effort = a.code+out.Code, a.effort+out.Effort
	if !core.Affordable(a.code, a.effort) {
		return fmt.Errorf("its core modules have functions with many blocks and calls, and locals in loops: all together too much for %d bytes of code", a.code)
	}
	return checkSize(a.code)
}

// close gives back what c has. Closing the runtime does not free compiled code that
// is counted in a cache.
func (c *code) close(ctx context.Context) {
	_ = c.rt.Close(ctx)
	for _, p := range c.parts {
		_ = p.compiled.Close(ctx)
	}
	if c.batch != nil {
		_ = c.batch.Close(ctx)
	}
	if c.done != nil {
		c.done(ctx)
	}
}

// link compiles the core modules as their instances need them, and makes the
// functions of the host.
func (c *code) link(ctx context.Context) error {
	slots := make(map[*component.Builtin]int)
	called := c.plan.Called()
	var amount amount
	for i := range c.plan.Instances {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%d of %d core modules are compiled: %w", i, len(c.plan.Instances), err)
		}
		in := &c.plan.Instances[i]
		m := c.plan.Modules[in.Module]
		links := make([]core.Link, len(in.Imports))
		for k := range in.Imports {
			it := &in.Imports[k]
			if it.Builtin == nil {
				links[k] = core.Link{Module: partName(it.Instance), Name: it.Name, Guest: true}
				continue
			}
			slot, known := slots[it.Builtin]
			if !known {
				slot = len(c.builtins)
				slots[it.Builtin] = slot
				f, err := c.host(it.Builtin)
				if err != nil {
					return err
				}
				c.builtins, c.hosts = append(c.builtins, it.Builtin), append(c.hosts, f)
			}
			links[k] = core.Link{Module: hostModule, Name: slotName(slot), Guest: it.Builtin.Func != nil && it.Builtin.Func.Core != nil}
		}
		out, err := core.Rewrite(m, core.Options{Links: links, Called: called[i], Stack: c.limits.Stack, Pages: c.limits.MemoryPages})
		if err == nil {
			err = amount.add(out)
		}
		if err != nil {
			return err
		}
		if out.Frozen != "" && c.frozen == "" {
			c.frozen = out.Frozen
		}
		compiled, err := compileCore(ctx, c.rt, m, out)
		if err != nil {
			return fmt.Errorf("core module at offset %#x: %w", m.Offset, err)
		}
		c.parts = append(c.parts, part{compiled: compiled, rewrite: out, name: partName(i)})
	}
	if err := c.compileBatch(ctx); err != nil {
		return err
	}
	return c.hostFunctions(ctx)
}

func partName(i int) string { return fmt.Sprintf("i%d", i) }
func slotName(i int) string { return fmt.Sprintf("f%d", i) }

// hostFunctions makes the module of the host. Its functions find the instance
// that called them in the context, so one module serves all instances.
func (c *code) hostFunctions(ctx context.Context) error {
	if len(c.builtins) == 0 {
		return nil
	}
	b := c.rt.NewHostModuleBuilder(hostModule)
	for slot, h := range c.hosts {
		t := c.builtins[slot].Type
		b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(ctx context.Context, _ api.Module, stack []uint64) {
			in := ctx.Value(instanceKey{}).(*instance)
			if in.closed && !h.always {
				trap("it called %s while it made memory, or was told that its answer had been read", h.name)
			}
			in.checkTime()
			in.spend(workCall)
			h.f(in, stack)
		}), valueTypes(t.Params), valueTypes(t.Results)).Export(slotName(slot))
	}
	if _, err := b.Instantiate(ctx); err != nil {
		return fmt.Errorf("making the host's functions: %w", err)
	}
	return nil
}

func valueTypes(ts []core.ValType) []api.ValueType {
	vs := make([]api.ValueType, len(ts))
	for i, t := range ts {
		vs[i] = api.ValueType(t)
	}
	return vs
}

// A trapError ends a guest's call: it did what it may not do.
type trapError struct{ msg string }

func (e *trapError) Error() string { return e.msg }

// trap ends the call of the guest that has called the host. It must be called
// in a function of the host only: the engine turns the panic into the error of
// the call.
func trap(format string, args ...any) {
	panic(&trapError{fmt.Sprintf(format, args...)})
}
