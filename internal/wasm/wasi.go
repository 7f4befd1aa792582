package wasm

import (
	cryptorand "crypto/rand"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"

	"sluice/internal/wasm/component"
	"sluice/internal/wasm/core"
)

// The guests' world outside: WASI preview 2 with nothing in it. There are no
// files, no network, no environment and no arguments; clocks and chance are
// real; what is written goes to the log.

// wasiPackages are the packages whose functions a component may import. Of most
// no function can ever be called, because that takes a handle which nobody
// gives out; calling one all the same ends the call.
var wasiPackages = []string{"cli", "io", "clocks", "random", "filesystem", "sockets", "http"}

// imported returns the host's function for f, and whether it may be called at any
// time.
func imported(f *component.Func) (call func(g *guest, st []uint64), always bool, err error) {
	if strings.HasPrefix(f.Interface, ownPackage+"/") {
		call, err = ownImport(f)
		return call, false, err
	}
	iface, version, _ := strings.Cut(f.Interface, "@")
	name := iface + "#" + f.Name
	if pkg, is := strings.CutPrefix(iface, "wasi:"); is {
		pkg, _, _ = strings.Cut(pkg, "/")
		if !compatible(version) {
			return nil, false, fmt.Errorf("it imports %s of %s, which is another version than 0.2", f.Name, f.Interface)
		}
		if fn, ok := wasi[name]; ok {
			if got := sigOf(f.Type.Core(true)); got != fn.sig {
				return nil, false, fmt.Errorf("it imports %s as %s, which has another type", name, f.Type)
			}
			return fn.f, anyTime[name], nil
		}
		for _, p := range wasiPackages {
			if pkg == p {
				return func(*guest, []uint64) { trap("it called %s, which the gateway does not have", name) }, false, nil
			}
		}
	}
	return nil, false, fmt.Errorf("it imports %.100q of %.100q, which the gateway does not have", f.Name, f.Interface)
}

// anyTime are the functions that tell something, do nothing, and ask for no memory:
// see hostFunc.
var anyTime = map[string]bool{
	"wasi:clocks/monotonic-clock#now":              true,
	"wasi:clocks/monotonic-clock#resolution":       true,
	"wasi:clocks/wall-clock#now":                   true,
	"wasi:clocks/wall-clock#resolution":            true,
	"wasi:random/random#get-random-u64":            true,
	"wasi:random/insecure#get-insecure-random-u64": true,
	"wasi:random/insecure-seed#insecure-seed":      true,
}

// sigOf writes a core type as wasiFunc has it.
func sigOf(t *core.FuncType) string {
	var s strings.Builder
	write := func(vs []core.ValType) {
		for _, v := range vs {
			c, ok := map[core.ValType]byte{core.I32: 'i', core.I64: 'I', core.F32: 'f', core.F64: 'F'}[v]
			if !ok {
				c = '?'
			}
			s.WriteByte(c)
		}
	}
	write(t.Params)
	s.WriteByte('>')
	write(t.Results)
	return s.String()
}

// compatible reports whether a version is 0.2 of WASI, whichever its patch.
func compatible(version string) bool {
	minor, patch, ok := strings.Cut(strings.TrimPrefix(version, "0."), ".")
	_, err := strconv.Atoi(patch)
	return ok && minor == "2" && err == nil && strings.HasPrefix(version, "0.")
}

// Representations of the streams that guests have.
const (
	stdin = iota
	stdout
	stderr
)

var (
	outputStream = &component.Resource{Name: "wasi:io/streams#output-stream"}
	inputStream  = &component.Resource{Name: "wasi:io/streams#input-stream"}
	pollable     = &component.Resource{Name: "wasi:io/poll#pollable"}
)

// ofHost returns the host's resource that r stands for, or r.
func ofHost(r *component.Resource) *component.Resource {
	if r == nil {
		return nil
	}
	iface, name, _ := strings.Cut(r.Name, "#")
	iface, _, _ = strings.Cut(iface, "@")
	for _, own := range []*component.Resource{outputStream, inputStream, pollable} {
		if own.Name == iface+"#"+name {
			return own
		}
	}
	return r
}

// A wasiFunc is a function of WASI, with the core type that it has: i for i32, I
// for i64, parameters before > and results behind it.
type wasiFunc struct {
	sig string
	f   func(g *guest, st []uint64)
}

// wasi is what can be called, by interface without its version, and name.
var wasi = map[string]wasiFunc{
	"wasi:cli/environment#get-environment":       {"i>", emptyList},
	"wasi:cli/environment#get-arguments":         {"i>", emptyList},
	"wasi:cli/environment#initial-cwd":           {"i>", none},
	"wasi:filesystem/preopens#get-directories":   {"i>", emptyList},
	"wasi:cli/terminal-stdin#get-terminal-stdin": {"i>", none},

	"wasi:cli/terminal-stdout#get-terminal-stdout": {"i>", none},
	"wasi:cli/terminal-stderr#get-terminal-stderr": {"i>", none},

	"wasi:cli/exit#exit":           {"i>", func(_ *guest, st []uint64) { trap("it ended itself with exit status %d", st[0]&1) }},
	"wasi:cli/exit#exit-with-code": {"i>", func(_ *guest, st []uint64) { trap("it ended itself with exit status %d", st[0]&255) }},

	"wasi:cli/stdin#get-stdin":   {">i", func(g *guest, st []uint64) { st[0] = uint64(g.in.handles.add(inputStream, stdin)) }},
	"wasi:cli/stdout#get-stdout": {">i", func(g *guest, st []uint64) { st[0] = uint64(g.in.handles.add(outputStream, stdout)) }},
	"wasi:cli/stderr#get-stderr": {">i", func(g *guest, st []uint64) { st[0] = uint64(g.in.handles.add(outputStream, stderr)) }},

	"wasi:io/streams#[method]output-stream.check-write":              {"ii>", checkWrite},
	"wasi:io/streams#[method]output-stream.write":                    {"iiii>", write},
	"wasi:io/streams#[method]output-stream.blocking-write-and-flush": {"iiii>", write},
	"wasi:io/streams#[method]output-stream.flush":                    {"ii>", flush},
	"wasi:io/streams#[method]output-stream.blocking-flush":           {"ii>", flush},
	"wasi:io/streams#[method]output-stream.subscribe":                {"i>i", subscribe},
	"wasi:io/streams#[method]input-stream.subscribe":                 {"i>i", subscribe},
	"wasi:io/streams#[method]input-stream.read":                      {"iIi>", closedStream},
	"wasi:io/streams#[method]input-stream.blocking-read":             {"iIi>", closedStream},

	"wasi:io/poll#[method]pollable.block": {"i>", func(*guest, []uint64) {}},
	"wasi:io/poll#[method]pollable.ready": {"i>i", func(_ *guest, st []uint64) { st[0] = 1 }},
	"wasi:io/poll#poll":                   {"iii>", poll},

	"wasi:clocks/monotonic-clock#now":                {">I", func(_ *guest, st []uint64) { st[0] = uint64(time.Since(started)) }},
	"wasi:clocks/monotonic-clock#resolution":         {">I", func(_ *guest, st []uint64) { st[0] = 1 }},
	"wasi:clocks/monotonic-clock#subscribe-duration": {"I>i", func(g *guest, st []uint64) { st[0] = uint64(g.in.handles.add(pollable, 0)) }},
	"wasi:clocks/monotonic-clock#subscribe-instant":  {"I>i", func(g *guest, st []uint64) { st[0] = uint64(g.in.handles.add(pollable, 0)) }},
	"wasi:clocks/wall-clock#now": {"i>", func(g *guest, st []uint64) {
		t := time.Now()
		g.u64(st[0], uint64(t.Unix()))
		g.u32(st[0]+8, uint32(t.Nanosecond()))
	}},
	"wasi:clocks/wall-clock#resolution": {"i>", func(g *guest, st []uint64) {
		g.u64(st[0], 0)
		g.u32(st[0]+8, 1)
	}},

	"wasi:random/random#get-random-bytes":            {"Ii>", randomBytes},
	"wasi:random/insecure#get-insecure-random-bytes": {"Ii>", randomBytes},
	"wasi:random/random#get-random-u64":              {">I", randomU64},
	"wasi:random/insecure#get-insecure-random-u64":   {">I", randomU64},
	"wasi:random/insecure-seed#insecure-seed": {"i>", func(g *guest, st []uint64) {
		random(g.bytes(st[0], 16))
	}},
}

// started is where monotonic clocks begin.
var started = time.Now()

// emptyList returns a list of nothing.
func emptyList(g *guest, st []uint64) {
	g.u32(st[0], 4)
	g.u32(st[0]+4, 0)
}

// none returns an option that holds nothing.
func none(g *guest, st []uint64) { g.u8(st[0], 0) }

// mostOutput is how much a guest may write at once, and how much of it is kept
// for the log in one call.
const mostOutput = 4 << 10

// checkWrite returns how much may be written.
func checkWrite(g *guest, st []uint64) {
	g.in.handles.get(uint32(st[0]), outputStream)
	g.u8(st[1], 0)
	g.u64(st[1]+8, mostOutput)
}

// write takes what a guest writes.
func write(g *guest, st []uint64) {
	g.in.handles.get(uint32(st[0]), outputStream)
	g.in.out.write(g.bytes(st[1], st[2]))
	g.u8(st[3], 0)
}

func flush(g *guest, st []uint64) {
	g.in.handles.get(uint32(st[0]), outputStream)
	g.u8(st[1], 0)
}

func subscribe(g *guest, st []uint64) { st[0] = uint64(g.in.handles.add(pollable, 0)) }

// closedStream says that a stream has ended.
func closedStream(g *guest, st []uint64) {
	g.in.handles.get(uint32(st[0]), inputStream)
	g.u8(st[2], 1)
	g.u8(st[2]+4, 1)
}

// poll says that everything is ready: nothing that guests can wait for takes
// time.
func poll(g *guest, st []uint64) {
	const most = 1 << 10
	n := uint32(st[1])
	if n == 0 || n > most {
		trap("it waits for %d things", n)
	}
	g.in.spend(int(n) * workThing)
	at := g.alloc(4, 4*n)
	for i := range n {
		g.u32(uint64(at+4*i), i)
	}
	g.u32(st[2], at)
	g.u32(st[2]+4, n)
}

// mostRandom is how many random bytes a guest may have at once, and randomWork is
// how much work one is.
const (
	mostRandom = 64 << 10
	randomWork = 4
)

func randomBytes(g *guest, st []uint64) {
	if st[0] > mostRandom {
		trap("it wants %d random bytes at once", st[0])
	}
	n := uint32(st[0])
	g.in.spend(int(n) * randomWork)
	at := g.alloc(1, n)
	random(g.bytes(uint64(at), uint64(n)))
	g.u32(st[1], at)
	g.u32(st[1]+4, n)
}

func randomU64(_ *guest, st []uint64) {
	var b [8]byte
	random(b[:])
	st[0] = binary.LittleEndian.Uint64(b[:])
}

func random(b []byte) {
	if _, err := cryptorand.Read(b); err != nil {
		trap("no random bytes: %v", err)
	}
}

// An Output is what a guest wrote to its standard streams during a call.
type Output struct {
	Text []byte // at most 4 KiB
	Lost int    // bytes that were more than that
}

func (o *Output) write(b []byte) {
	n := min(len(b), mostOutput-len(o.Text))
	o.Text = append(o.Text, b[:n]...)
	o.Lost += len(b) - n
}

func (o *Output) reset() { o.Text, o.Lost = o.Text[:0], 0 }

// take copies what from has.
func (o *Output) take(from *Output) {
	o.Text, o.Lost = append(o.Text[:0], from.Text...), from.Lost
}
