package component

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"sluice/internal/wasm/core"
)

// guest returns one of the components in testdata.
func guest(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".component.wasm"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var guests = []string{"c-auth-smg", "c-auth-sgl", "clibc-auth-smg", "rust-auth-smg", "rust-auth-sgl", "bindgen-auth-smg", "bindgen-auth-sgl"}

// TestGuestsAreUnderstood holds what the tools of C and Rust write.
func TestGuestsAreUnderstood(t *testing.T) {
	for _, tt := range []struct {
		name, pkg          string
		modules, instances int
		imports            int
	}{
		{"c-auth-smg", "smg:gateway", 1, 1, 0},
		{"c-auth-sgl", "sgl:model-gateway", 1, 1, 0},
		{"clibc-auth-smg", "smg:gateway", 2, 2, 0},
		{"rust-auth-smg", "smg:gateway", 4, 4, 15},
		{"rust-auth-sgl", "sgl:model-gateway", 4, 4, 15},
		{"bindgen-auth-smg", "smg:gateway", 4, 4, 16},
		{"bindgen-auth-sgl", "sgl:model-gateway", 4, 4, 16},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Link(guest(t, tt.name))
			if err != nil {
				t.Fatal(err)
			}
			if len(p.Modules) != tt.modules || len(p.Instances) != tt.instances || len(p.Imports) != tt.imports {
				t.Errorf("%d modules, %d instances, %d imports; want %d, %d, %d",
					len(p.Modules), len(p.Instances), len(p.Imports), tt.modules, tt.instances, tt.imports)
			}
			for i, want := range []string{"on-request", "on-response"} {
				e := p.Exports[i]
				if e.Interface != tt.pkg+"/middleware-"+want || e.Name != want || e.Func.Core == nil {
					t.Errorf("export %d is %s of %s, want %s", i, e.Name, e.Interface, want)
				}
			}
			if got := p.Exports[0].Func.Type.Core(false); len(got.Params) != 13 || len(got.Results) != 1 {
				t.Errorf("on-request is a core function of %d parameters, want 13", len(got.Params))
			}
			if res := p.Exports[0].Func.Type.Result; res.Size() != 44 || res.Align() != 4 {
				t.Errorf("an action has %d bytes, aligned to %d; want 44 and 4", res.Size(), res.Align())
			}
		})
	}
}

// TestWhatIsNoComponent holds that other files are told apart.
func TestWhatIsNoComponent(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing": nil, "text": []byte("hello, world"), "a core module": core.Header, "half a header": Header[:5],
	} {
		if _, err := Link(b); !errors.Is(err, ErrNotComponent) {
			t.Errorf("%s: %v, want %v", name, err, ErrNotComponent)
		}
	}
}

// TestEveryTruncationIsAnError cuts components anywhere but between sections.
func TestEveryTruncationIsAnError(t *testing.T) {
	whole := guest(t, "rust-auth-smg")
	ends := make(map[int]bool) // of sections
	r := core.NewReader(whole[len(Header):], len(Header))
	ends[r.Offset()] = true
	for r.More() {
		r.Byte()
		r.Part()
		ends[r.Offset()] = true
	}
	for n := len(Header); n < len(whole); n += 1 + n/997 {
		_, err := Link(whole[:n])
		if err == nil && !ends[n] {
			t.Errorf("the first %d of %d bytes are accepted", n, len(whole))
		}
	}
}

// TestFaultsAreNamed builds binaries that are wrong in one way, and holds that
// the error says which and where.
func TestFaultsAreNamed(t *testing.T) {
	section := func(id byte, body ...byte) []byte { return append([]byte{id, byte(len(body))}, body...) }
	for _, tt := range []struct {
		name string
		body []byte
		want string
	}{
		{"a section that does not exist", section(13, 0), "unknown section 13 at offset 0xa"},
		{"a section that ends too late", section(7, 1, 0x7f, 0), "section 7 is longer"},
		{"a list longer than the file", section(7, 0xff, 0xff, 0xff, 0xff, 0x0f), "a list of 4294967295 elements"},
		{"an async function", section(7, 1, 0x43, 0, 1, 0), "asynchronous functions are not supported"},
		{"a stream", section(7, 1, 0x66, 0), "streams and futures are not supported"},
		{"a type that is not there yet", section(7, 1, 0x70, 0), "type 0 of 0"},
		{"a record of nothing", section(7, 1, 0x72, 0), "a record of nothing"},
		{"a start function", section(9, 0, 0, 0), "start functions are not supported"},
		{"a module that is none", section(1, 1, 2, 3), "not a core WebAssembly module"},
		{"an instance of a module that is not there", section(2, 1, 0, 0, 0), "core module 0 of 0"},
		{"an alias of nothing", section(6, 1, 3, 2, 9, 0), "outside of everything"},
		{"two exports of one name", append(section(7, 1, 0x7f), section(11, 2, 0, 1, 'a', 3, 0, 0, 0, 1, 'a', 3, 0, 0)...), `two exports named "a"`},
		{"a lift of nothing", section(8, 1, 0, 0, 0, 0, 0), "core function 0 of 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Link(append(bytes.Clone(Header), tt.body...))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

// TestAHugeTypeIsRefused writes a type that doubles with each line.
func TestAHugeTypeIsRefused(t *testing.T) {
	types := []byte{30, 0x6f, 1, 0x7f} // a tuple of one bool
	for i := byte(0); i < 29; i++ {
		types = append(types, 0x6f, 2, i, i)
	}
	b := append(bytes.Clone(Header), 7, byte(len(types)))
	if _, err := Link(append(b, types...)); err == nil || !strings.Contains(err.Error(), "a type of more than") {
		t.Errorf("%v, want that it is too much", err)
	}
}

// FuzzLink holds that no binary makes the linker panic, work for long, or make
// more memory than is right for its size, and that what it lets through can be
// told and rewritten.
func FuzzLink(f *testing.F) {
	for _, g := range guests {
		if b := guest(f, g); len(b) < 16<<10 {
			f.Add(b)
		}
		f.Add(outline(f, guest(f, g)))
	}
	f.Add(append(bytes.Clone(Header), 7, 3, 1, 0x40, 0))
	for _, b := range bombs {
		f.Add(component(b.sections...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		p, err := Link(b)
		runtime.ReadMemStats(&after)
		if got, most := after.TotalAlloc-before.TotalAlloc, uint64(mostMemory(len(b))); got > most {
			t.Errorf("%d bytes make %d bytes of memory, at most %d are right", len(b), got, most)
		}
		if err != nil {
			var e *core.Error
			if !errors.Is(err, ErrNotComponent) && !errors.Is(err, core.ErrNotModule) && (!errors.As(err, &e) || e.Offset < 0 || e.Offset > len(b)) {
				t.Errorf("an error without a place: %v", err)
			}
			return
		}
		for _, e := range p.Exports {
			_ = e.Func.Type.String()
			if e.Func.Type.Core(false) == nil {
				t.Error("a function without a core type")
			}
		}
		for _, in := range p.Instances {
			if len(in.Imports) != len(p.Modules[in.Module].Imports) {
				t.Error("an instance with imports that its module has not")
			}
			for _, it := range in.Imports {
				if it.Builtin == nil && it.Instance >= len(p.Instances) {
					t.Error("an import of an instance that is not there")
				}
			}
		}
	})
}

// mostMemory is how many bytes of memory reading a component of n bytes may take
// in all.
func mostMemory(n int) int { return 256*n + 16<<20 }

func BenchmarkLink(b *testing.B) {
	for _, g := range guests {
		wasm := guest(b, g)
		b.Run(g, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Link(wasm); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
