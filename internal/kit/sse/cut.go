package sse

// Cut takes the first event off p, the empty line that ends it included. Empty
// lines before an event are one without anything in it. ok is false, and rest is
// p, if no event is whole. A CR at the end of p may be half of a line's end, so
// what it ends is not whole yet; but for the second of two CRs: lines that end so
// have no LF, and an event is not to wait for the next. If one comes nevertheless,
// it is an empty line.
func Cut(p []byte) (event, rest []byte, ok bool) {
	lone := false // the line before ends with a CR
	for at := 0; at < len(p); {
		n := lineEnd(p[at:])
		if n < 0 {
			break
		}
		next := at + n + 1
		cr := p[at+n] == '\r'
		switch {
		case !cr:
		case next < len(p) && p[next] == '\n':
			next++
			cr = false
		case next == len(p) && (n > 0 || !lone):
			return nil, p, false
		}
		if n == 0 {
			return p[:next], p[next:], true
		}
		at, lone = next, cr
	}
	return nil, p, false
}
