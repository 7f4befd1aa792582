package wasm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tetratelabs/wazero/api"

	"sluice/internal/infer"
)

func component_(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("component/testdata/" + name + ".component.wasm")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// request is what the benchmarks call guests with: 12 headers and n bytes.
func request(n int) *Request {
	h := new(infer.Header)
	for _, f := range [][2]string{
		{"host", "gateway.example.com:8080"}, {"user-agent", "openai-python/1.40.0"}, {"accept", "application/json"},
		{"content-type", "application/json"}, {"content-length", "2048"}, {"authorization", "Bearer secret-api-key-12345"},
		{"x-request-id", "req-0123456789abcdef"}, {"x-forwarded-for", "10.1.2.3, 10.4.5.6"}, {"x-real-ip", "10.1.2.3"},
		{"accept-encoding", "gzip, deflate, br"}, {"connection", "keep-alive"}, {"traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
	} {
		h.AddString(f[0], f[1])
	}
	return &Request{Method: "POST", Path: "/v1/chat/completions", Header: h, Body: bytes.Repeat([]byte("x"), n), ID: "req-0123456789abcdef", NowMillis: 1700000000000}
}

// A counted function counts its calls.
type counted struct {
	api.Function
	calls *int
}

func (c counted) CallWithStack(ctx context.Context, st []uint64) error {
	*c.calls++
	return c.Function.CallWithStack(ctx, st)
}

// TestWhatStaysIsFreed holds that a guest is told that its answer has been read if
// what it leaves is there in its next call, and that it costs nothing otherwise.
func TestWhatStaysIsFreed(t *testing.T) {
	for is, want := range map[Isolation]int{Shared: 3, Snapshot: 0, Fresh: 0} {
		set := DefaultSettings()
		set.Isolation = is
		m := load(t, "rust-auth-smg", set)
		told := 0
		for range 3 {
			in, err := m.get(t.Context(), new(Call))
			if err != nil {
				t.Fatal(err)
			}
			h := &in.exports[OnRequest]
			if _, is := h.post.(counted); !is {
				h.post = counted{h.post, &told}
			}
			m.put(in)
			m.left()
			if err := m.OnRequest(t.Context(), new(Call), request(10), new(Action)); err != nil {
				t.Fatal(err)
			}
		}
		if told != want {
			t.Errorf("%s: the guest is told %d times, want %d", is, told, want)
		}
	}
}

func load(t testing.TB, name string, set Settings) *Module {
	t.Helper()
	return loadFile(t, "component/testdata/"+name+".component.wasm", set)
}

// name is a guest's, by its file.
func name(file string) string {
	n, _, _ := strings.Cut(filepath.Base(file), ".")
	return n
}

// loadFile loads a guest, with an Engine of its own.
func loadFile(t testing.TB, file string, set Settings) *Module {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	e, err := NewEngine("", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- e.Run(ctx) }()
	m, err := e.Load(ctx, b, set)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Close()
		cancel()
		<-done
		if n := m.count.Load(); n < 0 {
			t.Errorf("%d instances", n)
		}
	})
	return m
}

func TestNoCallSeesAnother(t *testing.T) {
	for _, name := range []string{"c-count-smg", "clibc-count-smg"} {
		for iso, want := range map[Isolation]int{Snapshot: 1, Fresh: 1, Shared: 3} {
			t.Run(name+"/"+string(iso), func(t *testing.T) {
				set := DefaultSettings()
				set.Isolation = iso
				m := load(t, name, set)
				var a Action
				for range 3 {
					if err := m.OnRequest(t.Context(), new(Call), request(100), &a); err != nil {
						t.Fatal(err)
					}
				}
				if a.Status != want {
					t.Errorf("the third call counts %d, want %d", a.Status, want)
				}
			})
		}
	}
}

func TestWhoMisbehavesIsStopped(t *testing.T) {
	for _, name := range []string{"c-spin-smg", "clibc-spin-smg"} {
		set := DefaultSettings()
		set.Time = 500 * time.Millisecond // what else they do takes less, also on a busy machine
		m := load(t, name, set)
		for range 3 {
			for _, tt := range []struct{ query, kind string }{{"spin", "timeout"}, {"trap", "trap"}, {"recu", "stack"}, {"grow", ""}, {"", ""}} {
				r := request(100)
				r.Query = tt.query
				var a Action
				begin := time.Now()
				err := m.OnRequest(t.Context(), new(Call), r, &a)
				took := time.Since(begin)
				var c *CallError
				if tt.kind == "" && err != nil || tt.kind != "" && (!errors.As(err, &c) || c.Kind != tt.kind) {
					t.Errorf("%s, %q: %v, want %q", name, tt.query, err, tt.kind)
				}
				t.Logf("%s %q: %v after %s, %v", name, tt.query, err, took, a.Status)
			}
		}
		if s := m.Stats(); s.Instances != 1 || s.Idle != 1 || s.Made != 1 {
			t.Errorf("%s: %+v, want one instance that was made once", name, s)
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	set := DefaultSettings()
	set.Instances = 4
	m := load(t, "c-auth-smg", set)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			r := request(2048)
			var a Action
			for range 500 {
				if err := m.OnRequest(t.Context(), new(Call), r, &a); err != nil || a.Kind != Continue {
					t.Error(a.Kind, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if s := m.Stats(); s.Instances > 4 || s.Idle != s.Instances {
		t.Errorf("%+v, want at most four, all idle", s)
	}
}

func pooled(t testing.TB, name string) *instance {
	t.Helper()
	ctx := context.Background()
	c, err := compile(ctx, component_(t, name), DefaultLimits(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.close(ctx) })
	in, err := c.newInstance(&allocator{limit: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	s, err := in.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	if err := in.adopt(s); err != nil {
		t.Fatal(err)
	}
	return in
}

var names = []string{"c-auth-smg", "c-auth-sgl", "clibc-auth-smg", "rust-auth-smg", "rust-auth-sgl", "bindgen-auth-smg", "bindgen-auth-sgl"}

func TestGuestsLetIn(t *testing.T) {
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			in := pooled(t, name)
			var a Action
			for i := range 3 {
				if err := in.onRequest(request(2048), &a); err != nil || a.Kind != Continue {
					t.Fatalf("call %d: %v, %v", i, a.Kind, err)
				}
				if err := in.reset(); err != nil {
					t.Fatal(err)
				}
				r := request(10)
				r.Header.Del("authorization")
				if err := in.onRequest(r, &a); err != nil || a.Kind != Reject || a.Status != 401 {
					t.Fatalf("call %d without a key: %v %d, %v", i, a.Kind, a.Status, err)
				}
				if err := in.reset(); err != nil {
					t.Fatal(err)
				}
			}
			r := request(64 << 10)
			r.Query = "log"
			if err := in.onRequest(r, &a); err != nil {
				t.Fatal(err)
			}
			t.Log(a.Kind, a.Add, strings.TrimSpace(string(in.out.Text)))
		})
	}
}

func BenchmarkCall(b *testing.B) {
	for _, name := range names {
		b.Run(fmt.Sprint(name), func(b *testing.B) {
			in := pooled(b, name)
			r := request(2048)
			var a Action
			b.ReportAllocs()
			for b.Loop() {
				if err := in.onRequest(r, &a); err != nil {
					b.Fatal(err)
				}
				if err := in.reset(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestWhoLooksDisturbsNobody: metrics are read while instances are made.
func TestWhoLooksDisturbsNobody(t *testing.T) {
	set := DefaultSettings()
	set.Isolation = Fresh
	m := load(t, "c-auth-smg", set)
	stop, looks := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { looks <- n }()
		for {
			select {
			case <-stop:
				return
			default:
				if s := m.Stats(); s.Memory < 0 {
					t.Errorf("%+v", s)
				}
				n++
			}
		}
	}()
	req, act := request(100), new(Action)
	for range 200 {
		if err := m.OnRequest(t.Context(), new(Call), req, act); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	if n := <-looks; n == 0 {
		t.Error("nobody looked")
	}
}
