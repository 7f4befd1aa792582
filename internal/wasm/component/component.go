// Package component reads WebAssembly components (Component Model, Binary.md)
// and works out how they are put together: which core modules are instantiated
// in which order, what each of their imports is, and which functions come out.
// Nothing is run, and nothing is known of what a component is for.
//
// It reads what the tools of Rust, Go, C and JavaScript write: core modules,
// nested components, aliases, instances, types, resources, and synchronous
// functions with UTF-8 strings. All else is an error that names it and says
// where it stands.
package component

import (
	"bytes"
	"errors"

	"sluice/internal/wasm/core"
)

// A Plan is how a component is put together. It is not written to once it is
// made, and any number of instances can be made by it.
type Plan struct {
	Modules   []*core.Module // distinct ones, in the order of the file
	Instances []Instance     // in the order in which they are instantiated
	Imports   []*Func        // functions that are wanted of the host, each once
	Exports   []Export
	Resources []*Resource // that the component defines
}

// An Instance is a core module together with what it is linked to.
type Instance struct {
	Module  int    // in Modules
	Imports []Item // as the module's Imports
}

// Called returns, for each of Instances, the exports that other instances or the
// host's Builtins call: what is not among them is called by who has the Plan
// only, and never while another call runs.
func (p *Plan) Called() []map[string]bool {
	called := make([]map[string]bool, len(p.Instances))
	for i := range called {
		called[i] = make(map[string]bool)
	}
	note := func(items ...*Item) {
		for _, it := range items {
			if it != nil && it.Builtin == nil {
				called[it.Instance][it.Name] = true
			}
		}
	}
	seen := make(map[*Builtin]bool)
	for i := range p.Instances {
		for k := range p.Instances[i].Imports {
			it := &p.Instances[i].Imports[k]
			note(it)
			b := it.Builtin
			if b == nil || seen[b] {
				continue
			}
			seen[b] = true
			note(b.Options.Realloc)
			if b.Func != nil {
				note(b.Func.Core, b.Func.Options.Realloc, b.Func.Options.PostReturn)
			}
			if b.Resource != nil {
				note(b.Resource.Dtor)
			}
		}
	}
	return called
}

// An Item is what a core import is: the export of a core instance, or a function
// that the host makes.
type Item struct {
	Kind core.Kind

	// Of an export.
	Instance int // in Instances
	Name     string

	Builtin *Builtin // nil for an export
}

// A Builtin is a core function that the host makes.
type Builtin struct {
	Op       Op
	Func     *Func          // that Lower calls
	Options  Options        // of Lower
	Resource *Resource      // of the others
	Type     *core.FuncType // as the import that it was first wanted for has it
}

// An Op is what a Builtin does.
type Op byte

// What a Builtin may do (Component Model, CanonicalABI.md).
const (
	Lower        Op = iota // calls a component function
	ResourceNew            // makes a handle
	ResourceDrop           // drops a handle
	ResourceRep            // tells what a handle stands for
)

// A Func is a component function: one that is wanted of the host, or one that a
// core function was lifted to.
type Func struct {
	Interface string // that it is imported from, as the component names it; "" if it is not imported or stands alone
	Name      string
	Type      *FuncType

	// Of a lifted one.
	Core    *Item // nil if it is imported
	Options Options
}

// Options say where a function's values are.
type Options struct {
	Memory     *Item // nil for none
	Realloc    *Item
	PostReturn *Item
}

// An Export is a function that comes out of the component, perhaps within an
// instance.
type Export struct {
	Interface string // "" if it stands alone
	Name      string
	Func      *Func
}

// Header is what a component begins with.
var Header = []byte("\x00asm\x0d\x00\x01\x00")

// ErrNotComponent says that a binary does not begin as a component does.
var ErrNotComponent = errors.New("not a WebAssembly component")

// Bounds of components. A component that is nested in another is walked once for
// each time that it is instantiated, and an instance that is exported under many
// names is many, so that a small binary could write down a huge Plan: what may be
// made depends on the binary's size.
const (
	maxSpace     = 1 << 16 // entries of one index space
	maxInstances = 1 << 8  // core instances in all
	maxModules   = 1 << 6  // distinct core modules
	maxNesting   = 16      // components within components
	leastWork    = 1 << 14 // definitions and parts of them, of any component
	mostWork     = 1 << 18 // the same, of the largest
	leastWalked  = 1 << 16 // bytes of nested components, and of instantiated core modules
	mostTimes    = 4       // so often a whole component may be walked and instantiated
)

// Is reports whether b begins as a component does.
func Is(b []byte) bool { return bytes.HasPrefix(b, Header) }

// Link reads the component b. Plan shares b's memory.
func Link(b []byte) (*Plan, error) {
	if !Is(b) {
		return nil, ErrNotComponent
	}
	l := &linker{
		plan: new(Plan), modules: make(map[int]int), imports: make(map[[2]string]*Func), wanted: make(map[*Func]bool),
		work:   min(leastWork+len(b)/4, mostWork),
		walked: leastWalked + mostTimes*len(b),
		code:   leastWalked + mostTimes*len(b),
	}
	s := &scope{l: l, kind: ofComponent, imports: nil}
	r := core.NewReader(b[len(Header):], len(Header))
	s.component(r)
	if r.Err() == nil {
		l.export(r, s.exports, "")
	}
	if err := r.Err(); err != nil {
		return nil, err
	}
	return l.plan, nil
}
