package core

import (
	"cmp"
	"slices"
)

// findGuests notes which imported functions may call back.
func (w *rewriter) findGuests() {
	for i, im := range w.m.Imports {
		if im.Kind == Func {
			w.guests = append(w.guests, w.opt.Links == nil || w.opt.Links[i].Guest)
		}
	}
}

// findRecursion finds the calls that may be part of a cycle: the strongly
// connected components of who calls whom (Tarjan, 1972). A call through a table
// may be of any function whose address is taken and that has the type it is
// called with; if others can put theirs into the table, or take ours out, of
// theirs too. A call of another module's function may be of any of ours that
// others call. It returns who calls whom, by node.
func (w *rewriter) findRecursion() [][]uint32 {
	n := len(w.funcs)
	edges := make([][]uint32, w.away()+1)
	away := uint32(w.away())
	add := func(from uint32, f int32) {
		if k := w.node(f); k >= 0 {
			edges[from] = append(edges[from], uint32(k))
		}
	}
	for i := range w.funcs {
		last := int32(0)
		for _, c := range w.funcs[i].cuts {
			if (c.kind == cutCall || c.kind == cutTail) && (c.to != last || len(edges[i]) == 0) {
				last = c.to
				add(uint32(i), c.to)
			}
		}
	}
	for _, f := range w.taken {
		add(uint32(n)+w.shapes[w.sigs[f]], int32(f))
	}
	if w.shared {
		for k := uint32(n); k < away; k++ {
			edges[k] = append(edges[k], away)
			edges[away] = append(edges[away], k)
		}
	}
	for _, e := range w.m.Exports {
		if e.Kind == Func && int(e.Index) >= w.imported && (w.opt.Called == nil || w.opt.Called[e.Name]) {
			add(away, int32(e.Index))
		}
	}
	w.scc = components(edges)
	return edges
}

// away is the node of other modules. Before it are those of functions, and of
// tables, one for each shape of function.
func (w *rewriter) away() int { return len(w.funcs) + len(w.shapes) }

// node is what function f is among the edges: itself, the node of tables, the one
// of other modules, or -1 for the host, which calls nobody.
func (w *rewriter) node(f int32) int {
	switch {
	case f < 0: // through a table
		return len(w.funcs) + int(throughTable-f)
	case int(f) >= w.imported:
		return int(f) - w.imported
	case w.guests[f]:
		return w.away()
	}
	return -1
}

// findShapes numbers the types, equal ones alike, and finds whether functions may
// change hands with other modules.
func (w *rewriter) findShapes() {
	first := make(map[string]uint32)
	var key []byte
	for i, t := range w.types {
		key = key[:0]
		for _, v := range t.Params {
			key = append(key, byte(v))
		}
		key = append(key, 0)
		for _, v := range t.Results {
			key = append(key, byte(v))
		}
		for _, v := range key {
			switch ValType(v) {
			case funcRef, externRef, exnRef:
				w.shared = true
			}
		}
		k, known := first[string(key)]
		if !known {
			k = uint32(i)
			first[string(key)] = k
		}
		w.shapes = append(w.shapes, k)
	}
}

// measure finds where guests pay. It takes functions in an order in which those
// that are called come first: small ones need not pay, because who calls them
// counts what they run. Not so those that can come back to themselves, and those
// that call through a table or another module, which is how others come back.
func (w *rewriter) measure(edges [][]uint32) error {
	direct := make([][]uint32, len(w.funcs))
	for i := range direct {
		for _, k := range edges[i] {
			if int(k) < len(w.funcs) {
				direct[i] = append(direct[i], k)
			}
		}
	}
	scc := components(direct)
	size := make([]int32, len(scc)) // of components
	for _, c := range scc {
		size[c]++
	}
	order := make([]int32, len(w.funcs))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int { return cmp.Compare(scc[a], scc[b]) })
	taken := w.taken
	for _, i := range order {
		b := &w.funcs[i]
		if err := w.scanCode(b); err != nil {
			return err
		}
		b.free = b.most <= maxFree && size[scc[i]] == 1 && !slices.Contains(direct[i], uint32(i))
		w.taken = taken
	}
	return nil
}

// price is how many bytes of code a call runs that the callee does not pay for. Of
// a callee that is not known it is more than who calls it may have without paying.
func (w *rewriter) price(to int32) int {
	f := int(to) - w.imported
	switch {
	case to < 0, f < 0 && w.guests != nil && w.guests[to]:
		return maxFree + 1
	case f >= 0 && f < len(w.funcs) && w.funcs[f].free:
		return w.funcs[f].most
	}
	return 0
}

// components returns for each node the number of its strongly connected
// component. It keeps its own stack: graphs come from strangers.
func components(edges [][]uint32) []int32 {
	n := len(edges)
	comp, low, num := make([]int32, n), make([]int32, n), make([]int32, n)
	for i := range comp {
		comp[i] = -1
	}
	type visit struct{ node, edge int }
	var todo []visit
	var open []int
	var next, comps int32
	for root := range n {
		if num[root] != 0 {
			continue
		}
		todo = append(todo, visit{root, 0})
		for len(todo) > 0 {
			v := &todo[len(todo)-1]
			i := v.node
			if v.edge == 0 {
				next++
				num[i], low[i] = next, next
				open = append(open, i)
			}
			if v.edge < len(edges[i]) {
				k := int(edges[i][v.edge])
				v.edge++
				switch {
				case num[k] == 0:
					todo = append(todo, visit{k, 0})
				case comp[k] < 0:
					low[i] = min(low[i], num[k])
				}
				continue
			}
			if low[i] == num[i] {
				for {
					k := open[len(open)-1]
					open = open[:len(open)-1]
					comp[k] = comps
					if k == i {
						break
					}
				}
				comps++
			}
			todo = todo[:len(todo)-1]
			if len(todo) > 0 {
				up := todo[len(todo)-1].node
				low[up] = min(low[up], low[i])
			}
		}
	}
	return comp
}

// recursive reports whether a call of f in body i may come back to body i.
func (w *rewriter) recursive(i int, f int32) bool {
	k := w.node(f)
	return k >= 0 && w.scc[i] == w.scc[k]
}

// tailCall is by how much the opcodes of calls that take the place of who calls are
// larger than those of others.
const tailCall = 2

// How many values the engine passes in registers, of those that are no floats or
// vectors and of those that are, on the processor that has the fewest. A call that
// passes more cannot take the place of who calls.
const (
	plainRegisters = 6
	floatRegisters = 8
)

// inRegisters reports whether the engine passes all that a call of t takes and
// returns in registers.
func (t *FuncType) inRegisters() bool {
	fit := func(vs []ValType) bool {
		floats := 0
		for _, v := range vs {
			switch v {
			case F32, F64, V128:
				floats++
			}
		}
		return floats <= floatRegisters && len(vs)-floats <= plainRegisters
	}
	return fit(t.Params) && fit(t.Results)
}

// signature is the type of the function, or of those in tables, that a call is of.
func (w *rewriter) signature(to int32) *FuncType {
	if to < 0 {
		if k := int(throughTable - to); k < len(w.types) {
			return w.types[k]
		}
		return &FuncType{}
	}
	if int(to) < len(w.sigs) {
		return w.types[w.sigs[to]]
	}
	return &FuncType{}
}

// values is how many values a block, a loop or a call of type t passes; nil is one
// at most.
func (t *FuncType) values() int {
	if t == nil {
		return 1
	}
	return len(t.Params) + len(t.Results)
}

// pass notes that b calls something of type t.
func (b *body) pass(t *FuncType) { b.passed = max(b.passed, len(t.Params)+len(t.Results)) }
