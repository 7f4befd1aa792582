package h1

import (
	"bytes"
	"slices"
)

// A Field is one field line. Both parts point into the head that was parsed.
type Field struct {
	Name  []byte // as it was sent; a token
	Value []byte // without the whitespace around it
}

// Message is what heads of requests and of answers have in common. All slices
// point into the parsed bytes and are good as long as those are.
type Message struct {
	Minor         int     // 0 or 1: higher minor versions are read as 1.1, RFC 9110 §2.5
	Fields        []Field // in the order of the wire; all of them, hop-by-hop too
	ContentLength int64   // -1 if the head has none
	Chunked       bool
	KeepAlive     bool   // whether the connection may serve another message after this one
	Upgrade       []byte // the protocols that the first Upgrade lists; nil unless Connection names it
	Trailer       []byte // the fields that the first Trailer announces; nil if none

	// Where parsing stands. Offsets, because the bytes may move between calls.
	stage stage
	reply bool // an answer's head
	from  int  // where the first line begins
	line  int  // where the current line begins
	at    int  // no line feed between line and at

	spans   []span
	skip    [MaxFields / 64]uint64 // fields that are not passed on
	length  int64                  // ContentLength, -1 while unseen
	options int                    // elements of Connection fields that are more than keep-alive

	host, upgrade, trailer, keepAlive int // index of the field, -1 while unseen

	sawCoding, sawClose, sawKeep, sawUpgrade, sawExpect, sawOther bool
}

// span is a field by its places in the head.
type span struct{ name, nameEnd, value, valueEnd uint32 }

type stage uint8

const (
	stageNew    stage = iota // nothing of this head was seen
	stageStart               // its first line is not complete
	stageFields              // its first line was read
)

// maxOptions bounds what Named has to compare with.
const maxOptions = 32

// begin makes m ready for a new head and keeps its storage.
func (m *Message) begin(reply bool) {
	*m = Message{
		Fields: m.Fields[:0], spans: m.spans[:0], reply: reply, stage: stageStart,
		ContentLength: -1, length: -1, host: -1, upgrade: -1, trailer: -1, keepAlive: -1,
	}
}

// reset forgets the head and every pointer into its bytes.
func (m *Message) reset() {
	clear(m.Fields[:cap(m.Fields)])
	m.begin(m.reply)
	m.stage = stageNew
}

// Get returns the value of the first field named lower, which has no capital
// letters; nil if there is none.
func (m *Message) Get(lower string) []byte {
	for i := range m.Fields {
		if EqualFold(m.Fields[i].Name, lower) {
			return m.Fields[i].Value
		}
	}
	return nil
}

// Passes reports whether Fields[i] may be sent on as it is: it is neither
// hop-by-hop, nor named by Connection, nor one of Host, Content-Length and
// Expect, which whoever sends a message says for itself.
func (m *Message) Passes(i int) bool { return m.skip[i/64]&(1<<(i%64)) == 0 }

// Named reports whether Connection lists name as belonging to this connection
// only.
func (m *Message) Named(name []byte) bool {
	if !m.sawOther {
		return false
	}
	for i := range m.Fields {
		if known(m.Fields[i].Name) != kindConnection {
			continue
		}
		l := Elements(m.Fields[i].Value)
		for e := l.Next(); e != nil; e = l.Next() {
			if len(e) == len(name) && bytes.EqualFold(e, name) {
				return true
			}
		}
	}
	return false
}

// readFields reads the complete field lines of b. It returns where the head
// ends, or 0 if its end is not in b yet. No byte is searched twice.
func (m *Message) readFields(b []byte, lim *Limits) (int, *Error) {
	line, at := m.line, m.at
	for {
		i := bytes.IndexByte(b[at:], '\n')
		if i < 0 {
			m.line, m.at = line, len(b)
			if len(b) >= lim.Head {
				return 0, errHeadLong
			}
			return 0, nil
		}
		lf := at + i
		switch {
		case lf >= lim.Head:
			return 0, errHeadLong
		case b[lf-1] != '\r':
			return 0, errBareLF
		case lf-1 == line:
			return lf + 1, nil
		}
		if err := m.readField(b, line, lf-1, lim); err != nil {
			return 0, err
		}
		line, at = lf+1, lf+1
	}
}

// readField reads the field line b[start:end].
func (m *Message) readField(b []byte, start, end int, lim *Limits) *Error {
	line := b[start:end]
	n := len(line)
	for i, c := range line {
		if chars[c]&inToken == 0 {
			n = i
			break
		}
	}
	if n == 0 || n == len(line) || line[n] != ':' {
		return m.badName(line, n)
	}
	from, to := n+1, len(line)
	for from < to && isSpace(line[from]) {
		from++
	}
	for to > from && isSpace(line[to-1]) {
		to--
	}
	value := line[from:to]
	if !isValue(value) {
		return badValue(value)
	}
	i := len(m.spans)
	if i >= lim.Fields || i >= MaxFields {
		return errFieldsMany
	}
	at := uint32(start) // a head is at most Limits.Head long
	m.spans = append(m.spans, span{at, at + uint32(n), at + uint32(from), at + uint32(to)})
	if k := known(line[:n]); k != kindOther {
		m.skip[i/64] |= 1 << (i % 64)
		return m.note(i, k, value)
	}
	return nil
}

// badName says what is wrong with a line whose first n bytes are of a token
// and are not followed by a colon.
func (m *Message) badName(line []byte, n int) *Error {
	switch space := n < len(line) && (line[n] == ' ' || line[n] == '\t'); {
	case space && n == 0 && len(m.spans) == 0:
		return errFirstSpace
	case space && n == 0:
		return errFold
	case space:
		return errColonSpace
	}
	return errFieldName
}

// badValue says what is wrong with v, which isValue refused.
func badValue(v []byte) *Error {
	if bytes.IndexByte(v, '\r') >= 0 {
		return errBareCR
	}
	return errFieldValue
}

// kind is a field that a head's reader must know.
type kind uint8

const (
	kindOther kind = iota
	kindHop        // hop-by-hop, and nothing else of interest
	kindConnection
	kindTransferEncoding
	kindContentLength
	kindHost
	kindExpect
	kindUpgrade
	kindTrailer
	kindKeepAlive
)

// known returns the kind of the field called name.
func known(name []byte) kind {
	switch len(name) {
	case 2:
		return named(name, "te", kindHop)
	case 4:
		return named(name, "host", kindHost)
	case 6:
		return named(name, "expect", kindExpect)
	case 7:
		if name[0]|0x20 == 'u' {
			return named(name, "upgrade", kindUpgrade)
		}
		return named(name, "trailer", kindTrailer)
	case 10:
		if name[0]|0x20 == 'c' {
			return named(name, "connection", kindConnection)
		}
		return named(name, "keep-alive", kindKeepAlive)
	case 14:
		return named(name, "content-length", kindContentLength)
	case 16:
		return named(name, "proxy-connection", kindHop)
	case 17:
		return named(name, "transfer-encoding", kindTransferEncoding)
	case 18:
		return named(name, "proxy-authenticate", kindHop)
	case 19:
		return named(name, "proxy-authorization", kindHop)
	}
	return kindOther
}

func named(name []byte, lower string, k kind) kind {
	if EqualFold(name, lower) {
		return k
	}
	return kindOther
}

// IsHopByHop reports whether a field is between two neighbours and never
// passed on: RFC 9110 §7.6.1, with Trailer and the Proxy- fields that older
// readers know.
func IsHopByHop(name []byte) bool {
	switch known(name) {
	case kindHop, kindConnection, kindTransferEncoding, kindUpgrade, kindTrailer, kindKeepAlive:
		return true
	}
	return false
}

// note takes what field i, of kind k, says about the message.
func (m *Message) note(i int, k kind, value []byte) *Error {
	switch k {
	case kindConnection:
		return m.noteConnection(value)
	case kindTransferEncoding:
		if m.sawCoding {
			return errCodingTwice
		}
		m.sawCoding = true
		return checkCoding(value)
	case kindContentLength:
		if m.length >= 0 {
			return errLengthTwice
		}
		var err *Error
		m.length, err = parseLength(value)
		return err
	case kindHost:
		if m.reply {
			return nil
		}
		if m.host >= 0 {
			return errHostTwice
		}
		m.host = i
		if len(value) > 0 && !isHost(value) {
			return errHost
		}
	case kindExpect:
		if m.reply {
			return nil
		}
		if !EqualFold(value, "100-continue") {
			return errExpect
		}
		m.sawExpect = true
	case kindUpgrade:
		if m.upgrade < 0 {
			m.upgrade = i
		}
	case kindTrailer:
		if m.trailer < 0 {
			m.trailer = i
		}
		return checkTrailerList(value)
	case kindKeepAlive:
		if m.keepAlive < 0 {
			m.keepAlive = i
		}
	}
	return nil
}

// noteConnection reads one Connection field.
func (m *Message) noteConnection(value []byte) *Error {
	if EqualFold(value, "keep-alive") { // nearly all of them
		m.sawKeep = true
		return nil
	}
	l := Elements(value)
	for e := l.Next(); e != nil; e = l.Next() {
		if m.options++; m.options > maxOptions {
			return errOptionsMany
		}
		switch {
		case EqualFold(e, "close"):
			m.sawClose = true
		case EqualFold(e, "keep-alive"):
			m.sawKeep = true
		case EqualFold(e, "upgrade"):
			m.sawUpgrade = true
		case !isToken(e):
			return errConnection
		default:
			m.sawOther = true
		}
	}
	return nil
}

// checkCoding accepts chunked and nothing else: RFC 9112 §6.1. The final
// coding of a request must be chunked (§6.3: 400); a coding before it is one
// that we do not understand (501).
func checkCoding(value []byte) *Error {
	if EqualFold(value, "chunked") {
		return nil
	}
	l := Elements(value)
	chunked, last := 0, false
	for e := l.Next(); e != nil; e = l.Next() {
		if last = EqualFold(e, "chunked"); last {
			chunked++
		} else if !isToken(e) {
			return errCoding
		}
	}
	// A list with empty elements may be what chunked alone was meant to be.
	if chunked != 1 || !last || HasToken(value, "identity") || value[0] == ',' || value[len(value)-1] == ',' {
		return errCoding
	}
	return errCodingOther
}

// parseLength reads a Content-Length: digits, as many as the largest has.
func parseLength(value []byte) (int64, *Error) {
	if len(value) == 0 {
		return -1, errLength
	}
	var n int64
	large := false
	for _, c := range value {
		if c < '0' || c > '9' {
			return -1, errLength
		}
		d := int64(c - '0')
		if large = large || n > (maxLength-d)/10; !large {
			n = n*10 + d
		}
	}
	switch {
	case large:
		return -1, errLengthLarge
	case len(value) > len("4611686018427387904"): // zeros without end
		return -1, errLength
	}
	return n, nil
}

// checkTrailerList refuses announcements of what no trailer may have.
func checkTrailerList(value []byte) *Error {
	l := Elements(value)
	for e := l.Next(); e != nil; e = l.Next() {
		if !isToken(e) || forbiddenTrailer(e) {
			return errTrailerList
		}
	}
	return nil
}

// settle decides what the whole head b means, when all of its lines are read.
func (m *Message) settle(b []byte) *Error {
	switch {
	case m.sawCoding && m.length >= 0:
		return errLengthCoding
	case m.sawCoding && m.Minor == 0:
		return errCodingOld
	}
	m.ContentLength, m.Chunked = m.length, m.sawCoding
	m.KeepAlive = !m.sawClose && (m.Minor > 0 || m.sawKeep)

	fields := slices.Grow(m.Fields[:0], len(m.spans))[:len(m.spans)]
	for i := range fields {
		f, s := &fields[i], &m.spans[i]
		f.Name, f.Value = b[s.name:s.nameEnd:s.nameEnd], b[s.value:s.valueEnd:s.valueEnd]
	}
	m.Fields = fields
	if m.upgrade >= 0 && m.sawUpgrade && m.Minor > 0 {
		m.Upgrade = m.Fields[m.upgrade].Value
	}
	if m.trailer >= 0 {
		m.Trailer = m.Fields[m.trailer].Value
	}
	if m.sawOther {
		for i := range m.Fields {
			if m.Named(m.Fields[i].Name) {
				m.skip[i/64] |= 1 << (i % 64)
			}
		}
	}
	return nil
}
