package httpwasm

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"sluice/internal/infer"
	"sluice/internal/kit/h1"
	"sluice/internal/wasm/core"
)

// quiet is a Host that keeps what it is told.
type quiet struct{ said, printed []byte }

func (*quiet) Config() []byte            { return []byte("config") }
func (*quiet) Logs(level int32) bool     { return level >= 0 && level < 3 }
func (q *quiet) Log(_ int32, msg []byte) { q.said = append(q.said, msg...) }
func (*quiet) Works(int)                 {}
func (q *quiet) Print(b []byte)          { q.printed = append(q.printed, b[:min(len(b), 1<<10)]...) }
func header(fields ...string) *infer.Header {
	h := new(infer.Header)
	for i := 0; i < len(fields); i += 2 {
		h.AddString(fields[i], fields[i+1])
	}
	return h
}

// memory is a guest's memory of one page.
func memory(t testing.TB) api.Memory {
	t.Helper()
	rt := wazero.NewRuntime(t.Context())
	t.Cleanup(func() { rt.Close(t.Context()) })
	m, err := rt.Instantiate(t.Context(), []byte("\x00asm\x01\x00\x00\x00\x05\x03\x01\x00\x01\x07\x0a\x01\x06memory\x02\x00"))
	if err != nil {
		t.Fatal(err)
	}
	return m.Memory()
}

// exchange is about a request with two fields of one name.
func exchange() (*Exchange, *Changes, *quiet) {
	host, out := new(quiet), new(Changes)
	x := &Exchange{Host: host}
	x.Begin(&Request{
		Method: "POST", Path: "/p", Query: "q=1", Proto: "HTTP/1.1", Client: netip.MustParseAddrPort("[2001:db8::1]:80"),
		Header: header("Host", "h", "X-A", "1", "x-a", "2"), Body: []byte("body"), Answer: header("X-Request-Id", "id"), MaxBody: 1 << 20,
	}, out)
	return x, out, host
}

// call calls a function of the host with arguments; texts are put into memory
// first, one after the other from address 0, and stand for two arguments each.
func call(t testing.TB, x *Exchange, mem api.Memory, name string, args ...any) (uint64, error) {
	t.Helper()
	fn, ok := abi[name]
	if !ok {
		fn = wasi[name]
	}
	var st []uint64
	at := uint32(0)
	for _, a := range args {
		switch a := a.(type) {
		case int:
			st = append(st, uint64(uint32(a)))
		case string:
			mem.WriteString(at, a)
			st = append(st, uint64(at), uint64(len(a)))
			at += uint32(len(a))
		}
	}
	if want := len(typeOf(fn.sig).Params); len(st) != want {
		t.Fatalf("%d arguments for %s, want %d", len(st), name, want)
	}
	st = append(st, make([]uint64, max(0, 1-len(st)))...)
	err := fn.f(x, mem, st)
	return st[0], err
}

func TestNamesAndValues(t *testing.T) {
	mem := memory(t)
	x, _, _ := exchange()
	for _, tt := range []struct {
		name  string
		args  []any
		limit int
		want  uint64
		text  string
	}{
		{"get_header_names", []any{0}, 99, 2<<32 | 9, "host\x00x-a\x00"},
		{"get_header_names", []any{0}, 9, 2<<32 | 9, "host\x00x-a\x00"},
		{"get_header_names", []any{0}, 8, 2<<32 | 9, ""}, // not a byte, if not all
		{"get_header_names", []any{1}, 99, 1<<32 | 13, "x-request-id\x00"},
		{"get_header_names", []any{2}, 99, 0, ""},
		{"get_header_names", []any{3}, 99, 0, ""},
		{"get_header_values", []any{0, "X-a"}, 99, 2<<32 | 4, "1\x002\x00"},
		{"get_header_values", []any{0, "x-b"}, 99, 0, ""},
		{"get_uri", nil, 99, 6, "/p?q=1"},
		{"get_uri", nil, 0, 6, ""},
		{"get_method", nil, 99, 4, "POST"},
		{"get_protocol_version", nil, 99, 8, "HTTP/1.1"},
		{"get_source_addr", nil, 99, 16, "[2001:db8::1]:80"},
		{"get_config", nil, 99, 6, "config"},
	} {
		mem.WriteString(100, strings.Repeat("#", 99))
		got, err := call(t, x, mem, tt.name, append(tt.args, 100, tt.limit)...)
		b, _ := mem.Read(100, 99)
		if text := strings.TrimRight(string(b), "#"); err != nil || got != tt.want || text != tt.text {
			t.Errorf("%s %v into %d bytes: %d<<32|%d %q, %v; want %d<<32|%d %q", tt.name, tt.args, tt.limit,
				got>>32, uint32(got), text, err, tt.want>>32, uint32(tt.want), tt.text)
		}
	}
}

func TestFeatures(t *testing.T) {
	mem := memory(t)
	x := &Exchange{Host: new(quiet)}
	f := func(ask int, want Features) {
		t.Helper()
		if got, err := call(t, x, mem, "enable_features", ask); err != nil || Features(got) != want {
			t.Errorf("enable_features(%d) is %d, %v; want %d", ask, got, err, want)
		}
	}
	f(int(BufferRequest|Trailers|1<<20), BufferRequest) // there are no trailers, nor what nobody knows
	var out Changes
	x.Begin(new(Request), &out)
	f(int(BufferResponse), BufferRequest|BufferResponse)
	x.Wait()
	if !x.Buffers() {
		t.Error("what it asked for in handle_request is forgotten")
	}
	x.End()
	x.Begin(new(Request), &out)
	f(0, BufferRequest) // that was of one request only
	x.Wait()
	x.Sent(new(Response))
	f(int(BufferResponse), BufferRequest) // too late
}

// TestNothingBeforeARequest holds that what is about a request ends a guest's
// start, and that the rest does not.
func TestNothingBeforeARequest(t *testing.T) {
	mem := memory(t)
	for name, fn := range abi {
		x := &Exchange{Host: new(quiet)}
		st := make([]uint64, 8)
		for i := range st {
			st[i] = 1
		}
		err := fn.f(x, mem, st)
		free := name == "enable_features" || name == "get_config" || name == "log" || name == "log_enabled"
		if free != (err == nil) {
			t.Errorf("%s while a guest starts: %v", name, err)
		}
	}
}

func TestImports(t *testing.T) {
	for _, m := range []map[string]function{abi, wasi} {
		for name, fn := range m {
			if sig := fn.sig; strings.Count(sig, ">") != 1 || strings.Trim(sig, "iI>") != "" || len(typeOf(sig).Results) > 1 {
				t.Errorf("%s has the type %q", name, sig)
			}
		}
	}
	typ := typeOf("i>i")
	for _, tt := range []struct {
		im   core.Import
		want string
	}{
		{core.Import{Module: "http_handler", Name: "enable_features", Type: typ}, ""},
		{core.Import{Module: "wasi_snapshot_preview1", Name: "fd_close", Type: typ}, ""},
		{core.Import{Module: "http_handler", Name: "fd_close", Type: typ}, "the gateway does not have"},
		{core.Import{Module: "env", Name: "f", Type: typ}, "http-wasm modules do not have"},
		{core.Import{Module: "http_handler", Name: "enable_features", Kind: core.Memory}, "as a memory"},
		{core.Import{Module: "http_handler", Name: "enable_features", Type: typeOf("I>i")}, "as [i64] -> [i32]; want [i32] -> [i32]"},
	} {
		if _, err := Import(&tt.im); tt.want == "" && err != nil || tt.want != "" && !strings.Contains(fmt.Sprint(err), tt.want) {
			t.Errorf("%s of %s: %v, want %q", tt.im.Name, tt.im.Module, err, tt.want)
		}
	}
}

func TestWASIIsEmpty(t *testing.T) {
	mem := memory(t)
	x, _, host := exchange()
	put := func(at uint32, vs ...uint32) {
		for i, v := range vs {
			mem.WriteUint32Le(at+4*uint32(i), v)
		}
	}
	f := func(want uint64, name string, args ...any) {
		t.Helper()
		if got, err := call(t, x, mem, name, args...); err != nil || uint32(got) != uint32(want) {
			t.Errorf("%s%v is %d, %v; want %d", name, args, got, err, want)
		}
	}
	word := func(at, want uint32) {
		t.Helper()
		if got, _ := mem.ReadUint32Le(at); got != want {
			t.Errorf("at %d is %d, want %d", at, got, want)
		}
	}
	put(0, 9, 9)
	f(0, "environ_sizes_get", 0, 4)
	word(0, 0)
	word(4, 0)
	mem.WriteString(64, "hello, world")
	put(32, 64, 5, 69, 7)
	f(0, "fd_write", 1, 32, 2, 0)
	word(0, 12)
	if string(host.printed) != "hello, world" {
		t.Errorf("it wrote %q", host.printed)
	}
	f(errnoBadFD, "fd_write", 3, 32, 2, 0)
	f(errnoInval, "fd_write", 1, 32, maxPieces+1, 0)
	f(0, "fd_read", 0, 32, 2, 0)
	word(0, 0)
	f(errnoBadFD, "fd_prestat_get", 3, 0)
	f(errnoInval, "clock_time_get", 2, 0, 0)
	f(0, "clock_time_get", 1, 0, 0)
	f(0, "random_get", 0, 16)
	f(0, "fd_fdstat_get", 1, 0)
	f(errnoBadFD, "fd_fdstat_get", 7, 0)
	// One who waits for a clock waits for nothing: the event is its own.
	mem.Write(1000, make([]byte, 48))
	binary.LittleEndian.PutUint64(must(mem.Read(1000, 8)), 4711)
	f(0, "poll_oneoff", 1000, 2000, 1, 0)
	word(0, 1)
	word(2000, 4711)
	for name, args := range map[string][]any{"proc_exit": {3}, "random_get": {0, maxRandom + 1}, "clock_time_get": {0, 0, -4}, "fd_write": {1, 65530, 9, 0}} {
		if _, err := call(t, x, mem, name, args...); err == nil {
			t.Errorf("%s%v does not end the call", name, args)
		}
	}
}

func must(b []byte, _ bool) []byte { return b }

// FuzzCalls holds that no call of the host's functions, in whichever order and
// with whichever arguments, does more than end with an error; that what a guest
// changes stays within bounds; and that HTTP has what comes out.
func FuzzCalls(f *testing.F) {
	names := make([]string, 0, len(abi)+len(wasi))
	for _, m := range []map[string]function{abi, wasi} {
		for name := range m {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	f.Add([]byte("\x00\x01\x02\x03\x04\x05\x06\x07"), []byte("x-a\x00GET/p?q"))
	f.Add([]byte("\x0a\x00\x00\x00\x03\x00\x04\x00\x03\x0b\x01\x00\x00\x03\x00\x00"), []byte("abcdefgh"))
	mem := memory(f)
	f.Fuzz(func(t *testing.T, program, text []byte) {
		mem.Write(0, make([]byte, 256))
		mem.Write(0, text[:min(len(text), 256)])
		x, out, _ := exchange()
		next := func() uint64 {
			if len(program) == 0 {
				return 0
			}
			b := program[0]
			program = program[1:]
			if b >= 0xf8 { // far out, or near the end
				return uint64(0xffffffff - uint32(b&7))
			}
			return uint64(b)
		}
		waited := false
		for n := 0; len(program) > 0 && n < 100; n++ {
			k := int(next())
			if k == 0xf7 && !waited {
				waited = true
				check(t, out)
				x.Wait()
				x.Answered(&Response{Status: 200, Header: header("X-B", "3"), Body: []byte("answer")}, out)
				continue
			}
			name := names[k%len(names)]
			fn, ok := abi[name]
			if !ok {
				fn = wasi[name]
			}
			st := make([]uint64, max(1, len(typeOf(fn.sig).Params)))
			for i := range len(typeOf(fn.sig).Params) {
				st[i] = next()
			}
			_ = fn.f(x, mem, st)
		}
		check(t, out)
		x.End()
	})
}

// check holds that changes can be made.
func check(t *testing.T, c *Changes) {
	t.Helper()
	for _, edits := range [][]Edit{c.Request, c.Answer} {
		if len(edits) > maxEdits {
			t.Errorf("%d edits", len(edits))
		}
		for _, e := range edits {
			if _, ok := h1.AppendField(nil, e.Name, e.Value); !ok || h1.IsHopByHop([]byte(e.Name)) || strings.EqualFold(e.Name, "content-length") {
				t.Errorf("a field %q: %q", e.Name, e.Value)
			}
		}
	}
	if c.Status != 0 && (c.Status < 200 || c.Status > 599) {
		t.Errorf("a status of %d", c.Status)
	}
	if _, ok := h1.AppendField(nil, c.Method, ""); c.Method != "" && !ok {
		t.Errorf("a method %q", c.Method)
	}
	if strings.ContainsAny(c.URI, " \r\n#") || c.URI != "" && c.URI[0] != '/' {
		t.Errorf("a URI %q", c.URI)
	}
}
