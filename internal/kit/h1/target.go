package h1

import "bytes"

// target is a request target by its places in the head.
type target struct {
	host, hostEnd int // of an absolute target; host is 0 in the other forms
	path, end     int
	query         int // where the "?" is, or end
	asterisk      bool
}

// Paths that a target means and does not spell.
var (
	pathRoot     = []byte("/")
	pathAsterisk = []byte("*")
)

// cut returns the parts of the target. host is nil if it has none.
func (t *target) cut(b []byte) (path, query, host []byte) {
	path = b[t.path:t.query:t.query]
	if t.query < t.end {
		query = b[t.query+1 : t.end : t.end]
	}
	if t.host > 0 {
		host = b[t.host:t.hostEnd:t.hostEnd]
	}
	switch {
	case t.asterisk:
		path = pathAsterisk
	case len(path) == 0: // RFC 9110 §4.2.3
		path = pathRoot
	}
	return path, query, host
}

// parseTarget reads the target b[from:end], RFC 9112 §3.2, whose bytes are
// those a target may have. Only an OPTIONS request may ask about "*".
func parseTarget(b []byte, from, end int, options bool) (target, *Error) {
	t := target{path: from, end: end, query: end}
	switch {
	case b[from] == '/':
	case end-from == 1 && b[from] == '*' && options:
		t.asterisk = true
		return t, nil
	default:
		n := schemeLen(b[from:end])
		if n == 0 {
			return t, errTarget
		}
		t.host = from + n
		t.hostEnd = t.host
		for t.hostEnd < end && b[t.hostEnd] != '/' && b[t.hostEnd] != '?' {
			t.hostEnd++
		}
		host := b[t.host:t.hostEnd]
		switch {
		case bytes.IndexByte(host, '@') >= 0:
			return t, errTargetUser
		case !isHost(host):
			return t, errTargetHost
		}
		t.path = t.hostEnd
		// RFC 9112 §3.2.4: this is how "*" is said to a proxy.
		t.asterisk = options && t.path == end
	}
	if i := bytes.IndexByte(b[t.path:end], '?'); i >= 0 {
		t.query = t.path + i
	}
	if !escapesOK(b[t.path:t.query]) {
		return t, errTarget
	}
	return t, nil
}

// schemeLen returns the length of an absolute target's beginning, 0 if it has
// none that we serve.
func schemeLen(t []byte) int {
	for _, s := range [...]string{"http://", "https://"} {
		if len(t) >= len(s) && EqualFold(t[:len(s)], s) {
			return len(s)
		}
	}
	return 0
}

// escapesOK reports whether each "%" of a path begins two hexadecimal digits.
// Queries are left alone: they are opaque to us, and clients send "100%".
func escapesOK(path []byte) bool {
	for {
		i := bytes.IndexByte(path, '%')
		if i < 0 {
			return true
		}
		if i+2 >= len(path) || hexDigits[path[i+1]] == notHex || hexDigits[path[i+2]] == notHex {
			return false
		}
		path = path[i+3:]
	}
}

// isHost reports whether h is a host with an optional port: a name, an IPv4
// address, or an IPv6 address in brackets. It is stricter than RFC 3986: names
// hold no escapes and no sub-delimiters, which no name that resolves has.
func isHost(h []byte) bool {
	if len(h) == 0 {
		return false
	}
	if h[0] == '[' {
		i := bytes.IndexByte(h, ']')
		return i > 0 && isIPv6(h[1:i]) && isPort(h[i+1:])
	}
	i := 0
	for i < len(h) && chars[h[i]]&inHost != 0 {
		i++
	}
	return i > 0 && isPort(h[i:])
}

// isPort reports whether p is empty, or a colon and a port; RFC 3986 §3.2.3
// lets the port be empty.
func isPort(p []byte) bool {
	if len(p) == 0 {
		return true
	}
	if p[0] != ':' || len(p) > len(":65535") {
		return false
	}
	n := 0
	for _, c := range p[1:] {
		if c < '0' || c > '9' {
			return false
		}
		n = n*10 + int(c-'0')
	}
	return n <= 65535
}

// isIPv6 reports whether a is an IPv6 address without a zone: RFC 3986 §3.2.2.
func isIPv6(a []byte) bool {
	groups, gap, i := 0, false, 0
	if len(a) >= 2 && a[0] == ':' && a[1] == ':' {
		gap, i = true, 2
	}
	for i < len(a) {
		n := 0
		for i+n < len(a) && hexDigits[a[i+n]] != notHex {
			n++
		}
		if i+n < len(a) && a[i+n] == '.' { // the last two groups may be an IPv4 address
			groups += 2
			if !isIPv4(a[i:]) {
				return false
			}
			break
		}
		if n == 0 || n > 4 {
			return false
		}
		groups++
		if i += n; i == len(a) {
			break
		}
		if a[i] != ':' || i+1 == len(a) {
			return false
		}
		if i++; a[i] == ':' {
			if gap {
				return false
			}
			gap = true
			i++
		}
	}
	if gap { // which stands for at least one group
		return groups < 8
	}
	return groups == 8
}

// isIPv4 reports whether a is four decimal numbers up to 255, without leading
// zeros.
func isIPv4(a []byte) bool {
	for part := 0; ; part++ {
		n, digits := 0, 0
		for len(a) > digits && a[digits] >= '0' && a[digits] <= '9' && digits < 3 {
			n = n*10 + int(a[digits]-'0')
			digits++
		}
		if digits == 0 || n > 255 || digits > 1 && a[0] == '0' {
			return false
		}
		a = a[digits:]
		if part == 3 {
			return len(a) == 0
		}
		if len(a) == 0 || a[0] != '.' {
			return false
		}
		a = a[1:]
	}
}
