package wasm

import (
	"context"
	"fmt"
	"strings"
	"time"

	"sluice/internal/wasm/component"
	"sluice/internal/wasm/core"
	"sluice/internal/wasm/httpwasm"
)

// An Inspection is what can be told of a module.
type Inspection struct {
	Kind    string `json:"kind"` // component, http-wasm module, core module, or unknown
	Size    int    `json:"size_bytes"`
	Sum     string `json:"sha256"`
	World   string `json:"world,omitempty"`
	Refused string `json:"refused,omitempty"` // why it cannot be registered; "" if it can

	Hooks   []InspectedFunc   `json:"hooks"`
	Exports []InspectedFunc   `json:"other_exports"`
	Imports []InspectedImport `json:"imports"`
	Cores   []InspectedCore   `json:"core_modules"`
	May     []string          `json:"may"` // what it may do, beside what its hooks answer

	// Of one that can be registered.
	Isolation Isolation     `json:"isolation,omitempty"`
	Because   string        `json:"isolation_reason,omitempty"` // why not snapshot
	Memory    int64         `json:"memory_bytes,omitempty"`     // of an instance that stands ready
	Took      time.Duration `json:"load_ns,omitempty"`          // to compile and to start
}

// An InspectedFunc is a function that comes out of a module.
type InspectedFunc struct {
	Interface string `json:"interface,omitempty"`
	Name      string `json:"name"`
	Type      string `json:"type,omitempty"`
}

// An InspectedImport is what a module wants of the host. Does is request, log,
// count, model, state, store, output, time or chance; nothing for a function that
// finds nothing, trap for one that ends the call.
type InspectedImport struct {
	InspectedFunc
	Does    string `json:"does,omitempty"`
	Refused string `json:"refused,omitempty"`
}

// An InspectedCore is a core module within a component, or the module itself.
type InspectedCore struct {
	Offset    int    `json:"offset"`
	Size      int    `json:"size_bytes"`
	Instances int    `json:"instances"`
	Functions int    `json:"functions"`
	Loops     int    `json:"loops"`
	Memory    bool   `json:"memory"` // it has one of its own
	Frozen    string `json:"not_reset_because,omitempty"`
	Refused   string `json:"refused,omitempty"`
}

// Inspect tells what it can of a module that may be anything. It is loaded as a
// registration would.
func (e *Engine) Inspect(ctx context.Context, binary []byte, set Settings) *Inspection {
	x := &Inspection{Kind: "unknown", Size: len(binary), Sum: Sum(binary)}
	x.Hooks, x.Exports, x.Imports, x.Cores, x.May = []InspectedFunc{}, []InspectedFunc{}, []InspectedImport{}, []InspectedCore{}, []string{} // for JSON
	switch {
	case component.Is(binary):
		x.Kind = "component"
		x.component(binary)
	case core.Is(binary):
		x.Kind = "core module"
		x.core(binary)
	}
	begin := time.Now()
	m, err := e.Load(ctx, binary, set)
	if err != nil {
		x.Refused = err.Error()
		return x
	}
	defer m.Close()
	x.Took = time.Since(begin)
	x.World, x.Memory = m.World(), m.Stats().Memory
	x.Isolation, x.Because = m.Isolation()
	return x
}

// component looks at how one is put together.
func (x *Inspection) component(binary []byte) {
	p, err := component.Link(binary)
	if err != nil {
		return // Refused will say it
	}
	for i := range p.Exports {
		e := &p.Exports[i]
		f := InspectedFunc{e.Interface, e.Name, e.Func.Type.String()}
		if s, ok := HookOf(e.Interface + "#" + e.Name); ok {
			x.Hooks, x.World = append(x.Hooks, f), s.Package
		} else {
			x.Exports = append(x.Exports, f)
		}
	}
	for _, f := range p.Imports {
		im := InspectedImport{InspectedFunc: InspectedFunc{f.Interface, f.Name, f.Type.String()}}
		if _, _, err := imported(f); err != nil {
			im.Refused = err.Error()
		} else {
			im.Does = does(f)
		}
		x.Imports = append(x.Imports, im)
	}
	instances := make([]int, len(p.Modules))
	for _, in := range p.Instances {
		instances[in.Module]++
	}
	for i, m := range p.Modules {
		x.Cores = append(x.Cores, inspectCore(m, instances[i]))
	}
	x.may()
}

// core looks at a core module that is by itself.
func (x *Inspection) core(binary []byte) {
	m, err := core.Decode(binary, 0)
	if err != nil {
		return
	}
	http := httpwasm.Is(m)
	if http {
		x.Kind = "http-wasm module"
	}
	for _, e := range m.Exports {
		switch {
		case e.Kind != core.Func:
		case http && (e.Name == httpwasm.HandleRequest || e.Name == httpwasm.HandleResponse):
			x.Hooks = append(x.Hooks, InspectedFunc{Name: e.Name})
		default:
			x.Exports = append(x.Exports, InspectedFunc{Name: e.Name})
		}
	}
	for i := range m.Imports {
		im := &m.Imports[i]
		f := InspectedImport{InspectedFunc: InspectedFunc{Interface: im.Module, Name: im.Name, Type: im.Kind.String()}}
		if http {
			f.Does = httpwasm.Does(im)
			if _, err := httpwasm.Import(im); err != nil {
				f.Refused = err.Error()
			}
		}
		x.Imports = append(x.Imports, f)
	}
	x.Cores = append(x.Cores, inspectCore(m, 1))
	x.may()
}

func inspectCore(m *core.Module, instances int) InspectedCore {
	c := InspectedCore{Offset: m.Offset, Size: len(m.Binary), Instances: instances}
	out, err := core.Rewrite(m, core.Options{Stack: DefaultLimits().Stack})
	if err != nil {
		c.Refused = err.Error()
		return c
	}
	c.Functions, c.Loops, c.Memory, c.Frozen = out.Funcs, out.Loops, out.Memory, out.Frozen
	return c
}

// does says in a word what a function of the host's is about.
func does(f *component.Func) string {
	iface, _, _ := strings.Cut(f.Interface, "@")
	if iface == ownPackage+"/host" {
		switch f.Name {
		case "log", "count", "model":
			return f.Name
		case "state", "set-state":
			return "state"
		}
		return "store"
	}
	if _, ok := wasi[iface+"#"+f.Name]; !ok || iface == "wasi:cli/exit" {
		return "trap"
	}
	switch {
	case strings.HasPrefix(iface, "wasi:clocks/"):
		return "time"
	case strings.HasPrefix(iface, "wasi:random/"):
		return "chance"
	case strings.Contains(f.Name, "output-stream."), strings.HasPrefix(iface, "wasi:cli/stdout"), strings.HasPrefix(iface, "wasi:cli/stderr"):
		return "output"
	}
	return "nothing"
}

// may says in sentences what the imports come to.
func (x *Inspection) may() {
	sentences := []struct{ does, text string }{
		{"model", "ask which model a request is for"},
		{"log", fmt.Sprintf("write lines to the gateway's log, of at most %d bytes", mostOutput)},
		{"output", fmt.Sprintf("print to the gateway's log, at most %d bytes a call", mostOutput)},
		{"count", fmt.Sprintf("count into at most %d metrics", maxCounters)},
		{"state", fmt.Sprintf("remember %d bytes of a request until it ends", MaxState)},
		{"store", fmt.Sprintf("share %d numbers between requests", maxKeys)},
		{"time", "see the time"},
		{"chance", "have random numbers"},
	}
	for _, s := range sentences {
		for _, im := range x.Imports {
			if im.Does == s.does {
				x.May = append(x.May, s.text)
				break
			}
		}
	}
}
