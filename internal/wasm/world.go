package wasm

import (
	"fmt"
	"slices"
	"strings"

	"sluice/internal/wasm/component"
)

// A Hook is a place at which a guest is called.
type Hook uint8

// The hooks. The contract's world has the first two.
const (
	OnRequest  Hook = iota // the request has come
	OnResponse             // the answer is whole
	OnChunk                // an event of a streamed answer has come
	OnError                // the request gets an error of the gateway's
	OnEnd                  // all has been sent
	NumHooks
)

// String is the hook as attach points have it.
func (h Hook) String() string {
	return [...]string{"OnRequest", "OnResponse", "OnChunk", "OnError", "OnEnd"}[h]
}

// MarshalText implements encoding.TextMarshaler.
func (h Hook) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hook) UnmarshalText(b []byte) error {
	for k := range NumHooks {
		if k.String() == string(b) {
			*h = k
			return nil
		}
	}
	return fmt.Errorf("unknown hook %.64q; want one of OnRequest, OnResponse, OnChunk, OnError, OnEnd", b)
}

// ownPackage is the package of our own world, wit/sluice-gateway.wit.
const ownPackage = "sluice:gateway"

// A signature is what a hook must be.
type signature struct {
	hook  Hook
	iface string // of the contract's packages; of ours it is called as the function
	name  string
	typ   *component.FuncType
}

// packages are those whose worlds are known. The contract's differ in name only.
var packages = []string{"smg:gateway", "sgl:model-gateway", ownPackage}

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

// The types that our own world adds.
var (
	tChunkAction = component.NewType(component.Type{Kind: component.Variant, Cases: []component.Field{
		{Name: "pass"}, {Name: "drop"}, {Name: "replace", Type: tBytes}, {Name: "finish", Type: tBytes},
	}})
	tFailure = component.NewType(component.Type{Kind: component.Record, Fields: []component.Field{
		{Name: "status", Type: tU16}, {Name: "code", Type: tString}, {Name: "message", Type: tString},
	}})
	tSummary = component.NewType(component.Type{Kind: component.Record, Fields: []component.Field{
		{Name: "status", Type: tU16}, {Name: "duration-ms", Type: tU64}, {Name: "input-tokens", Type: tU64}, {Name: "output-tokens", Type: tU64},
	}})
)

func params(name string, t *component.Type) []component.Field {
	return []component.Field{{Name: name, Type: t}}
}

var hooks = []signature{
	{OnRequest, "middleware-on-request", "on-request", &component.FuncType{Params: params("req", tRequest), Result: tAction}},
	{OnResponse, "middleware-on-response", "on-response", &component.FuncType{Params: params("resp", tResponse), Result: tAction}},
	{OnChunk, "", "on-chunk", &component.FuncType{Params: params("event", tBytes), Result: tChunkAction}},
	{OnError, "", "on-error", &component.FuncType{Params: params("err", tFailure)}},
	{OnEnd, "", "on-end", &component.FuncType{Params: params("end", tSummary)}},
}

// is reports whether s is what package pkg exports as iface#name.
func (s *signature) is(pkg, iface, name string) bool {
	switch {
	case name != s.name:
		return false
	case pkg == ownPackage:
		return iface == s.name
	}
	return iface == s.iface && slices.Contains(packages, pkg)
}

// hooksOf finds the hooks among what p exports. A hook of another type, or
// nothing that is a hook, is an error.
func hooksOf(p *component.Plan) (world string, found [NumHooks]*component.Func, err error) {
	var names []string
	for i := range p.Exports {
		e := &p.Exports[i]
		pkg, iface, _ := strings.Cut(e.Interface, "/")
		iface, version, _ := strings.Cut(iface, "@")
		names = append(names, fmt.Sprintf("%.64s#%.64s", e.Interface, e.Name))
		for h := range hooks {
			s := &hooks[h]
			if !s.is(pkg, iface, e.Name) {
				continue
			}
			if pkg == ownPackage && !ownVersion(version) {
				return "", found, fmt.Errorf("it is made for %s, and this gateway has 0.1 of it", e.Interface)
			}
			if world != "" && world != pkg {
				return "", found, fmt.Errorf("it exports hooks of both %s and %s; want those of one", world, pkg)
			}
			if !e.Func.Type.Equal(s.typ) {
				return "", found, fmt.Errorf("%s of %s is %s; want %s", e.Name, e.Interface, e.Func.Type, s.typ)
			}
			found[s.hook], world = e.Func, pkg
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

// ownVersion reports whether a version of our own world is one that this gateway
// has: 0.1, whichever its patch.
func ownVersion(v string) bool { return v == "" || strings.HasPrefix(v, "0.1.") }
