package wasm

import (
	"fmt"
	"strings"

	"sluice/internal/wasm/component"
)

// A Hook is a place at which a guest is called.
type Hook uint8

// The hooks of the contract's world.
const (
	OnRequest Hook = iota
	OnResponse
	numHooks
)

// String is the hook as the contract calls it.
func (h Hook) String() string { return [...]string{"OnRequest", "OnResponse"}[h] }

// packages are those whose worlds are known. They differ in name only.
var packages = []string{"smg:gateway", "sgl:model-gateway"}

// A signature is what a hook must be.
type signature struct {
	iface, name string
	typ         *component.FuncType
}

// The types of the contract's world, as `middleware-types` has them.
var (
	tString = component.NewType(component.Type{Kind: component.String})
	tU16    = component.NewType(component.Type{Kind: component.U16})
	tU64    = component.NewType(component.Type{Kind: component.U64})
	tBytes  = component.NewType(component.Type{Kind: component.List, Elem: component.NewType(component.Type{Kind: component.U8})})
	tHeader = component.NewType(component.Type{Kind: component.Record, Fields: []component.Field{
		{Name: "name", Type: tString}, {Name: "value", Type: tString},
	}})
	tHeaders = component.NewType(component.Type{Kind: component.List, Elem: tHeader})
	tRequest = component.NewType(component.Type{Kind: component.Record, Fields: []component.Field{
		{Name: "method", Type: tString}, {Name: "path", Type: tString}, {Name: "query", Type: tString},
		{Name: "headers", Type: tHeaders}, {Name: "body", Type: tBytes}, {Name: "request-id", Type: tString}, {Name: "now-epoch-ms", Type: tU64},
	}})
	tResponse = component.NewType(component.Type{Kind: component.Record, Fields: []component.Field{
		{Name: "status", Type: tU16}, {Name: "headers", Type: tHeaders}, {Name: "body", Type: tBytes},
	}})
	tModify = component.NewType(component.Type{Kind: component.Record, Fields: []component.Field{
		{Name: "status", Type: component.NewType(component.Type{Kind: component.Option, Elem: tU16})},
		{Name: "headers-set", Type: tHeaders}, {Name: "headers-add", Type: tHeaders},
		{Name: "headers-remove", Type: component.NewType(component.Type{Kind: component.List, Elem: tString})},
		{Name: "body-replace", Type: component.NewType(component.Type{Kind: component.Option, Elem: tBytes})},
	}})
	tAction = component.NewType(component.Type{Kind: component.Variant, Cases: []component.Field{
		{Name: "continue"}, {Name: "reject", Type: tU16}, {Name: "modify", Type: tModify},
	}})
)

var hooks = [numHooks]signature{
	OnRequest:  {"middleware-on-request", "on-request", &component.FuncType{Params: []component.Field{{Name: "req", Type: tRequest}}, Result: tAction}},
	OnResponse: {"middleware-on-response", "on-response", &component.FuncType{Params: []component.Field{{Name: "resp", Type: tResponse}}, Result: tAction}},
}

// hooksOf finds the hooks among what p exports. A hook of another type, or
// nothing that is a hook, is an error.
func hooksOf(p *component.Plan) (world string, found [numHooks]*component.Func, err error) {
	var names []string
	for i := range p.Exports {
		e := &p.Exports[i]
		pkg, iface, _ := strings.Cut(e.Interface, "/")
		iface, _, _ = strings.Cut(iface, "@")
		names = append(names, fmt.Sprintf("%.64s#%.64s", e.Interface, e.Name))
		for h := range hooks {
			s := &hooks[h]
			if iface != s.iface || e.Name != s.name || pkg != packages[0] && pkg != packages[1] {
				continue
			}
			if !e.Func.Type.Equal(s.typ) {
				return "", found, fmt.Errorf("%s of %s is %s; want %s", e.Name, e.Interface, e.Func.Type, s.typ)
			}
			found[h], world = e.Func, pkg
		}
	}
	if world == "" {
		if len(names) == 0 {
			names = []string{"nothing"}
		}
		return "", found, fmt.Errorf("it exports %s; want a hook, such as %s/%s#%s", strings.Join(names[:min(len(names), 8)], ", "), packages[0], hooks[0].iface, hooks[0].name)
	}
	return world, found, nil
}
