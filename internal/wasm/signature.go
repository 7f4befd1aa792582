package wasm

import (
	"strings"

	"sluice/internal/wasm/component"
)

// WorldVersion is the version of our own world that this gateway has.
const WorldVersion = "0.1.0"

// A Signature is a function of a world, with its type.
type Signature struct {
	Hook      Hook
	Package   string // of the world
	Interface string // with its package and its version, as it is exported
	Name      string
	Type      *component.FuncType
}

// HookOf returns the hook that an export of a core module is, by the name that
// tools give it: interface#name.
func HookOf(export string) (s Signature, ok bool) {
	full, name, _ := strings.Cut(export, "#")
	pkg, iface, _ := strings.Cut(full, "/")
	iface, version, _ := strings.Cut(iface, "@")
	for h := range hooks {
		k := &hooks[h]
		if k.is(pkg, iface, name) && (pkg == ownPackage && ownVersion(version) || pkg != ownPackage && version == "") {
			return Signature{k.hook, pkg, full, name, k.typ}, true
		}
	}
	return s, false
}

// Packages are those of the worlds whose modules are run.
func Packages() []string { return packages }

// HostType returns the type of a function of an interface that our own world's
// modules import; nil if it has none of that name.
func HostType(iface, name string) *component.FuncType {
	pkg, rest, _ := strings.Cut(iface, "/")
	base, version, _ := strings.Cut(rest, "@")
	f, ok := own[name]
	if !ok || pkg != ownPackage || base != "host" || !ownVersion(version) {
		return nil
	}
	return f.typ
}

// TypesOf returns where a world's types have their names, and the types, those
// that others are made of first.
func TypesOf(pkg string) (iface string, types []component.Field) {
	types = []component.Field{{Name: "header", Type: tHeader}, {Name: "request", Type: tRequest}, {Name: "response", Type: tResponse},
		{Name: "modify-action", Type: tModify}, {Name: "action", Type: tAction}}
	if pkg != ownPackage {
		return pkg + "/middleware-types", types
	}
	return pkg + "/types@" + WorldVersion, append(types,
		component.Field{Name: "chunk-action", Type: tChunkAction}, component.Field{Name: "failure", Type: tFailure}, component.Field{Name: "summary", Type: tSummary})
}

// LevelType is the type of the host's log levels, which has a name too.
func LevelType() component.Field { return component.Field{Name: "level", Type: tLevel} }
