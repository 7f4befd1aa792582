package component

import (
	"strings"
	"testing"

	"sluice/internal/wasm/core"
)

// named is the name of an import or export.
func named(s string) []byte { return concat([]byte{0}, text(s)) }

// Parts of the components below.
var (
	// reallocs is the type (func (param u32 u32 u32 u32) (result u32)), which
	// lowers to that of an allocator.
	reallocs = section(7, []byte{1, 0x40, 4, 1, 'a', 0x79, 1, 'b', 0x79, 1, 'c', 0x79, 1, 'd', 0x79, 0, 0x79})
	// hosted is a function of that type that the host has, as core function 0.
	hosted = concat(reallocs, section(10, []byte{1}, named("f"), []byte{1, 0}), section(8, []byte{1, 1, 0, 0, 0}))
	// guested is a core module with a memory and functions of the types
	// (i32 i32) -> (), (i32) -> () and (i32 i32 i32 i32) -> i32, of which there
	// is an instance, with its exports as memory 0 and the next core functions.
	guested = concat(
		section(1, module(
			section(1, []byte{3, 0x60, 2, 0x7f, 0x7f, 0, 0x60, 1, 0x7f, 0, 0x60, 4, 0x7f, 0x7f, 0x7f, 0x7f, 1, 0x7f}),
			section(3, []byte{3, 0, 1, 2}), section(5, []byte{1, 0, 1}),
			section(7, []byte{4}, text("m"), []byte{2, 0}, text("two"), []byte{0, 0}, text("one"), []byte{0, 1}, text("realloc"), []byte{0, 2}),
			section(10, []byte{3, 2, 0, 0x0b, 2, 0, 0x0b, 4, 0, 0x41, 0, 0x0b}))),
		section(2, []byte{1, 0, 0, 0}),
		section(6, []byte{4, 0, 2, 1, 0}, text("m"), []byte{0, 0, 1, 0}, text("two"), []byte{0, 0, 1, 0}, text("one"), []byte{0, 0, 1, 0}, text("realloc")),
	)
	// strings is the type (func (param string)).
	textual = section(7, []byte{1, 0x40, 1, 1, 's', 0x73, 1, 0})
)

// TestWhatAGuestMayNotDoIsNamed builds components that are well-formed and ask for
// what is not right, or not supported.
func TestWhatAGuestMayNotDoIsNamed(t *testing.T) {
	for _, tt := range []struct {
		name string
		b    []byte
		want string // "" for a good one
	}{
		{"a function that is given a text", component(guested, textual, section(8, []byte{1, 0, 0, 0, 2, 3, 0, 4, 2, 0})), ""},
		{"the host's function as the allocator", component(hosted, guested, textual, section(8, []byte{1, 0, 0, 1, 2, 3, 0, 4, 0, 1})), "a function of the host as realloc is not supported"},
		{"the host's function as a component's", component(hosted, section(8, []byte{1, 0, 0, 0, 0, 0})), "a function of the host as lifted is not supported"},
		{"the host's function as a post-return", component(hosted, guested, textual, section(8, []byte{1, 0, 0, 1, 3, 3, 0, 4, 3, 5, 0, 1})), "a function of the host as post-return is not supported"},
		{"a post-return of another type", component(guested, textual, section(8, []byte{1, 0, 0, 0, 3, 3, 0, 4, 2, 5, 1, 0})), "post-return does not take what the core function returns"},
		{"an allocator of another type", component(guested, textual, section(8, []byte{1, 0, 0, 0, 2, 3, 0, 4, 1, 0})), "realloc has another type"},
		{"a text without an allocator", component(guested, textual, section(8, []byte{1, 0, 0, 0, 1, 3, 0, 0})), "has no realloc"},
		{"a text without a memory", component(guested, textual, section(8, []byte{1, 0, 0, 0, 1, 4, 2, 0})), "whose values pass through memory has none"},
		{"another encoding", component(guested, textual, section(8, []byte{1, 0, 0, 0, 3, 3, 0, 4, 2, 1, 0})), "another encoding than UTF-8"},
		{"an option twice", component(guested, textual, section(8, []byte{1, 0, 0, 0, 3, 3, 0, 3, 0, 4, 2, 0})), "canonical option 0x3 stands twice"},
		{"an asynchronous function", component(guested, textual, section(8, []byte{1, 0, 0, 0, 3, 3, 0, 4, 2, 6, 0})), "asynchronous functions are not supported"},
		{"a function of another type", component(guested, textual, section(8, []byte{1, 0, 0, 1, 2, 3, 0, 4, 2, 0})), "the core function has another type"},
		{"a text that is returned, lowered without an allocator", component(guested, section(7, []byte{1, 0x40, 0, 0, 0x73}), section(10, []byte{1}, named("f"), []byte{1, 0}), section(8, []byte{1, 1, 0, 0, 1, 3, 0})), "has no realloc"},

		{"a handle of the host's resource", component(section(10, []byte{1}, named("r"), []byte{3, 1}), section(8, []byte{1, 2, 0})), "a handle of a resource that the component does not define"},
		{"what stands behind the host's handle", component(section(10, []byte{1}, named("r"), []byte{3, 1}), section(8, []byte{1, 4, 0})), "a handle of a resource that the component does not define"},
		{"dropping a handle of the host's resource", component(section(10, []byte{1}, named("r"), []byte{3, 1}), section(8, []byte{1, 3, 0})), ""},
		{"a resource of its own", component(section(7, []byte{1, 0x3f, 0x7f, 0}), section(8, []byte{1, 2, 0})), ""},
		{"a resource with a destructor", component(guested, section(7, []byte{1, 0x3f, 0x7f, 1, 1}), section(8, []byte{1, 3, 0})), ""},
		{"a destructor of another type", component(guested, section(7, []byte{1, 0x3f, 0x7f, 1, 0})), "a destructor has another type"},

		{"a component that instantiates itself", component(section(4, component(section(6, []byte{1, 4, 2, 1, 0}), section(5, []byte{1, 0, 0, 0}))), section(5, []byte{1, 0, 0, 0})), "an outer alias of component 0 of 0"},
		{"a type that comes after the component", component(section(4, component(section(6, []byte{1, 3, 2, 1, 0}))), section(7, []byte{1, 0x7f}), section(5, []byte{1, 0, 0, 0})), "an outer alias of type 0 of 0"},
		{"a type that comes before it", component(section(7, []byte{1, 0x7f}), section(4, component(section(6, []byte{1, 3, 2, 1, 0}))), section(5, []byte{1, 0, 0, 0})), ""},
		{"a core import of nothing", component(section(1, module(section(1, []byte{1, 0x60, 0, 0}), section(2, []byte{1}, text("m"), text("f"), []byte{0, 0}))), section(2, []byte{1, 0, 0, 0})), `core import "f" of "m" has no argument`},
		{"an argument twice", component(guested, section(2, []byte{1, 0, 0, 2}, text("a"), []byte{0x12, 0}, text("a"), []byte{0x12, 0})), `two arguments named "a"`},
		{"a core export twice", component(guested, section(2, []byte{1, 1, 2}, text("a"), []byte{0, 0}, text("a"), []byte{0, 0})), `two exports named "a"`},
		{"an alias of what is not exported", component(guested, section(6, []byte{1, 0, 0, 1, 0}, text("three"))), `the core instance exports no "three"`},
		{"an alias of a memory as a function", component(guested, section(6, []byte{1, 0, 0, 1, 0}, text("m"))), `"m" is a memory, not a core function`},
		{"a nested component that is not given what it imports", component(section(4, component(reallocs, section(10, []byte{1}, named("f"), []byte{1, 0}))), section(5, []byte{1, 0, 0, 0})), `the import "f" of a nested component is not given`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Link(tt.b)
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("%v, want %q", err, tt.want)
			case tt.want == "" && p == nil:
				t.Error("no plan")
			}
		})
	}
}

// TestCalled holds that the functions that another instance imports are those
// that may be called back, and what only hooks call is not.
func TestCalled(t *testing.T) {
	p, err := Link(guest(t, "rust-auth-smg"))
	if err != nil {
		t.Fatal(err)
	}
	called := p.Called()
	main := -1
	for i, in := range p.Instances {
		for _, e := range p.Modules[in.Module].Exports {
			if e.Kind == core.Func && strings.HasSuffix(e.Name, "middleware-on-request#on-request") {
				main = i
			}
		}
	}
	if main < 0 {
		t.Fatal("no instance exports the hook")
	}
	if !called[main]["cabi_realloc"] {
		t.Errorf("%v may be called back, and cabi_realloc not", called[main])
	}
	for name := range called[main] {
		if strings.Contains(name, "#on-request") {
			t.Errorf("%s may be called back", name)
		}
	}
}
