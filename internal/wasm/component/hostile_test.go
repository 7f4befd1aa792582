package component

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"strings"
	"testing"
	"time"

	"sluice/internal/wasm/core"
)

// Parts of binaries, as tests write them.

func leb(n int) []byte { return binary.AppendUvarint(nil, uint64(n)) }

func concat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// section is a section of a component, or of a core module.
func section(id byte, parts ...[]byte) []byte {
	body := concat(parts...)
	return concat([]byte{id}, leb(len(body)), body)
}

// list is a section that is a list of n equal items.
func list(id byte, n int, item ...byte) []byte { return section(id, leb(n), bytes.Repeat(item, n)) }

func text(s string) []byte { return concat(leb(len(s)), []byte(s)) }

func component(sections ...[]byte) []byte { return concat(Header, concat(sections...)) }

func module(sections ...[]byte) []byte { return concat(core.Header, concat(sections...)) }

// outline is a component whose core modules are cut down to what the linker reads
// of them, so that a fuzzer need not carry their code.
func outline(t testing.TB, b []byte) []byte {
	t.Helper()
	out := bytes.Clone(Header)
	for r := core.NewReader(b[len(Header):], 0); r.More(); {
		id := r.Byte()
		p := r.Part()
		body := p.Bytes(p.Left())
		if r.Err() != nil {
			t.Fatal(r.Err())
		}
		if id == 1 {
			slim := bytes.Clone(core.Header)
			for m := core.NewReader(body[len(core.Header):], 0); m.More(); {
				id := m.Byte()
				p := m.Part()
				if keep := p.Bytes(p.Left()); id == 1 || id == 2 || id == 3 || id == 7 {
					slim = append(slim, section(id, keep)...)
				}
			}
			body = slim
		}
		if id != 0 {
			out = append(out, section(id, body)...)
		}
	}
	return out
}

// numbered is n names of three letters, as exports or imports have them.
func numbered(n int, item func(i int, name []byte) []byte) []byte {
	var out []byte
	for i := range n {
		name := text(string([]byte{'a' + byte(i/676%26), 'a' + byte(i/26%26), 'a' + byte(i%26)}))
		out = append(out, item(i, name)...)
	}
	return out
}

// bombs are small binaries that would make much.
var bombs = []struct {
	name     string
	sections [][]byte
	want     string
}{
	{"a nested component, instantiated 500 times", [][]byte{
		section(4, component(section(0, text("fill"), make([]byte, 20_000)))), list(5, 500, 0, 0, 0),
	}, "instantiated so often"},
	{"components that each instantiate the one before twice", [][]byte{
		section(4, Header),
		section(4, component(section(6, []byte{1, 4, 2, 1, 0}), list(5, 2, 0, 0, 0))),
		section(4, component(section(6, []byte{1, 4, 2, 1, 1}), list(5, 2, 0, 0, 0))),
		list(5, 5000, 0, 2, 0),
	}, "than a component of its size may have"},
	{"an instance of many exports, exported under many names", [][]byte{
		list(7, 1, 0x40, 0, 1, 0), // func()
		section(10, leb(1), []byte{0}, text("f"), []byte{1, 0}),
		section(5, leb(1), []byte{1}, leb(1000), numbered(1000, func(_ int, name []byte) []byte { return concat([]byte{0}, name, []byte{1, 0}) })),
		section(11, leb(1000), numbered(1000, func(_ int, name []byte) []byte { return concat([]byte{0}, name, []byte{5, 0, 0}) })),
	}, "more definitions than a component of its size may have"},
	{"the same interface, imported under many names", [][]byte{
		list(7, 1, 0x40, 0, 1, 0),
		section(7, leb(1), []byte{0x42}, leb(1001), []byte{2, 3, 2, 1, 0}, numbered(1000, func(_ int, name []byte) []byte { return concat([]byte{4, 0}, name, []byte{1, 0}) })),
		section(10, leb(500), numbered(500, func(_ int, name []byte) []byte { return concat([]byte{0}, name, []byte{5, 1}) })),
	}, "more definitions than a component of its size may have"},
	{"a core module of 4,000 imports, instantiated 200 times", [][]byte{
		section(1, module(section(1, []byte{1, 0x60, 0, 0}), section(2, leb(4000), numbered(4000, func(_ int, name []byte) []byte { return concat(name, []byte{1, 'x', 0, 0}) })))),
		list(2, 200, 0, 0, 0),
	}, "has no argument"},
	{"a core module, instantiated 250 times", [][]byte{
		section(1, module(section(0, text("fill"), make([]byte, 20_000)))), list(2, 250, 0, 0, 0),
	}, "instantiated so often"},
	{"an enum of a million labels", [][]byte{section(7, leb(1), []byte{0x6d}, leb(1_000_000), make([]byte, 1_000_000))}, "more definitions"},
	{"a flags type of a million labels", [][]byte{section(7, leb(1), []byte{0x6e}, leb(1_000_000), make([]byte, 1_000_000))}, "more definitions"},
	{"a tuple of a million booleans", [][]byte{section(7, leb(1), []byte{0x6f}, leb(1_000_000), bytes.Repeat([]byte{0x7f}, 1_000_000))}, "more definitions"},
	{"a function of a million parameters", [][]byte{section(7, leb(1), []byte{0x40}, leb(1_000_000), bytes.Repeat([]byte{0, 0x7f}, 1_000_000), []byte{1, 0})}, "more definitions"},
	{"a million types", [][]byte{list(7, 1_000_000, 0x7f)}, "more"},
	{"a million components", [][]byte{bytes.Repeat(section(4, Header), 1_000_000)}, "more"},
	{"a million empty custom sections", [][]byte{bytes.Repeat([]byte{0, 1, 0}, 1_000_000)}, "more definitions"},
	{"sixty-five core modules", [][]byte{bytes.Repeat(section(1, core.Header), 65)}, "more than 64 core modules"},
	{"types within types", [][]byte{section(7, leb(1), bytes.Repeat([]byte{0x42, 1, 1}, 100), []byte{0x42, 0})}, "nested more than 16 deep"},
	{"types of components within types", [][]byte{section(7, leb(1), bytes.Repeat([]byte{0x41, 1, 1}, 100), []byte{0x41, 0})}, "nested more than 16 deep"},
	{"a list of a list of a list", [][]byte{list(7, 1, 0x7f), section(7, leb(100), nest(100))}, "more than 64 levels"},
}

// nest is n definitions of lists, each of the one before.
func nest(n int) (b []byte) {
	for i := range n {
		b = append(b, 0x70)
		b = append(b, leb(i)...)
	}
	return b
}

// TestSmallBinariesMakeLittle holds that what a binary makes is in proportion to
// its size, in memory and in time.
func TestSmallBinariesMakeLittle(t *testing.T) {
	for _, tt := range bombs {
		t.Run(tt.name, func(t *testing.T) {
			b := component(tt.sections...)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			begin := time.Now()
			_, err := Link(b)
			took := time.Since(begin)
			runtime.ReadMemStats(&after)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			got := after.TotalAlloc - before.TotalAlloc
			if most := mostMemory(len(b)); got > uint64(most) {
				t.Errorf("%d bytes make %d bytes of memory, at most %d are right", len(b), got, most)
			}
			t.Logf("%d bytes make %d KiB in %s: %v", len(b), got>>10, took.Round(time.Microsecond), err)
		})
	}
}
