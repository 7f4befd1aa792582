package core_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tetratelabs/wazero/api"

	"sluice/internal/wasm/core"
)

// Parts of binaries, as tests write them.

func leb(n int) []byte { return binary.AppendUvarint(nil, uint64(n)) }

func concat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func section(id byte, parts ...[]byte) []byte {
	body := concat(parts...)
	return concat([]byte{id}, leb(len(body)), body)
}

// times is a list of n equal items.
func times(n int, item ...byte) []byte { return concat(leb(n), bytes.Repeat(item, n)) }

func text(s string) []byte { return concat(leb(len(s)), []byte(s)) }

func module(sections ...[]byte) []byte { return concat(core.Header, concat(sections...)) }

// code is a module with a memory, a table, a mutable global and one function
// (i32) -> i32, "f", of these instructions.
func code(instructions ...byte) []byte { return codeWith([]byte{0}, instructions...) }

// codeWith is code with declarations of locals.
func codeWith(locals []byte, instructions ...byte) []byte {
	return module(
		section(1, times(1, 0x60, 1, 0x7f, 1, 0x7f)), section(3, times(1, 0)), section(4, []byte{1, 0x70, 0, 1}), section(5, []byte{1, 0, 1}),
		section(6, []byte{1, 0x7f, 1, 0x41, 0, 0x0b}), section(7, leb(1), text("f"), []byte{0, 0}),
		section(10, leb(1), leb(len(locals)+len(instructions)), locals, instructions))
}

// ofItself is a call of the first function by itself.
var ofItself = []byte{0x41, 0, 0x10, 0, 0x1a}

// many is a module of n functions (i32) -> i32 of the same instructions.
func many(n int, instructions []byte) []byte {
	return module(section(1, times(1, 0x60, 1, 0x7f, 1, 0x7f)), section(3, times(n, 0)),
		section(10, times(n, concat(leb(1+len(instructions)), []byte{0}, instructions)...)))
}

var hostile = []struct {
	name   string
	binary []byte
	want   string
}{
	{"nothing", nil, "not a core WebAssembly module"},
	{"another version", []byte("\x00asm\x02\x00\x00\x00"), "not a core WebAssembly module"},
	{"a section longer than the file", module([]byte{1, 9, 1}), "9 bytes are wanted and 1 are left at offset 0xa"},
	{"a section of unknown form", module(section(14, nil)), "unknown section 14"},
	{"sections out of order", module(section(3, []byte{0}), section(1, []byte{0})), "section 1 stands in the wrong place"},
	{"a section twice", module(section(1, []byte{0}), section(1, []byte{0})), "section 1 stands in the wrong place"},
	{"a section with something behind it", module(section(1, []byte{0, 0})), "section 1 is longer than what is in it"},
	{"types that are not there", module(section(1, []byte{0xff, 0xff, 0xff, 0xff, 0x0f})), "a list of 4294967295 elements in 0 bytes"},
	{"a structure type", module(section(1, []byte{1, 0x5f, 0, 0})), "a type of form 0x5f; only functions are supported at offset 0xc"},
	{"a type of 2,000 parameters", module(section(1, []byte{1, 0x60}, times(2000, 0x7f), []byte{0})), "at most 1024 are allowed"},
	{"a typed reference", module(section(1, []byte{1, 0x60, 1, 0x64, 0})), "a value of type 0x64 is not supported at offset 0xe"},
	{"a function of a type that is not there", module(section(3, []byte{1, 0})), "function type 0 of 0"},
	{"a function without a body", module(section(1, times(1, 0x60, 0, 0)), section(3, []byte{1, 0})), "1 functions and 0 bodies"},
	{"a body without a function", module(section(10, []byte{1, 2, 0, 0x0b})), "a body without a function"},
	{"a memory that threads share", module(section(5, []byte{1, 3, 1, 1})), "a memory with limits of form 0x3 is not supported at offset 0xd"},
	{"a memory of 64 bits", module(section(5, []byte{1, 4, 1})), "a memory with limits of form 0x4 is not supported"},
	{"two memories", module(section(5, []byte{2, 0, 1, 0, 1})), "more than one memory is not supported"},
	{"a memory over the limit", module(section(5, []byte{1, 0, 17})), "a memory of 17 pages; at most 16 are allowed"},
	{"a memory that there cannot be", module(section(5, []byte{1, 1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f})), "a memory of 0 that may have 4294967295"},
	{"a memory that is larger than it may be", module(section(5, []byte{1, 1, 2, 1})), "a memory of 2 that may have 1"},
	{"a table of a billion", module(section(4, []byte{1, 0x70, 0}, leb(1<<30))), "tables of more than 131072 elements"},
	{"many tables", module(section(4, times(100, 0x70, 0, 1))), "more than 16 tables"},
	{"a table with an initial value", module(section(4, []byte{1, 0x40, 0, 0x70, 0, 1, 0xd0, 0x70, 0x0b})), "a table with an initial value is not supported"},
	{"an import of a tag", module(section(1, times(1, 0x60, 0, 0)), section(2, leb(1), text("m"), text("t"), []byte{4, 0, 0})), "an import of kind tag is not supported"},
	{"an export with the gateway's name", module(section(6, []byte{1, 0x7f, 1, 0x41, 0, 0x0b}), section(7, leb(1), text("sluice!stop"), []byte{3, 0})), `an export is named "sluice!stop"`},
	{"an export of a memory that is not there", module(section(7, leb(1), text("m"), []byte{2, 0})), "an export of memory 0 of 0"},
	{"an export of the global that is added", module(section(7, leb(1), text("g"), []byte{3, 1})), "an export of global 1 of 0"},
	{"two exports of one name", module(section(5, []byte{1, 0, 1}), section(7, leb(2), text("m"), []byte{2, 0}, text("m"), []byte{2, 0})), `two exports named "m"`},
	{"a start function that takes something", module(section(1, times(1, 0x60, 1, 0x7f, 0)), section(3, []byte{1, 0}), section(8, []byte{0}), section(10, []byte{1, 2, 0, 0x0b})), "a start function that takes or returns something"},
	{"data without a memory", module(section(11, []byte{1, 0, 0x41, 0, 0x0b, 0})), "an instruction on a memory, and there is none"},
	{"elements without a table", module(section(9, []byte{1, 0, 0x41, 0, 0x0b, 0})), "an element segment for table 0 of 0"},
	{"a constant that calls", module(section(6, []byte{1, 0x7f, 0, 0x10, 0, 0x0b})), "instruction 0x10 in a constant"},
	{"a constant of the global that is added", module(section(6, []byte{1, 0x7f, 0, 0x23, 1, 0x0b})), "global 1 of 0"},

	{"the global that is added", code(0x41, 0, 0x24, 1, 0x20, 0, 0x0b), "global 1 of 1"},
	{"the function that is added", code(0x10, 1, 0x20, 0, 0x0b), "function 1 of 1"},
	{"the type that is added", code(0x20, 0, 0x11, 1, 0, 0x20, 0, 0x0b), "type 1 of 1"},
	{"the local that is added", code(0x41, 0, 0x20, 0, 0x20, 1, 0xfc, 11, 0, 0x20, 0, 0x0b), "local 1 of 1"},
	{"an exception of the old form", code(0x06, 0x40, 0x19, 0x0b, 0x20, 0, 0x0b), "instruction 0x6 is not supported"},
	{"a call of a reference", code(0x14, 0), "instruction 0x14 is not supported"},
	{"a structure", code(0xfb, 0, 0), "instruction 0xfb is not supported"},
	{"waiting", code(0x41, 0, 0x41, 0, 0x42, 0, 0xfe, 1, 2, 0, 0x0b), "waiting on memory is not supported"},
	{"a vector instruction that is not in the standard", code(0xfd, 0x80, 2), "instruction 0xfd 0x80 0x2 is not supported"},
	{"no end", code(0x20, 0), "a function without an end"},
	{"no end, at the end of a block's", code(0x02, 0x40, 0x0b), "a function without an end"},
	{"something after the end", code(0x20, 0, 0x0b, 0x01), "instructions after the end of a function"},
	{"blocks within blocks", code(bytes.Repeat([]byte{2, 0x40}, 10_000)...), "blocks nested more than 8192 deep"},
	{"loops within loops", code(bytes.Repeat([]byte{3, 0x40}, 100)...), "loops nested more than 64 deep"},
	{"many blocks", code(bytes.Repeat([]byte{2, 0x40, 0x0b}, 20_000)...), "a function of more than 16384 blocks"},
	{"many branches", code(bytes.Repeat([]byte{0x20, 0, 0x0d, 0}, 20_000)...), "a function of more than 16384 blocks"},
	{"a large function", code(append(make([]byte, 3<<20), 0x0b)...), "a function of more than 2097152 bytes"},
	{"many locals", codeWith(concat([]byte{1}, leb(60_000), []byte{0x7f}), 0x20, 0, 0x0b), "a function of more than 50000 locals"},
	{"many locals in many functions", module(section(1, times(1, 0x60, 0, 0)), section(3, times(1000, 0)), section(10, times(1000, 6, 1, 0xd0, 0x86, 3, 0x7f, 0x0b))), "more locals than a module of"},
	{"many locals and many blocks", codeWith(concat([]byte{1}, leb(2000), []byte{0x7f}), concat(bytes.Repeat([]byte{2, 0x40, 0x0b}, 2000), []byte{0x20, 0, 0x0b})...), "blocks and calls with 2001 locals, which is too much of both"},
	{"calls of itself", code(concat(bytes.Repeat(ofItself, 8000), []byte{0x20, 0, 0x0b})...), "blocks and calls with 1 locals in loops; with those before it that is too much for 40008 bytes of code"},
	{"many loops in many functions", many(10, concat(bytes.Repeat([]byte{3, 0x40, 0x0b}, 1300), []byte{0x20, 0, 0x0b})), "a function of 3900 blocks and calls with 1 locals in loops; with those before it that is too much"},
	{"many loops", code(concat(bytes.Repeat([]byte{3, 0x40, 0x0b}, 4000), []byte{0x20, 0, 0x0b})...), "a function of 12000 blocks and calls"},
	{"filling in many places", code(concat(bytes.Repeat([]byte{0x41, 0, 0x41, 0, 0x20, 0, 0xfc, 11, 0}, 4000), []byte{0x20, 0, 0x0b})...), "blocks and calls with 1 locals in loops"},
	{"loops within loops with many locals", codeWith(concat([]byte{1}, leb(1000), []byte{0x7f}), concat(bytes.Repeat([]byte{3, 0x40}, 60), bytes.Repeat([]byte{0x20, 1, 0x1a}, 60), bytes.Repeat([]byte{0x0b}, 60), []byte{0x20, 0, 0x0b})...), "a function of 180 blocks and calls with 1001 locals in loops"},

	// What the engine would read in another way, so that instructions hide in
	// operands: 0xfd takes one byte there.
	{"a second opcode that is longer than it must be", code(0xfd, 0x85, 0, 0x0b, 0x41, 0x20, 0, 0x0b), "instruction 0xfd 0x85 0x0 is not supported"},
	{"another one", code(0xfd, 0x85, 0x80, 0, 0x0b), "instruction 0xfd 0x85 0x80 is not supported"},
	{"a bulk opcode that is longer than it must be", code(0xfc, 0x8b, 0, 0, 0x0b), "instruction 0xfc 0x8b is not supported"},
	{"a block of a type of two bytes", code(0x02, 0x63, 0x70, 0x0b, 0x20, 0, 0x0b), "a value of type 0x63 is not supported"},
	{"a local of a type of two bytes", codeWith([]byte{1, 1, 0x63, 0x70}, 0x20, 0, 0x0b), "a value of type 0x63 is not supported"},
	{"a choice of a type of two bytes", code(0x1c, 1, 0x63, 0x70, 0x0b), "a value of type 0x63 is not supported"},
	{"a null of a type of its own", code(0xd0, 0x80, 0, 0x1a, 0x20, 0, 0x0b), "a reference of type 0x80 is not supported"},
	{"a second memory in an operand", code(0x20, 0, 0x28, 0x42, 0, 0, 0x0b), "more than one memory is not supported"},
	{"a memory in two bytes", code(0x3f, 0x80, 0, 0x0b), "a memory is 0x80; only 0 is supported"},
}

// TestHostileModulesAreRefused holds that each says what is wrong with it and
// where, quickly and without making much.
func TestHostileModulesAreRefused(t *testing.T) {
	for _, tt := range hostile {
		t.Run(tt.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			m, err := core.Decode(tt.binary, 0)
			if err == nil {
				_, err = core.Rewrite(m, core.Options{Pages: 16})
			}
			runtime.ReadMemStats(&after)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			} else if len(tt.binary) > 8 {
				isNamed(t, err)
			}
			if got, most := after.TotalAlloc-before.TotalAlloc, uint64(64*len(tt.binary)+8<<20); got > most {
				t.Errorf("%d bytes make %d, at most %d are right", len(tt.binary), got, most)
			}
		})
	}
}

// TestWhatIsNotHostileIsTaken holds that the module that the table above varies
// is a good one, and that the engine and we agree on what looks alike.
func TestWhatIsNotHostileIsTaken(t *testing.T) {
	for name, b := range map[string][]byte{
		"as it is":                   code(0x20, 0, 0x0b),
		"an index as linkers pad it": code(0x20, 0x80, 0x80, 0x80, 0x80, 0, 0x0b),
		"a vector instruction":       code(0x20, 0, 0xfd, 17, 0x20, 0, 0xfd, 17, 0xfd, 0xae, 1, 0xfd, 27, 0, 0x0b),
	} {
		if _, err := compiler(t).CompileModule(t.Context(), rewrite(t, b).Binary); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNamesAreWrittenAnew holds that a name section that would make the engine
// reserve memory for billions of names does not reach it, and that honest names
// do.
func TestNamesAreWrittenAnew(t *testing.T) {
	with := func(names []byte) []byte {
		return concat(code(0x00, 0x0b), section(0, text("name"), names))
	}
	for name, names := range map[string][]byte{
		"billions of functions": section(1, []byte{0xff, 0xff, 0xff, 0xff, 0x0f}),
		"billions of locals":    section(2, []byte{1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f}),
		"cut off":               {1, 200, 1},
		"a function too many":   section(1, []byte{1, 9, 1, 'a'}),
	} {
		if out := rewrite(t, with(names)); bytes.Contains(out.Binary, []byte("\x04name")) {
			t.Errorf("%s: the names are kept", name)
		}
	}
	out := rewrite(t, with(section(1, []byte{1, 0}, text("culprit"))))
	rt := compiler(t)
	m, err := rt.Instantiate(t.Context(), out.Binary)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.ExportedFunction("f").Call(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "culprit") {
		t.Errorf("%v, want the name of the function that trapped", err)
	}
}

func rewrite(t testing.TB, b []byte) *core.Rewritten {
	t.Helper()
	m, err := core.Decode(b, 0)
	if err != nil {
		t.Fatal(err)
	}
	out, err := core.Rewrite(m, core.Options{Stack: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// stopAfter calls "f" and sets the stop flag after a while. It returns how long
// the guest ran on, and why it ended.
func stopAfter(t *testing.T, m api.Module) (late time.Duration, why uint64) {
	t.Helper()
	global := func(name string) api.MutableGlobal { return m.ExportedGlobal(name).(api.MutableGlobal) }
	stopped := make(chan time.Time, 1)
	time.AfterFunc(20*time.Millisecond, func() {
		stopped <- time.Now()
		global(core.StopGlobal).Set(1)
	})
	if _, err := m.ExportedFunction("f").Call(t.Context(), 1); err == nil {
		t.Fatal("it came to an end")
	}
	return time.Since(<-stopped), global(core.WhyGlobal).Get()
}

// TestWhoRunsForeverIsStopped holds that there is no way of spending time without
// paying for it: in loops, in recursion of every form, and in functions that are
// long or that are called from many places.
func TestWhoRunsForeverIsStopped(t *testing.T) {
	call := []byte{0x41, 1, 0x10, 1, 0x1a}
	twice := func(call ...byte) []byte { // until it is nested 60 deep
		call = concat([]byte{0x20, 0, 0x41, 1, 0x6a}, call, []byte{0x1a})
		return concat([]byte{0x20, 0, 0x41, 60, 0x48, 0x04, 0x40}, call, call, []byte{0x0b, 0x20, 0, 0x0b})
	}
	forever := func(body ...byte) []byte { return concat([]byte{3, 0x40}, body, []byte{0x0c, 0, 0x0b, 0x20, 0, 0x0b}) }
	for _, tt := range []struct {
		name string
		f, g []byte // two functions (i32) -> i32
	}{
		{"an empty loop", forever(), []byte{0x20, 0, 0x0b}},
		{"a tail call of itself", []byte{0x20, 0, 0x12, 0, 0x0b}, []byte{0x20, 0, 0x0b}},
		{"a tail call through the table", []byte{0x20, 0, 0x41, 0, 0x13, 0, 0, 0x0b}, []byte{0x20, 0, 0x0b}},
		{"tail calls of each other", []byte{0x20, 0, 0x12, 1, 0x0b}, []byte{0x20, 0, 0x12, 0, 0x0b}},
		{"calls of itself, twice each", twice(0x10, 0), []byte{0x20, 0, 0x0b}},
		{"calls of each other, twice each", twice(0x10, 1), twice(0x10, 0)},
		{"calls through the table, twice each", twice(0x41, 0, 0x11, 0, 0), []byte{0x20, 0, 0x0b}},
		{"calls of each other through the table, twice each", twice(0x10, 1), twice(0x41, 0, 0x11, 0, 0)},
		{"a loop of many calls of a long function", forever(bytes.Repeat(call, 20_000)...), concat([]byte{0x20, 0}, bytes.Repeat([]byte{0x20, 0, 0x6e}, 100_000), []byte{0x0b})},
		{"a loop of many calls of a small one", forever(bytes.Repeat(call, 50_000)...), concat([]byte{0x20, 0}, bytes.Repeat([]byte{0x20, 0, 0x6e}, 80), []byte{0x0b})},
		{"a long loop", forever(bytes.Repeat([]byte{0x20, 0, 0x20, 0, 0x6e, 0x21, 0}, 100_000)...), []byte{0x20, 0, 0x0b}},
		{"a long loop behind a branch", forever(concat([]byte{2, 0x40, 0x0c, 0, 0x0b}, bytes.Repeat([]byte{0x20, 0, 0x20, 0, 0x6e, 0x21, 0}, 100_000))...), []byte{0x20, 0, 0x0b}},
		{"a long loop behind a choice", forever(concat([]byte{0x20, 0, 4, 0x40, 5, 0x0c, 1, 0x0b}, bytes.Repeat([]byte{0x20, 0, 0x20, 0, 0x6e, 0x21, 0}, 100_000))...), []byte{0x20, 0, 0x0b}},
		{"throwing", forever(0x02, 0x40, 0x1f, 0x40, 1, 0, 0, 0, 0x41, 1, 0x10, 1, 0x1a, 0x0b, 0x0b), []byte{0x20, 0, 0x08, 0, 0x0b}},
		{"filling memory", forever(0x41, 0, 0x41, 1, 0x41, 0x80, 0x80, 0x3c, 0xfc, 11, 0), []byte{0x20, 0, 0x0b}},
		{"copying memory", forever(0x41, 0, 0x41, 1, 0x41, 0xff, 0xff, 0x3b, 0xfc, 10, 0, 0), []byte{0x20, 0, 0x0b}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := module(
				section(1, []byte{2, 0x60, 1, 0x7f, 1, 0x7f, 0x60, 0, 0}), section(3, times(2, 0)), section(4, []byte{1, 0x70, 0, 1}), section(5, []byte{1, 0, 15}), section(13, []byte{1, 0, 1}),
				section(7, leb(1), text("f"), []byte{0, 0}), section(9, []byte{1, 0, 0x41, 0, 0x0b, 1, 0}),
				section(10, leb(2), leb(len(tt.f)+1), []byte{0}, tt.f, leb(len(tt.g)+1), []byte{0}, tt.g))
			// The flag is seen within a slice: about 0.1 ms, 5 on a busy
			// machine. A guest that pays too little takes seconds or minutes,
			// every time; a machine that stands still does so once.
			for left := 4; ; left-- {
				m, err := compiler(t).Instantiate(t.Context(), rewrite(t, b).Binary)
				if err != nil {
					t.Fatal(err)
				}
				late, why := stopAfter(t, m)
				t.Logf("stopped after %s", late)
				if why == core.WhyStopped && late <= 500*time.Millisecond {
					break
				}
				if why != core.WhyStopped || left == 0 {
					t.Fatalf("it ends %s after it was told to, because of %d; want within 500ms, because of %d", late, why, core.WhyStopped)
				}
			}
		})
	}
}

// TestExceptionsGiveTheStackBack holds that a guest that catches exceptions does
// not run out of stack by it.
func TestExceptionsGiveTheStackBack(t *testing.T) {
	// f(n): n times calls g and catches what it throws. g(n) calls itself n
	// times and throws. h is f, in a function that returns two values.
	body := func(end ...byte) []byte {
		return concat([]byte{1, 1, 0x7f}, []byte{
			0x03, 0x40, // loop
			0x02, 0x40, // block: where it is caught
			0x1f, 0x40, 1, 0, 0, 0, // try_table (catch 0 0)
			0x41, 20, 0x10, 1, // g(20)
			0x0b, 0x0b,
			0x20, 1, 0x41, 1, 0x6a, 0x22, 1, 0x20, 0, 0x48, 0x0d, 0, // again, n times
			0x0b,
		}, end)
	}
	f := body(0x20, 1, 0x0b)
	g := []byte{0, 0x20, 0, 0x04, 0x40, 0x20, 0, 0x41, 1, 0x6b, 0x10, 1, 0x0b, 0x08, 0, 0x0b}
	h := body(0x20, 1, 0x20, 0, 0x0f, 0x0b)
	b := module(
		section(1, leb(4), []byte{0x60, 1, 0x7f, 1, 0x7f, 0x60, 1, 0x7f, 0, 0x60, 1, 0x7f, 2, 0x7f, 0x7f, 0x60, 0, 0}),
		section(3, []byte{3, 0, 1, 2}), section(13, []byte{1, 0, 3}),
		section(7, leb(2), text("f"), []byte{0, 0}, text("h"), []byte{0, 2}),
		section(10, leb(3), leb(len(f)), f, leb(len(g)), g, leb(len(h)), h))
	m, err := compiler(t).Instantiate(t.Context(), rewrite(t, b).Binary)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"f", "h"} {
		got, err := m.ExportedFunction(name).Call(t.Context(), 2000)
		if err != nil || got[0] != 2000 {
			t.Errorf("%s: %v, %v; want that it catches 2,000 exceptions", name, got, err)
		}
		if left := m.ExportedGlobal(core.StackGlobal).Get(); left != 1<<20 {
			t.Errorf("%s: %d bytes of stack are left, want all %d", name, left, 1<<20)
		}
	}
}

// TestRecursionEndsSoon holds that a guest whose calls are nested without end is
// told so before the engine's stack grows.
func TestRecursionEndsSoon(t *testing.T) {
	for name, f := range map[string][]byte{
		"itself":            {0x20, 0, 0x10, 0, 0x0b},
		"through the table": {0x20, 0, 0x41, 0, 0x11, 0, 0, 0x0b},
	} {
		b := module(
			section(1, times(1, 0x60, 1, 0x7f, 1, 0x7f)), section(3, times(1, 0)), section(4, []byte{1, 0x70, 0, 1}),
			section(7, leb(1), text("f"), []byte{0, 0}), section(9, []byte{1, 0, 0x41, 0, 0x0b, 1, 0}),
			section(10, leb(1), leb(len(f)+1), []byte{0}, f))
		m, err := compiler(t).Instantiate(t.Context(), rewrite(t, b).Binary)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.ExportedFunction("f").Call(t.Context(), 1); err == nil {
			t.Errorf("%s: it ends", name)
		}
		if why := m.ExportedGlobal(core.WhyGlobal).Get(); why != core.WhyStack {
			t.Errorf("%s: it ended because of %d, want %d", name, why, core.WhyStack)
		}
	}
}

// TestMovesArePaid holds that a guest pays for what the engine moves where ways
// meet: locals that one of them sets, whether it is taken or not, and what blocks
// pass.
func TestMovesArePaid(t *testing.T) {
	const many = 1000
	var sets, pushes, drops []byte
	for i := range many {
		sets = concat(sets, []byte{0x20}, leb(1+(i+1)%many), []byte{0x21}, leb(1+i))
		pushes, drops = append(pushes, 0x20, 1), append(drops, 0x1a)
	}
	forever := func(n byte, body []byte) []byte { // n times
		return concat([]byte{0x41, n, 0x21, 0, 3, 0x40}, body, []byte{0x20, 0, 0x41, 1, 0x6b, 0x22, 0, 0x0d, 0, 0x0b, 0x41, 0, 0x0b})
	}
	never := []byte{0x41, 0, 0x28, 2, 0, 4, 0x40} // if what is 0 is not
	for _, tt := range []struct {
		name string
		code []byte
	}{
		{"a way that is not taken", forever(10, concat(never, sets, []byte{0x0b}))},
		{"one that pays for itself", forever(10, concat(never, sets, []byte{3, 0x40, 0x0b, 0x0b}))},
		{"the other one", forever(10, concat(never, []byte{5}, []byte{0x0b}, never, []byte{3, 0x40, 0x0b}, sets, []byte{5, 0x0b}))},
		{"a block that passes many", forever(10, concat(pushes, []byte{2, 1, 0x0b}, drops))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			all := concat(leb(many), bytes.Repeat([]byte{0x7f}, many))
			f := concat([]byte{1}, leb(many), []byte{0x7f}, tt.code)
			b := module(
				section(1, []byte{2, 0x60, 1, 0x7f, 1, 0x7f, 0x60}, all, all), section(3, []byte{1, 0}), section(5, []byte{1, 0, 1}),
				section(7, leb(1), text("f"), []byte{0, 0}), section(10, leb(1), leb(len(f)), f))
			m, err := compiler(t).Instantiate(t.Context(), rewrite(t, b).Binary)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.ExportedFunction("f").Call(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			if paid := core.Slice - int32(m.ExportedGlobal(core.FuelGlobal).Get()); paid < 10*(many-64)/64 {
				t.Errorf("ten times %d moves cost %d, want at least %d", many, paid, 10*(many-64)/64)
			}
		})
	}
}

// TestTailCallsThatPassMuchAreCalls holds that a guest whose calls take the place of
// each other and pass more than fits in registers is told of its depth: to the
// engine they are calls like others. Those that pass little go on for ever.
func TestTailCallsThatPassMuchAreCalls(t *testing.T) {
	for _, n := range []int{6, 200} {
		// f(i32) calls g with n times its parameter, g calls f with its first.
		params := bytes.Repeat([]byte{0x7f}, n)
		f := concat([]byte{0}, bytes.Repeat([]byte{0x20, 0}, n), []byte{0x12, 1, 0x0b})
		g := []byte{0, 0x20, 0, 0x41, 1, 0x6b, 0x22, 0, 0x04, 0x40, 0x20, 0, 0x12, 0, 0x0b, 0x41, 7, 0x0b}
		b := module(
			section(1, []byte{2, 0x60, 1, 0x7f, 1, 0x7f, 0x60}, leb(n), params, []byte{1, 0x7f}), section(3, []byte{2, 0, 1}),
			section(7, leb(1), text("f"), []byte{0, 0}), section(10, leb(2), leb(len(f)), f, leb(len(g)), g))
		m, err := compiler(t).Instantiate(t.Context(), rewrite(t, b).Binary)
		if err != nil {
			t.Fatal(err)
		}
		got, err := m.ExportedFunction("f").Call(t.Context(), 100)
		if err != nil || got[0] != 7 {
			t.Errorf("%d values, 100 times: %v, %v; want 7", n, got, err)
		}
		if left := m.ExportedGlobal(core.StackGlobal).Get(); left != 1<<20 {
			t.Errorf("%d values: %d bytes of stack are left, want all %d", n, left, 1<<20)
		}
		got, err = m.ExportedFunction("f").Call(t.Context(), 1_000_000)
		why := m.ExportedGlobal(core.WhyGlobal).Get()
		if n == 6 && (err != nil || got[0] != 7) {
			t.Errorf("%d values, a million times: %v, %v; want 7", n, got, err)
		}
		if n == 200 && (err == nil || why != core.WhyStack) {
			t.Errorf("%d values, a million times: %v, %v because of %d; want an end because of %d", n, got, err, why, core.WhyStack)
		}
	}
}

// TestWhatRunsIsPaidByItsWeight holds that a guest pays for what runs between two
// checks, be it in a loop, in one long piece, or in functions that are called: a
// thousand loads, each of which may wait for memory.
func TestWhatRunsIsPaidByItsWeight(t *testing.T) {
	loads := func(n int) []byte { // local 1 = memory[memory[…local 1]]
		return concat([]byte{0x20, 1}, bytes.Repeat([]byte{0x28, 2, 0}, n), []byte{0x21, 1})
	}
	times := func(n byte, body []byte) []byte { // a loop
		return concat([]byte{0x41, n, 0x21, 0, 3, 0x40}, body, []byte{0x20, 0, 0x41, 1, 0x6b, 0x22, 0, 0x0d, 0, 0x0b})
	}
	many := func(n int, body ...byte) []byte { return bytes.Repeat(body, n) }
	for _, tt := range []struct {
		name string
		f, g []byte // two functions (i32) -> i32 with a local
	}{
		{"one piece", loads(1000), nil},
		{"a loop of long pieces", times(5, loads(200)), nil},
		{"a loop of short ones", times(50, loads(20)), nil},
		{"a loop within one", times(10, concat(loads(50), []byte{3, 0x40}, loads(50), []byte{0x0b})), nil},
		{"behind a choice", times(10, concat([]byte{0x20, 1, 4, 0x40}, []byte{0x01}, []byte{5}, loads(100), []byte{0x0b})), nil},
		{"calls of a long function", many(10, 0x41, 0, 0x10, 1, 0x1a), loads(100)},
		{"calls of a short one", many(50, 0x41, 0, 0x10, 1, 0x1a), loads(20)},
		{"calls of one with a loop", many(10, 0x41, 0, 0x10, 1, 0x1a), concat(times(2, loads(10)), loads(80))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			body := func(code []byte) []byte {
				b := concat([]byte{1, 1, 0x7f}, code, []byte{0x20, 1, 0x0b})
				return concat(leb(len(b)), b)
			}
			b := module(
				section(1, []byte{1, 0x60, 1, 0x7f, 1, 0x7f}), section(3, []byte{2, 0, 0}), section(5, []byte{1, 0, 1}),
				section(7, leb(1), text("f"), []byte{0, 0}), section(10, leb(2), body(tt.f), body(tt.g)))
			m, err := compiler(t).Instantiate(t.Context(), rewrite(t, b).Binary)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.ExportedFunction("f").Call(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			// 16 each; a tariff less at each of the checks, of which there is one
			// for 20 loads at most.
			paid := core.Slice - int32(m.ExportedGlobal(core.FuelGlobal).Get())
			if paid < 1000*16/64 || paid > 4*1000*16/64 {
				t.Errorf("a thousand loads cost %d, want %d, or some more", paid, 1000*16/64)
			}
		})
	}
}

// TestATableGrowsToABound holds that a guest cannot fill the host's memory by way
// of its table.
func TestATableGrowsToABound(t *testing.T) {
	out := rewrite(t, code(0xd0, 0x70, 0x41, 0x80, 0x80, 0xc0, 0x00, 0xfc, 15, 0, 0x0b)) // by a million
	m, err := compiler(t).Instantiate(t.Context(), out.Binary)
	if err != nil {
		t.Fatal(err)
	}
	got, err := m.ExportedFunction("f").Call(t.Context(), 1)
	if err != nil || int32(got[0]) != -1 {
		t.Errorf("%v, %v; want -1", got, err)
	}
	if out.Frozen == "" {
		t.Error("a module that grows its table can be put back")
	}
}

// TestGuestsAreFarFromTheBounds holds that what is refused because compiling it
// would take long is four times what guests in Rust, Go and C have.
func TestGuestsAreFarFromTheBounds(t *testing.T) {
	for _, pattern := range []string{"../component/testdata/*.wasm", "../../../examples/wasm/*/*.wasm"} {
		for name, m := range modulesOf(t, pattern) {
			effort, most, err := core.Effort(m, core.Options{})
			if err != nil {
				t.Errorf("%s: %v", name, err)
			} else if 4*effort > most {
				t.Errorf("%s: an effort of %d; at most %d is allowed", name, effort, most)
			}
		}
	}
}

// interpreter is a function (i32) -> i32 of the shape that interpreters of large
// languages have: a loop around a choice between 200 cases, in which there are
// calls and branches, and which share some hundred locals.
func interpreter(calls, locals int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	get := func() []byte { return concat([]byte{0x20}, leb(1+r.IntN(locals))) }
	set := func() []byte { return concat([]byte{0x21}, leb(1+r.IntN(locals))) }
	const cases = 200
	b := concat([]byte{1}, leb(locals), []byte{0x7f, 0x03, 0x40}, bytes.Repeat([]byte{0x02, 0x40}, cases+1), get(), []byte{0x0e}, leb(cases))
	for i := range cases + 1 {
		b = append(b, leb(i)...)
	}
	b = append(b, 0x0b)
	for i := range cases {
		for range calls {
			b = concat(b, get(), get(), []byte{0x6a, 0x10, 0, 0x04, 0x40}, get(), []byte{0x41, 1, 0x6a}, set(), []byte{0x05}, get(), set(), []byte{0x0b})
		}
		b = concat(b, []byte{0x0c}, leb(cases-i), []byte{0x0b})
	}
	return append(b, 0x0c, 0, 0x0b, 0x20, 0, 0x0b)
}

// TestInterpretersAreTaken holds that a function as large as those of CPython and
// SpiderMonkey is, in a module with as much code beside it as they have; but not
// alone, as the engine would take much memory for few bytes.
func TestInterpretersAreTaken(t *testing.T) {
	large := interpreter(15, 200)
	other := concat([]byte{0}, bytes.Repeat([]byte{0x41, 0, 0x1a}, 300_000), []byte{0x20, 0, 0x0b})
	of := func(bodies ...[]byte) []byte {
		list := leb(len(bodies))
		for _, b := range bodies {
			list = concat(list, leb(len(b)), b)
		}
		return module(section(1, times(1, 0x60, 1, 0x7f, 1, 0x7f)), section(3, times(len(bodies), 0)), section(10, list))
	}
	rewrite(t, of(large, other, other))
	m, err := core.Decode(of(large), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := core.Rewrite(m, core.Options{}); err == nil || !strings.Contains(err.Error(), "too much of both") {
		t.Errorf("alone it is refused with %v", err)
	}
}
