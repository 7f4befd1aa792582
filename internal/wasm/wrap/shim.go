package wrap

import (
	"fmt"

	"sluice/internal/wasm/core"
)

// tableName is the table through which the module's imports are called, a
// slotName the function that does it.
const tableName = "$imports"

func slotName(i int) string { return fmt.Sprint(i) }

// A coreModule is written section by section.
type coreModule []byte

func newCoreModule() coreModule { return append(coreModule(nil), core.Header...) }

// section adds a list of n elements.
func (m *coreModule) section(id byte, n int, list []byte) {
	count := appendU32(nil, uint32(n))
	*m = appendU32(append(*m, id), uint32(len(count)+len(list)))
	*m = append(append(*m, count...), list...)
}

// Sections of core modules.
const (
	coreType     = 1
	coreImport   = 2
	coreFunction = 3
	coreTable    = 4
	coreExport   = 7
	coreStart    = 8
	coreElement  = 9
	coreCode     = 10
)

// types writes the types of imports, one each.
func types(late []core.Import) (list []byte) {
	for _, im := range late {
		list = append(list, 0x60)
		for _, ts := range [][]core.ValType{im.Type.Params, im.Type.Results} {
			list = appendU32(list, uint32(len(ts)))
			for _, t := range ts {
				list = append(list, byte(t))
			}
		}
	}
	return list
}

// table is the type of the table: of as many functions as there are.
func table(n int) []byte {
	return appendU32(appendU32([]byte{0x70, 1}, uint32(n)), uint32(n))
}

// shimModule returns a module with a function for each import, which calls what
// stands in its place of the table.
func shimModule(late []core.Import) []byte {
	n := len(late)
	var funcs, exports, code []byte
	for i, im := range late {
		funcs = appendU32(funcs, uint32(i))
		exports = appendU32(append(appendName(exports, slotName(i)), byte(core.Func)), uint32(i))
		body := []byte{0} // no locals
		for p := range im.Type.Params {
			body = appendU32(append(body, 0x20), uint32(p)) // local.get
		}
		body = appendI32(append(body, 0x41), int32(i))                   // i32.const
		body = append(appendU32(append(body, 0x11), uint32(i)), 0, 0x0b) // call_indirect, end
		code = append(appendU32(code, uint32(len(body))), body...)
	}
	exports = append(appendName(exports, tableName), byte(core.Table), 0)
	m := newCoreModule()
	m.section(coreType, n, types(late))
	m.section(coreFunction, n, funcs)
	m.section(coreTable, 1, table(n))
	m.section(coreExport, n+1, exports)
	m.section(coreCode, n, code)
	return m
}

// fixModule returns a module that fills the table when it is instantiated.
func fixModule(late []core.Import) []byte {
	n := len(late)
	var imports, funcs []byte
	for i := range late {
		imports = appendU32(append(appendName(appendName(imports, "sluice"), slotName(i)), byte(core.Func)), uint32(i))
		funcs = appendU32(funcs, uint32(i))
	}
	imports = append(append(appendName(appendName(imports, "sluice"), tableName), byte(core.Table)), table(n)...)
	m := newCoreModule()
	m.section(coreType, n, types(late))
	m.section(coreImport, n+1, imports)
	// An active segment of table 0, from 0 on.
	m.section(coreElement, 1, append(appendU32([]byte{0, 0x41, 0, 0x0b}, uint32(n)), funcs...))
	return m
}

// startModule returns a module that calls initializeName when it is
// instantiated.
func startModule() []byte {
	m := newCoreModule()
	m.section(coreType, 1, []byte{0x60, 0, 0})
	m.section(coreImport, 1, append(appendName(appendName(nil, "sluice"), initializeName), byte(core.Func), 0))
	m = append(m, coreStart, 1, 0)
	return m
}

func appendI32(b []byte, v int32) []byte {
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if v == 0 && c&0x40 == 0 || v == -1 && c&0x40 != 0 {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}

// startExported is a module whose start function is not called by itself, but is
// exported under name. The module has one, and exports.
func startExported(module []byte, name string) []byte {
	type section struct {
		id   byte
		body []byte
	}
	var all []section
	start := uint32(0)
	r := core.NewReader(module[len(core.Header):], len(core.Header))
	for r.More() {
		id := r.Byte()
		s := r.Part()
		if id == coreStart {
			start = s.U32()
			continue
		}
		all = append(all, section{id, s.Bytes(s.Left())})
	}
	out := newCoreModule()
	for _, s := range all {
		if s.id != coreExport {
			out = append(appendU32(append(out, s.id), uint32(len(s.body))), s.body...)
			continue
		}
		list := core.NewReader(s.body, 0)
		n := list.Count(1)
		more := append(appendName(nil, name), byte(core.Func))
		out.section(coreExport, n+1, append(appendU32(more, start), list.Bytes(list.Left())...))
	}
	return out
}

// stripped is a module without its custom sections: names and debugging symbols,
// which nobody reads where it runs.
func stripped(module []byte) []byte {
	out := append([]byte(nil), core.Header...)
	r := core.NewReader(module[len(core.Header):], len(core.Header))
	for r.More() {
		at := len(core.Header) + r.Pos()
		id := r.Byte()
		r.Part()
		if id != 0 {
			out = append(out, module[at:len(core.Header)+r.Pos()]...)
		}
	}
	return out
}
