package core_test

import (
	"bytes"
	"context"
	"fmt"
	"hash/crc32"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"sluice/internal/wasm/core"
)

// The module of bulk has this much memory and such a data segment: some pieces.
const (
	bulkPages   = 15
	bulkMemory  = bulkPages << 16
	bulkSegment = 700_000
)

// bulk is a module with functions of three operands that fill, copy and initialize
// memory by as much as they are told.
func bulk() []byte {
	segment := make([]byte, bulkSegment)
	for i := range segment {
		segment[i] = byte(i ^ i>>8 ^ i>>15)
	}
	f := func(instruction ...byte) []byte {
		b := concat([]byte{0, 0x20, 0, 0x20, 1, 0x20, 2, 0xfc}, instruction, []byte{0x0b})
		return concat(leb(len(b)), b)
	}
	return module(
		section(1, times(1, 0x60, 3, 0x7f, 0x7f, 0x7f, 0)), section(3, times(3, 0)), section(5, []byte{1, 0, bulkPages}),
		section(7, leb(4), text("fill"), []byte{0, 0}, text("copy"), []byte{0, 1}, text("init"), []byte{0, 2}, text("memory"), []byte{2, 0}),
		section(12, leb(1)), section(10, leb(3), f(11, 0), f(10, 0, 0), f(8, 0, 0)),
		section(11, leb(1), []byte{1}, leb(len(segment)), segment))
}

// A lookout sees when a guest looks, and ends it when it has done so often enough.
type lookout struct {
	looks, end int
}

func (l *lookout) NewFunctionListener(f api.FunctionDefinition) experimental.FunctionListener {
	if f.Index() == 3 { // comes after the module's own
		return l
	}
	return nil
}

func (l *lookout) Before(_ context.Context, m api.Module, _ api.FunctionDefinition, _ []uint64, _ experimental.StackIterator) {
	if l.looks++; l.looks == l.end {
		m.ExportedGlobal(core.StopGlobal).(api.MutableGlobal).Set(1)
	}
}

func (l *lookout) After(context.Context, api.Module, api.FunctionDefinition, []uint64) {}

func (l *lookout) Abort(context.Context, api.Module, api.FunctionDefinition, error) {}

func bulkModule(t *testing.T, binary []byte, l *lookout) api.Module {
	t.Helper()
	ctx := experimental.WithFunctionListenerFactory(t.Context(), l)
	rt := compiler(t)
	c, err := rt.CompileModule(ctx, binary)
	if err != nil {
		t.Fatal(err)
	}
	m, err := rt.InstantiateModule(t.Context(), c, wazero.NewModuleConfig().WithName(""))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestMuchIsDoneInPieces holds that instructions that are done in pieces do what
// they do at once: wherever their operands overlap, and when they do not fit.
func TestMuchIsDoneInPieces(t *testing.T) {
	const piece = 256 << 10
	for _, tt := range []struct {
		name    string
		a, b, n uint32
	}{
		{"fill", 0, 7, bulkMemory}, {"fill", 3, 0x1ff, 2*piece + 5}, {"fill", 9, 8, piece}, {"fill", bulkMemory, 1, 0},
		{"fill", 0, 7, bulkMemory + 1}, {"fill", bulkMemory + 1, 7, 0}, {"fill", 5, 7, 1<<32 - 1}, {"fill", 1<<32 - 1, 7, 3 * piece},
		{"copy", 0, 10, bulkMemory - 10}, {"copy", 10, 0, bulkMemory - 10}, {"copy", 100_000, 0, 3*piece + 1}, {"copy", 0, 100_000, 3*piece + 1},
		{"copy", piece, 0, 2*piece + 100}, {"copy", 0, piece, 2*piece + 100}, {"copy", 500, 500, 3 * piece}, {"copy", 1, 0, 2 * piece},
		{"copy", 11, 0, bulkMemory - 10}, {"copy", 0, 11, bulkMemory - 10}, {"copy", 1<<32 - 1, 0, 2 * piece}, {"copy", 0, 1<<32 - 1, 2 * piece}, {"copy", 0, 0, 1<<32 - 1},
		{"init", 0, 0, bulkSegment}, {"init", 77, 99, 2*piece + 1}, {"init", bulkMemory - 2*piece, 1, 2 * piece},
		{"init", 0, 1, bulkSegment}, {"init", bulkMemory - 2*piece, 0, 2*piece + 1}, {"init", 0, 1<<32 - 1, 2 * piece}, {"init", 0, bulkSegment, 0},
	} {
		t.Run(fmt.Sprintf("%s %d %d %d", tt.name, tt.a, tt.b, tt.n), func(t *testing.T) {
			var l lookout
			whole, parts := bulkModule(t, bulk(), new(lookout)), bulkModule(t, rewrite(t, bulk()).Binary, &l)
			call := func(m api.Module) string {
				mem, _ := m.Memory().Read(0, bulkMemory)
				for i := range mem {
					mem[i] = byte(i*7 ^ i>>8 ^ i>>16)
				}
				before := bytes.Clone(mem)
				_, err := m.ExportedFunction(tt.name).Call(t.Context(), uint64(tt.a), uint64(tt.b), uint64(tt.n))
				return fmt.Sprint(crc32.ChecksumIEEE(mem), bytes.Equal(mem, before), err == nil)
			}
			parts.ExportedGlobal(core.FuelGlobal).(api.MutableGlobal).Set(0)
			want, got := call(whole), call(parts)
			if got != want {
				t.Errorf("sum of memory, whether nothing was written, whether it was done: %s, want %s", got, want)
			}
			if l.looks == 0 && tt.n > 0 {
				t.Error("it was not done in pieces")
			}
		})
	}
}

// TestMuchIsStopped holds that a guest is ended in the middle of one instruction,
// which without its slice and with new memory is looked for at each piece.
func TestMuchIsStopped(t *testing.T) {
	for _, name := range []string{"fill", "copy", "init"} {
		l := lookout{end: 2}
		m := bulkModule(t, rewrite(t, bulk()).Binary, &l)
		mem, _ := m.Memory().Read(0, bulkMemory)
		for i := range bulkMemory / 2 {
			mem[i] = 1
		}
		m.ExportedGlobal(core.FuelGlobal).(api.MutableGlobal).Set(0)
		fresh := rewrite(t, bulk()).Globals
		m.ExportedGlobal(fresh[len(fresh)-1]).(api.MutableGlobal).Set(1000)
		to := uint64(bulkMemory / 2)
		if name == "init" {
			to = 0
		}
		_, err := m.ExportedFunction(name).Call(t.Context(), to, 1, bulkMemory/2-1)
		if why := m.ExportedGlobal(core.WhyGlobal).Get(); err == nil || why != core.WhyStopped || l.looks != l.end {
			t.Errorf("%s: %v after %d looks, because of %d; want an end at the second, because of %d", name, err, l.looks, why, core.WhyStopped)
		}
	}
}

// TestLittleCostsNothing holds that an instruction that does no more than a small
// number of bytes, which stands beside it, stays as it is.
func TestLittleCostsNothing(t *testing.T) {
	fill := func(size []byte) int {
		plain := code(concat([]byte{0x41, 0, 0x41, 0}, size, []byte{0xfc, 11, 0, 0x20, 0, 0x0b})...)
		return len(rewrite(t, plain).Binary) - len(plain)
	}
	nothing := len(rewrite(t, code(0x20, 0, 0x0b)).Binary) - len(code(0x20, 0, 0x0b))
	if got := fill([]byte{0x41, 0x80, 8}); got != nothing {
		t.Errorf("1,024 bytes: %d bytes are added, want %d", got, nothing)
	}
	for _, size := range [][]byte{{0x41, 0x81, 8}, {0x41, 0x7f}, {0x41, 1, 0x41, 1, 0x6a}} {
		if got := fill(size); got <= nothing {
			t.Errorf("%#x: %d bytes are added, want more than %d", size, got, nothing)
		}
	}
}
