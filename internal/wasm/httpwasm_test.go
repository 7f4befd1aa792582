package wasm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/http-wasm/http-wasm-host-go/tck"

	"sluice/internal/infer"
)

// letters are the http-wasm guest of the tests, which does what the last letter
// of a request's path stands for (httpwasm/testdata/guest.wat).
func letters(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("httpwasm/testdata/guest.wasm")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// loadHTTP loads a module for a test, on an Engine that runs.
func loadHTTP(t testing.TB, binary []byte, change func(*Settings)) *Module {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	e, err := NewEngine("", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- e.Run(ctx) }()
	set := DefaultSettings()
	if change != nil {
		change(&set)
	}
	m, err := e.Load(ctx, binary, set)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Close()
		cancel()
		<-done
	})
	return m
}

// asked is a request that the guest does a letter for.
func asked(letter string) *Request {
	r := request(250)
	r.Path, r.Query = "/v1/chat/completions/"+letter, ""
	r.Header.AddString("X-Drop", "me")
	r.Proto, r.Client, r.Answer = "HTTP/1.1", netip.MustParseAddrPort("192.0.2.7:4711"), new(infer.Header)
	return r
}

// edited is h with edits, as text.
func edited(edits []Edit) string {
	var b strings.Builder
	for _, e := range edits {
		fmt.Fprintf(&b, "%d %s=%s;", e.Op, e.Name, e.Value)
	}
	return b.String()
}

func TestHTTPWasmGuestsAreHeard(t *testing.T) {
	m := loadHTTP(t, letters(t), nil)
	if m.World() != "http-wasm" {
		t.Errorf("its world is %q", m.World())
	}
	tests := []struct {
		name, letter string
		kind         Kind
		want         string // method, URI, edits, edits of the answer, its begin, and the body or its length
	}{
		{"lets a request go on", "a", Continue, "||||||"},
		{"answers itself", "b", Reject, "|||0 x-why=1;||kept out|403"},
		{"changes the header, but not what frames the message", "c", Modify, "||0 x-a=1;1 x-a=2;2 x-drop=;||||"},
		{"replaces the body", "d", Modify, "|||||changed|"},
		{"makes another call of it", "e", Modify, "PUT|/v1/completions?q=1|||||"},
		{"begins the answer", "B", Modify, "|||0 x-early=1;0 content-type=text/x;|pre||"},
		{"reads the body in pieces", "F", Modify, "|||||<" + strings.Repeat("x", 250) + ">|"},
		{"is told how large a buffer has to be", "I", Continue, "||||||"},
		{"takes all the memory that it may have", "z", Continue, "||||||"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var c Call
			var a Action
			for range 2 {
				if err := m.OnRequest(t.Context(), &c, asked(tt.letter), &a); err != nil {
					t.Fatal(err)
				}
				status := ""
				if a.Status != 0 {
					status = fmt.Sprint(a.Status)
				}
				got := fmt.Sprintf("%s|%s|%s|%s|%s|%s|%s", a.Method, a.URI, edited(a.Edits), edited(a.Answer), a.Begin, a.Body, status)
				if a.Kind != tt.kind || got != tt.want {
					t.Errorf("got %v %s\nwant %v %s", a.Kind, got, tt.kind, tt.want)
				}
				if held := m.Wants(OnEnd, &c); held == (tt.kind == Reject) {
					t.Errorf("its instance is held: %v", held)
				}
				c.Release()
			}
		})
	}
	if s := m.Stats(); s.Instances != 1 || s.Idle != 1 {
		t.Errorf("one call at a time has %d instances, of which %d stand ready", s.Instances, s.Idle)
	}
}

func TestHTTPWasmGuestsThatMisbehave(t *testing.T) {
	hasty := loadHTTP(t, letters(t), func(s *Settings) { s.Time = 50 * time.Millisecond })
	patient := loadHTTP(t, letters(t), func(s *Settings) { s.Time = time.Minute })
	tests := []struct{ letter, kind, want string }{
		{"f", "trap", "unreachable"},
		{"g", "timeout", "did not end in time"},
		{"A", "timeout", "did not end in time"},
		{"h", "trap", "outside of its memory"},
		{"i", "trap", "4294967295 bytes at 0x400 are outside of its memory"},
		{"j", "trap", `a header "a b" to "1"`},
		{"k", "trap", `a header "x-a" to "a\r\nb: c"`},
		{"l", "trap", "the status to 999; want 200 to 599"},
		{"m", "trap", "the status to 0; want 200 to 599"},
		{"n", "trap", "a body of more than 67108864 bytes"},
		{"o", "trap", "changes a header more than 1024 times"},
		{"p", "trap", "a trailer, and the gateway has none"},
		{"q", "trap", "9 is no kind"},
		{"r", "trap", "a buffer of no bytes"},
		{"s", "trap", `the method to ""`},
		{"t", "trap", `the URI to "http://elsewhere/"; want a path`},
		{"u", "stack", "nested too deep"},
		{"x", "trap", "name is empty"},
	}
	for _, tt := range tests {
		t.Run(tt.letter, func(t *testing.T) {
			m := patient
			if tt.kind == "timeout" {
				m = hasty
			}
			var c Call
			var a Action
			err := m.OnRequest(t.Context(), &c, asked(tt.letter), &a)
			ce, ok := errors.AsType[*CallError](err)
			if !ok || ce.Kind != tt.kind || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s: …%s…", err, tt.kind, tt.want)
			}
			if strings.Contains(fmt.Sprint(err), "wazero") {
				t.Errorf("an operator does not know what wazero is: %v", err)
			}
			if m.Wants(OnEnd, &c) || a.Kind != Continue || len(a.Edits) > 0 {
				t.Errorf("something is left of it: %v %v", a.Kind, a.Edits)
			}
			// The next is as if nothing had happened.
			if err := m.OnRequest(t.Context(), &c, asked("y"), &a); err != nil || edited(a.Edits) != "0 x-count=2;" {
				t.Errorf("the next call: %v, %s", err, edited(a.Edits))
			}
			c.Release()
		})
	}
}

func TestHTTPWasmIsolation(t *testing.T) {
	for iso, want := range map[Isolation]string{Snapshot: "0 x-count=2;", Fresh: "0 x-count=2;", Shared: "0 x-count=6;"} {
		t.Run(string(iso), func(t *testing.T) {
			m := loadHTTP(t, letters(t), func(s *Settings) { s.Isolation = iso })
			var c Call
			var a Action
			for range 3 {
				if err := m.OnRequest(t.Context(), &c, asked("y"), &a); err != nil {
					t.Fatal(err)
				}
				c.Release()
			}
			if got := edited(a.Edits); got != want {
				t.Errorf("the third call: %s, want %s", got, want)
			}
		})
	}
}

// answer is an answer for guests.
func answer() *Response {
	h := new(infer.Header)
	h.AddString("Content-Type", "text/plain")
	h.AddString("X-Seen", "yes")
	return &Response{Status: 200, Header: h, Body: []byte("hello")}
}

func TestHTTPWasmAnswers(t *testing.T) {
	m := loadHTTP(t, letters(t), nil)
	var a Action

	var c Call
	if err := m.OnRequest(t.Context(), &c, asked("v"), &a); err != nil {
		t.Fatal(err)
	}
	if !m.Wants(OnResponse, &c) {
		t.Fatal("it wants the answer, and is not to be asked")
	}
	var other Call // a request that comes in between
	if err := m.OnRequest(t.Context(), &other, asked("a"), &a); err != nil {
		t.Fatal(err)
	}
	if m.Wants(OnResponse, &other) || !m.Wants(OnEnd, &other) {
		t.Error("it has not asked for the answer before it is sent, and is to be told after that")
	}
	if err := m.OnResponse(t.Context(), &c, answer(), &a); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%v %d %s %s", a.Kind, a.Status, edited(a.Edits), a.Body); got != "modify 201 0 x-ctx=7; <hello>" {
		t.Errorf("got %s", got)
	}
	if m.Wants(OnEnd, &c) {
		t.Error("it is to be told of the answer twice")
	}
	if err := m.OnEnd(t.Context(), &other, &Summary{Status: 200}); err != nil {
		t.Error(err)
	}
	if s := m.Stats(); s.Instances != 2 || s.Idle != 2 {
		t.Errorf("%d instances, of which %d stand ready; want 2", s.Instances, s.Idle)
	}
	for letter, want := range map[string]string{"w": "sets the answer's status, which has been sent", "C": "unreachable", "E": "has not enabled buffer_response"} {
		if err := m.OnRequest(t.Context(), &c, asked(letter), &a); err != nil {
			t.Fatal(err)
		}
		if err := m.OnEnd(t.Context(), &c, &Summary{Status: 200}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", letter, err, want)
		}
	}
	if s := m.Stats(); s.Idle != s.Instances {
		t.Errorf("%d of %d instances stand ready", s.Idle, s.Instances)
	}
}

func TestHTTPWasmWritesToTheLog(t *testing.T) {
	m := loadHTTP(t, letters(t), func(s *Settings) { s.Config = "cfg=1" })
	var out bytes.Buffer
	c := Call{Name: "m", ID: "r-1", Log: slog.New(slog.NewTextHandler(&out, nil))}
	var a Action
	if err := m.OnRequest(t.Context(), &c, asked("G"), &a); err != nil {
		t.Fatal(err)
	}
	c.Release()
	for _, want := range []string{"level=INFO msg=\"a module says\" module=m hook=OnRequest request=r-1 text=\"cfg=1\"", "level=WARN msg=\"a module says\" module=m hook=OnRequest request=r-1 text=192.0.2.7:4711", "level=ERROR msg=\"a module says\" module=m hook=OnRequest request=r-1 text=HTTP/1.1"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the log has no %s:\n%s", want, &out)
		}
	}

	out.Reset()
	r := asked("D")
	if err := m.OnRequest(t.Context(), &c, r, &a); err != nil {
		t.Fatal(err)
	}
	r.Header.Reset() // front ends use it again before the answer ends
	if err := m.OnEnd(t.Context(), &c, &Summary{Status: 503, Header: answer().Header, Failed: true}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"text=POST", "text=/v1/chat/completions/D", `text="me\x00"`, `text="yes\x00"`, "text=15"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the log has no %s:\n%s", want, &out)
		}
	}

	out.Reset()
	if err := m.OnRequest(t.Context(), &c, asked("H"), &a); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\n"); n != maxLines {
		t.Errorf("10,000 lines in one call made %d in the log, want %d", n, maxLines)
	}
	c.Release()
	c.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
}

// TestHTTPWasmExamples runs the ABI's own examples.
func TestHTTPWasmExamples(t *testing.T) {
	load := func(name, config string) *Module {
		t.Helper()
		b, err := os.ReadFile("httpwasm/testdata/examples/" + name + ".wasm")
		if err != nil {
			t.Fatal(err)
		}
		return loadHTTP(t, b, func(s *Settings) { s.Config = config })
	}
	var c Call
	var a Action
	on := func(m *Module, r *Request) string {
		t.Helper()
		c.Release()
		if err := m.OnRequest(t.Context(), &c, r, &a); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%v %d %s%s %s %s", a.Kind, a.Status, edited(a.Edits), edited(a.Answer), a.URI, a.Body)
	}
	want := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("got %s\nwant %s", got, want)
		}
	}
	m := load("auth", "")
	r := asked("")
	want(on(m, r), `reject 401   `)
	r.Header.Del("authorization")
	want(on(m, r), `reject 401 0 WWW-Authenticate=Basic realm="test";  `)
	r.Header.Set("Authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")
	want(on(m, r), `continue 0   `)
	c.Release()

	m = load("router", "")
	r.Path = "/other"
	want(on(m, r), `reject 200 0 Content-Type=text/plain;  hello world`)
	r.Path = "/host/v1/models"
	want(on(m, r), `modify 0  /v1/models `)
	c.Release()

	m = load("redact", "open sesame")
	r.Body = []byte("an open sesame, open sesame")
	want(on(m, r), `modify 0   an ###########, ###########`)
	resp := answer()
	resp.Body = []byte("it is open sesame")
	if err := m.OnResponse(t.Context(), &c, resp, &a); err != nil || string(a.Body) != "it is ###########" {
		t.Errorf("an answer with a secret: %s, %v", a.Body, err)
	}
	want(on(m, asked("")), `continue 0   `)
	c.Release()

	want(on(load("log", ""), r), `continue 0   `)
	c.Release()
	want(on(load("config", "\x01\x00\x00\x00\x00\x00\x00\x00"), r), `continue 0   `)
	c.Release()
	for _, name := range []string{"wasi", "tinygo-wasi"} {
		m = load(name, "")
		want(on(m, r), `continue 0   `)
		if got := string(c.Out.Text); !strings.HasPrefix(got, "POST /host/v1/models HTTP/1.1\n") || !strings.HasSuffix(got, "\n\nan open sesame, open sesame\n") {
			t.Errorf("%s prints of a request:\n%s", name, got)
		}
		if err := m.OnResponse(t.Context(), &c, answer(), &a); err != nil {
			t.Fatal(err)
		}
		want(string(c.Out.Text), "\nHTTP/1.1 200\ncontent-type: text/plain\nx-seen: yes\n\nhello\n")
	}
}

func TestHTTPWasmInstancesAreHeld(t *testing.T) {
	m := loadHTTP(t, letters(t), func(s *Settings) { s.Instances, s.Time = 1, 500*time.Millisecond })
	var a Action
	calls := make([]Call, heldFor)
	for i := range calls {
		if err := m.OnRequest(t.Context(), &calls[i], asked("a"), &a); err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
	}
	var c Call
	err := m.OnRequest(t.Context(), &c, asked("a"), &a)
	if ce, ok := errors.AsType[*CallError](err); !ok || ce.Kind != "busy" {
		t.Errorf("one request more: %v, want busy", err)
	}
	calls[3].Release()
	calls[3].Release() // once is enough
	if err := m.OnRequest(t.Context(), &c, asked("a"), &a); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
	c.Release()
	// A module that is removed ends with its last request.
	m.Close()
	for i := range calls {
		if m.Stats().Memory == 0 {
			t.Error("a module that was removed has no memory while it has requests")
		}
		if i == 7 {
			if err := m.OnEnd(t.Context(), &calls[i], &Summary{Status: 200}); err != nil {
				t.Error(err)
			}
		}
		calls[i].Release()
	}
	if m.Stats().Memory != 0 {
		t.Error("a module that was removed keeps memory although its last request is over")
	}
}

// least is the least that is an http-wasm module, with the code that runs when it
// starts.
func least(code string) []byte {
	body := "\x00" + code + "\x0b"
	return []byte(wasmHeader +
		"\x01\x0d\x03\x60\x00\x01\x7e\x60\x02\x7f\x7f\x00\x60\x00\x00" + // () -> i64, (i32, i32) -> (), () -> ()
		"\x03\x04\x03\x00\x01\x02" +
		"\x05\x03\x01\x00\x01" +
		"\x07\x36\x04\x06memory\x02\x00\x0ehandle_request\x00\x00\x0fhandle_response\x00\x01\x06_start\x00\x02" +
		"\x0a" + string(rune(1+5+3+1+len(body))) + "\x03\x04\x00\x42\x01\x0b\x02\x00\x0b" + string(rune(len(body))) + body)
}

// early is a module that asks for the status when it starts.
var early = []byte(wasmHeader +
	"\x01\x11\x04\x60\x00\x01\x7e\x60\x02\x7f\x7f\x00\x60\x00\x00\x60\x00\x01\x7f" + // as least has, and () -> i32
	"\x02\x20\x01\x0chttp_handler\x0fget_status_code\x00\x03" +
	"\x03\x04\x03\x00\x01\x02" +
	"\x05\x03\x01\x00\x01" +
	"\x07\x36\x04\x06memory\x02\x00\x0ehandle_request\x00\x01\x0fhandle_response\x00\x02\x06_start\x00\x03" +
	"\x0a\x0f\x03\x04\x00\x42\x01\x0b\x02\x00\x0b\x05\x00\x10\x00\x1a\x0b")

// TestHTTPWasmModulesThatCannotBe holds what registration says of them. The
// binaries are the tests' guest, or the least that is a module, with bytes
// changed.
func TestHTTPWasmModulesThatCannotBe(t *testing.T) {
	e, err := NewEngine("", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- e.Run(ctx) }()
	defer func() { cancel(); <-done }()
	guest := letters(t)
	swap := func(from, to string) []byte {
		if len(from) != len(to) || !bytes.Contains(guest, []byte(from)) {
			t.Fatalf("the guest has no %q to be made %q", from, to)
		}
		return bytes.Replace(guest, []byte(from), []byte(to), 1)
	}
	tests := []struct {
		name   string
		binary []byte
		want   string // "" for none
	}{
		{"the least that is a module", least(""), ""},
		{"an empty module", []byte(wasmHeader), "it is a core module; want a component"},
		{"no handle_response", swap("handle_response", "handle_responsE"), "it exports no handle_response"},
		{"no handle_request", swap("handle_request", "handle_requesT"), "it exports no handle_request"},
		{"no memory", swap("\x06memory", "\x06memorY"), "no memory called memory"},
		{"a function that there is not", swap("get_uri", "get_urI"), `it imports "get_urI" of http_handler, which the gateway does not have`},
		{"a host that there is not", swap("http_handler", "http_handleR"), `want http_handler or wasi_snapshot_preview1`},
		{"a function of another type", swap("get_status_code", "set_status_code"), "it imports set_status_code of http_handler as [] -> [i32]; want [i32] -> []"},
		{"cut off", guest[:len(guest)-9], "offset"},
		{"it traps when it starts", least("\x00"), "starting it: trap: unreachable"},
		{"it does not end when it starts", least("\x03\x40\x0c\x00\x0b"), "timeout: it did not start within 2s"},
		{"it asks about a request when it starts", early, "starting it: trap: there is no request yet; it wrote"},
		{"code of another type", least("\x42\x00\x28\x02\x00\x1a"), "compiling it: invalid function[2]"},
		{"a local that there is not", least("\x20\x09\x1a"), "local 9 of 0"},
	}
	if x := e.Inspect(ctx, guest, DefaultSettings()); x.Kind != "http-wasm module" || x.World != "http-wasm" || x.Refused != "" || len(x.Hooks) != 2 || len(x.Exports) != 0 || len(x.May) != 1 {
		t.Errorf("what is told of the guest: %+v", x)
	}
	set := DefaultSettings()
	set.Time = 50 * time.Millisecond
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := e.Load(ctx, tt.binary, set)
			if err == nil {
				m.Close()
			}
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) || strings.Contains(fmt.Sprint(err), "wazero") {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	if ms := *e.modules.Load(); len(ms) != 0 {
		t.Errorf("%d modules are still watched", len(ms))
	}
}

func TestHTTPWasmCallsAllocateNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	m := loadHTTP(t, letters(t), nil)
	var c Call
	var a Action
	resp := answer()
	for _, letter := range []string{"a", "c", "d", "v"} {
		r := asked(letter)
		call := func() {
			if err := m.OnRequest(t.Context(), &c, r, &a); err != nil {
				t.Fatal(err)
			}
			if m.Wants(OnResponse, &c) {
				if err := m.OnResponse(t.Context(), &c, resp, &a); err != nil {
					t.Fatal(err)
				}
			}
			c.Release()
		}
		for range 10 {
			call()
		}
		if n := testing.AllocsPerRun(100, call); n > 0 {
			t.Errorf("%s: %.0f allocations for a request, want none", letter, n)
		}
	}
}

func BenchmarkHTTPWasm(b *testing.B) {
	for _, tt := range []struct{ name, letter string }{{"nothing", "a"}, {"header", "c"}, {"body", "d"}, {"answer", "v"}} {
		b.Run(tt.name, func(b *testing.B) {
			m := loadHTTP(b, letters(b), nil)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				var c Call
				var a Action
				r, resp := asked(tt.letter), answer()
				ctx := b.Context()
				for pb.Next() {
					err := m.OnRequest(ctx, &c, r, &a)
					if err == nil && m.Wants(OnResponse, &c) {
						err = m.OnResponse(ctx, &c, resp, &a)
					}
					if err != nil {
						b.Error(err)
						return
					}
					c.Release()
				}
			})
		})
	}
	b.Run("TinyGo", func(b *testing.B) {
		m := loadHTTP(b, tck.GuestWASM, nil)
		var c Call
		var a Action
		r := request(2048)
		r.Header.AddString("x-httpwasm-tck-testid", "get_header_values/request/lowercase-key")
		r.Header.AddString("single-header", "value")
		r.Answer = new(infer.Header)
		resp := answer()
		b.ReportAllocs()
		for b.Loop() {
			if err := m.OnRequest(b.Context(), &c, r, &a); err != nil {
				b.Fatal(err)
			}
			if m.Wants(OnResponse, &c) {
				if err := m.OnResponse(b.Context(), &c, resp, &a); err != nil {
					b.Fatal(err)
				}
			}
			c.Release()
		}
	})
}
