package wasm

import (
	"context"
	"fmt"

	"github.com/tetratelabs/wazero"

	"sluice/internal/wasm/component"
)

// A request is some thirty texts, and a guest wants each in memory of its own,
// which its allocator has to be asked for. Entering a guest costs more than what
// an allocator does, so a small module that stands beside the guest asks for
// many at once. To the guest it is as if it had been asked one by one.

// batchSize is how many pieces are asked for at once.
const batchSize = 32

// noPiece stands for a piece that is not wanted: no memory is that long.
const noPiece = 1<<32 - 1

// batchOf returns the allocator that all hooks of c use, nil if they use several
// or none.
func (c *code) batchOf() *component.Item {
	var it *component.Item
	for _, f := range c.hooks {
		if f == nil || f.Options.Realloc == nil {
			continue
		}
		r := f.Options.Realloc
		switch {
		case r.Builtin != nil:
			return nil
		case it == nil:
			it = r
		case it.Instance != r.Instance || it.Name != r.Name:
			return nil
		}
	}
	return it
}

// compileBatch compiles the module that asks for many pieces.
func (c *code) compileBatch(ctx context.Context) error {
	it := c.batchOf()
	if it == nil {
		return nil
	}
	m, err := c.rt.CompileModule(ctx, batchModule(c.parts[it.Instance].name, it.Name))
	if err != nil {
		what := "compiling the module that allocates"
		if !isSystem(err) { // such as a disk that is full
			what = "BUG: " + what
		}
		return fmt.Errorf("%s: %w", what, err)
	}
	c.batch = m
	return nil
}

// makeBatch gives in the function that asks for many pieces. ctx resolves the
// names of in's parts.
func (in *instance) makeBatch(ctx context.Context) error {
	if in.code.batch == nil {
		return nil
	}
	m, err := in.code.rt.InstantiateModule(ctx, in.code.batch, wazero.NewModuleConfig().WithName("").WithStartFunctions())
	if err != nil {
		return fmt.Errorf("making an instance: %w", err)
	}
	in.mods = append(in.mods, m)
	in.batch = m.ExportedFunction("f")
	return nil
}

// batchModule returns a core module whose function f has batchSize lengths as
// parameters and as many addresses as results: for each length but noPiece what
// the imported allocator returns for it, with an alignment of 1.
func batchModule(module, name string) []byte {
	const i32, get, constI32, eq, ifElse, orElse, call, end = 0x7f, 0x20, 0x41, 0x46, 0x04, 0x05, 0x10, 0x0b
	many := make([]byte, batchSize)
	for i := range many {
		many[i] = i32
	}
	section := func(out []byte, id byte, body ...[]byte) []byte {
		var all []byte
		for _, b := range body {
			all = append(all, b...)
		}
		return append(appendU32(append(out, id), len(all)), all...)
	}
	vec := func(b []byte) []byte { return append(appendU32(nil, len(b)), b...) }
	code := []byte{0} // no locals
	for i := range batchSize {
		code = append(code,
			get, byte(i), constI32, 0x7f /* -1 */, eq, ifElse, i32, constI32, 0,
			orElse, constI32, 0, constI32, 0, constI32, 1, get, byte(i), call, 0, end)
	}
	code = append(code, end)
	b := []byte(wasmHeader)
	b = section(b, 1, []byte{2, 0x60, 4, i32, i32, i32, i32, 1, i32, 0x60}, vec(many), vec(many))
	b = section(b, 2, []byte{1}, vec([]byte(module)), vec([]byte(name)), []byte{0, 0})
	b = section(b, 3, []byte{1, 1})
	b = section(b, 7, []byte{1, 1, 'f', 0, 1})
	return section(b, 10, []byte{1}, vec(code))
}

const wasmHeader = "\x00asm\x01\x00\x00\x00"

// appendU32 appends n as LEB128.
func appendU32(b []byte, n int) []byte {
	for ; n > 0x7f; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

// places asks the guest of h for memory for each of in.texts; in.at has the
// addresses then.
func (in *instance) places(h *hook) error {
	in.at = in.at[:0]
	for rest := in.texts; len(rest) > 0; {
		n := min(len(rest), batchSize)
		if in.batch == nil || n == 1 {
			at, err := in.realloc(h.realloc, h.memory, 1, uint32(len(rest[0])))
			if err != nil {
				return err
			}
			in.at, rest = append(in.at, at), rest[1:]
			continue
		}
		if err := in.allocate(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	size := uint64(h.memory.Size())
	for i, at := range in.at {
		if uint64(at)+uint64(len(in.texts[i])) > size {
			return failed(errTrap, "its allocator returned %#x for %d bytes, which is outside of its memory", at, len(in.texts[i]))
		}
	}
	return nil
}

// allocate asks for memory for at most batchSize texts.
func (in *instance) allocate(texts []string) error {
	st := &in.lengths
	for i := range st {
		if i < len(texts) {
			st[i] = uint64(uint32(len(texts[i])))
		} else {
			st[i] = noPiece
		}
	}
	in.closed = true
	if err := in.batch.CallWithStack(in.ctx, st[:]); err != nil {
		return in.fault(err)
	}
	in.closed = false
	for i := range texts {
		in.at = append(in.at, uint32(st[i]))
	}
	return nil
}
