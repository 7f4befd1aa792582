package fleet

import "strings"

// A Veto says why a worker that is ready should not be given requests while
// others may be. Several reasons may hold at once.
type Veto uint32

// The reasons.
const (
	Overloaded Veto = 1 << iota // too many requests wait in it, or its cache is nearly full
	Stalled                     // connections to it fail
	Wedged                      // it has requests and makes no tokens
)

// String names the reasons, "" if there are none.
func (v Veto) String() string {
	var s []string
	for i, name := range [...]string{"overloaded", "stalled", "wedged"} {
		if v&(1<<i) != 0 {
			s = append(s, name)
		}
	}
	return strings.Join(s, ", ")
}

// setVeto sets or clears reasons, and has the Snapshot replaced if w is vetoed
// now and was not, or the other way round. It reports whether a reason changed.
func (w *Worker) setVeto(v Veto, on bool) bool {
	var was uint32
	if on {
		was = w.veto.Or(uint32(v))
		if was&uint32(v) == uint32(v) {
			return false
		}
	} else if was = w.veto.And(^uint32(v)); was&uint32(v) == 0 {
		return false
	}
	r := w.reg
	r.vetoes.Store(true)
	r.dirty.Store(true)
	r.wakeUp()
	return true
}
