package core

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
// may be of any function whose address is taken, and of any function that is
// exported, if other modules can put theirs into the table; so is a call of
// another module's function.
func (w *rewriter) findRecursion() {
	n := len(w.funcs)
	wild, away := uint32(n), uint32(n+1) // nodes for calls through tables, and to other modules
	edges := make([][]uint32, n+2)
	add := func(from uint32, f int32) {
		if k := w.node(f); k >= 0 {
			edges[from] = append(edges[from], uint32(k))
		}
	}
	for i := range w.funcs {
		last := int32(-2)
		for _, c := range w.funcs[i].cuts {
			if (c.kind == cutCall || c.kind == cutTail) && c.to != last {
				last = c.to
				add(uint32(i), c.to)
			}
		}
	}
	for _, f := range w.taken {
		add(wild, int32(f))
	}
	edges[wild] = append(edges[wild], away)
	for _, e := range w.m.Exports {
		if e.Kind == Func && int(e.Index) >= w.imported {
			add(away, int32(e.Index))
		}
	}
	edges[away] = append(edges[away], wild)
	w.scc = components(edges)
}

// node is what function f is among the edges: itself, the node of tables, the one
// of other modules, or -1 for the host, which calls nobody.
func (w *rewriter) node(f int32) int {
	switch n := len(w.funcs); {
	case f == throughTable:
		return n
	case int(f) >= w.imported:
		return int(f) - w.imported
	case w.guests[f]:
		return n + 1
	}
	return -1
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
