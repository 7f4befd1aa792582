package sse

// Cut takes the first event off p, the empty line that ends it included. Empty
// lines before an event are one without anything in it. ok is false, and rest is
// p, if no event is whole. A CR at the end of p may be half of a line's end, so
// what it ends is not whole yet.
func Cut(p []byte) (event, rest []byte, ok bool) {
	for at := 0; at < len(p); {
		n := lineEnd(p[at:])
		if n < 0 {
			break
		}
		next := at + n + 1
		if p[at+n] == '\r' {
			switch {
			case next == len(p):
				return nil, p, false
			case p[next] == '\n':
				next++
			}
		}
		if n == 0 {
			return p[:next], p[next:], true
		}
		at = next
	}
	return nil, p, false
}
