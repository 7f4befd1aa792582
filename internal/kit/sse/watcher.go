package sse

import "bytes"

// window bounds how much of an event's data a Watcher looks at and may keep:
// its end, where usage stands.
const window = 8 << 10

// A Watcher follows a stream of events whose bytes are shown to it as they
// pass, in whatever pieces. What it says depends on the bytes only, not on
// where they were cut.
//
// The zero Watcher stands at the beginning of a stream. It takes memory of its
// own, at most 8 KiB, only when a Feed ends within an event's data. One
// goroutine at a time may use it.
type Watcher struct {
	events, content int64
	usage           Usage
	hasUsage, done  bool

	// The line that the last Feed has ended in.
	head   [32]byte // its first bytes, until it is known to be data
	n      uint8    // how many of them; 0 at the beginning of a line
	long   bool     // there were more than fit
	inData bool     // its value goes to kept

	cr  bool  // the last line has ended with CR: an LF would belong to it
	bom uint8 // bytes of a byte order mark seen; len(byteOrderMark) when that is settled

	// The event that has begun.
	open     bool // it has a field
	terminal bool // its name is one that ends streams
	hasData  bool
	kept     []byte // its data's last bytes, if they are not all in one Feed
	cut      bool   // its data's first bytes are no longer in kept
	first    mark   // what they were, if cut
}

// AtBoundary reports whether no event has begun: nothing has been seen yet, or
// the last event is whole.
func (w *Watcher) AtBoundary() bool {
	return w.n == 0 && !w.open && (w.bom == 0 || int(w.bom) == len(byteOrderMark))
}

// Done reports whether the stream has said that it is over: with OpenAI's
// data: [DONE], with Anthropic's message_stop, or with response.completed,
// response.failed or response.incomplete of OpenAI's Responses. The latter
// count as an event's name, and as the type in its data if only numbers stand
// before it or if it is the last member.
func (w *Watcher) Done() bool { return w.done }

// Events returns how many events with data are whole.
func (w *Watcher) Events() int64 { return w.events }

// ContentEvents returns how many events with data are whole, those that say
// [DONE] not counted.
func (w *Watcher) ContentEvents() int64 { return w.content }

// Usage returns the last counts that the stream has told, each for itself:
// Anthropic tells its input at the beginning and its output at the end. It
// reports false if there were none. Counts are seen if their object lies in
// the last 8 KiB of its event's data.
func (w *Watcher) Usage() (u Usage, ok bool) { return w.usage, w.hasUsage }

// Feed shows w the next bytes of the stream. It does not write to p nor keep
// it.
func (w *Watcher) Feed(p []byte) {
	if int(w.bom) < len(byteOrderMark) {
		p = w.skipBOM(p)
	}
	var whole []byte // the event's data, if it is one line in p
	for len(p) > 0 {
		if w.cr {
			w.cr = false
			if p[0] == '\n' {
				p = p[1:]
				continue
			}
		}
		end := lineEnd(p)
		if end < 0 {
			break
		}
		line := p[:end]
		w.cr = p[end] == '\r'
		p = p[end+1:]
		switch {
		case w.n > 0:
			w.part(line)
			w.endPart()
		case len(line) == 0:
			w.dispatch(whole)
			whole = nil
		default:
			f, value := fieldOf(line)
			if f == data && !w.hasData {
				w.open, w.hasData = true, true
				whole = value
				continue
			}
			if f == data {
				w.keep(whole)
				whole = nil
			}
			w.line(f, value)
		}
	}
	w.keep(whole)
	w.part(p)
}

// skipBOM settles whether the stream begins with a byte order mark, and returns
// what follows it.
func (w *Watcher) skipBOM(p []byte) []byte {
	for len(p) > 0 && int(w.bom) < len(byteOrderMark) {
		if p[0] != byteOrderMark[w.bom] {
			seen := byteOrderMark[:w.bom] // was the beginning of a line after all
			w.bom = uint8(len(byteOrderMark))
			w.part(seen)
			break
		}
		w.bom++
		p = p[1:]
	}
	return p
}

// line takes a whole line that is not empty.
func (w *Watcher) line(f field, value []byte) {
	if f == comment {
		return
	}
	w.open = true
	switch f {
	case event:
		w.terminal = isTerminal(value)
	case data:
		w.beginData()
		w.keep(value)
	}
}

func (w *Watcher) beginData() {
	if w.hasData {
		w.keep([]byte{'\n'})
	}
	w.open, w.hasData = true, true
}

// part takes a piece of a line whose beginning or end is in another Feed.
func (w *Watcher) part(p []byte) {
	if w.inData {
		w.keep(p)
		return
	}
	n := copy(w.head[w.n:], p)
	w.n += uint8(n)
	p = p[n:]
	w.long = w.long || len(p) > 0
	// The byte behind the colon tells whether a space is left out.
	if w.n > uint8(len("data:")) {
		if f, value := fieldOf(w.head[:w.n]); f == data {
			w.inData = true
			w.beginData()
			w.keep(value)
			w.keep(p)
		}
	}
}

// endPart ends the line that part was given.
func (w *Watcher) endPart() {
	if !w.inData {
		f, value := fieldOf(w.head[:w.n])
		if w.long {
			value = nil // no name that counts is so long
		}
		w.line(f, value)
	}
	w.n, w.long, w.inData = 0, false, false
}

// keep takes a piece of the event's data.
func (w *Watcher) keep(p []byte) {
	for len(p) > 0 {
		n := min(len(p), window-len(w.kept))
		if need := len(w.kept) + n; need > cap(w.kept) { // as append, but not over window
			w.kept = append(make([]byte, 0, min(window, max(512, 2*need))), w.kept...)
		}
		w.kept = append(w.kept, p[:n]...)
		if p = p[n:]; len(p) == 0 {
			return
		}
		if !w.cut {
			w.cut, w.first = true, firstMark(w.kept)
		}
		p = p[max(0, len(p)-window):]
		w.kept = w.kept[:copy(w.kept, w.kept[len(p):])]
	}
}

// dispatch ends the event. whole is its data, nil if that is in kept.
func (w *Watcher) dispatch(whole []byte) {
	if !w.open {
		return
	}
	w.done = w.done || w.terminal
	if w.hasData {
		if whole == nil {
			whole = w.kept
		}
		w.examine(whole)
	}
	w.open, w.terminal, w.hasData, w.cut, w.kept = false, false, false, false, w.kept[:0]
}

func (w *Watcher) examine(d []byte) {
	w.events++
	first := w.first
	if !w.cut {
		first = firstMark(d)
	}
	if first == doneMark {
		w.done = true
		return
	}
	w.content++
	w.done = w.done || first == typeMark || lastIsTerminal(d[max(0, len(d)-window):])
	if c := tailCounts(d, window); c.has != 0 {
		w.hasUsage = true
		c.update(&w.usage)
	}
}

// A mark is what the first bytes of an event's data say of the stream's end.
type mark uint8

const (
	noMark   mark = iota
	doneMark      // [DONE]
	typeMark      // the type of an event that ends streams
)

// firstMark looks at the first members of d.
func firstMark(d []byte) mark {
	d = d[:min(len(d), 128)]
	if len(d) == 0 || d[0] == '[' {
		if bytes.HasPrefix(d, []byte("[DONE]")) {
			return doneMark
		}
		return noMark
	}
	for sep := byte('{'); ; sep = ',' {
		i := space(d, 0)
		if i == len(d) || d[i] != sep {
			return noMark
		}
		d = d[space(d, i+1):]
		end := stringEnd(d, 0)
		if end < 0 {
			return noMark
		}
		key := d[:end]
		i = space(d, end)
		if i == len(d) || d[i] != ':' {
			return noMark
		}
		d = d[space(d, i+1):]
		if string(key) == `"type"` {
			if end := stringEnd(d, 0); end > 0 && isTerminal(d[1:end-1]) {
				return typeMark
			}
			return noMark
		}
		n := 0
		for n < len(d) && (isDigit(d[n]) || d[n] == '.' || d[n] == '-') {
			n++
		}
		if n == 0 {
			return noMark
		}
		d = d[n:]
	}
}

// lastIsTerminal reports whether the last member of d is the type of an event
// that ends streams.
func lastIsTerminal(d []byte) bool {
	if n := len(d); n < 2 || d[n-1] == '}' && d[n-2] != '"' && !isSpace(d[n-2]) {
		return false // most events: they end with an object or an array
	}
	d, ok := cutEnd(d, "}")
	if !ok {
		return false
	}
	if d, ok = cutEnd(d, `"`); !ok {
		return false
	}
	i := bytes.LastIndexByte(d[max(0, len(d)-maxTerminal-1):], '"')
	if i < 0 {
		return false
	}
	i += max(0, len(d)-maxTerminal-1)
	if !isTerminal(d[i+1:]) {
		return false
	}
	if d, ok = cutEnd(d[:i], ":"); !ok {
		return false
	}
	if d, ok = cutEnd(d, `"type"`); !ok {
		return false
	}
	_, begins := cutEnd(d, "{")
	_, follows := cutEnd(d, ",")
	return begins || follows
}

// cutEnd takes end, and white space behind it, from the end of d.
func cutEnd(d []byte, end string) ([]byte, bool) {
	for len(d) > 0 && isSpace(d[len(d)-1]) {
		d = d[:len(d)-1]
	}
	return bytes.CutSuffix(d, []byte(end))
}

const maxTerminal = len("response.incomplete")

// isTerminal reports whether name is that of an event behind which nothing
// comes.
func isTerminal(name []byte) bool {
	switch string(name) {
	case "message_stop", "response.completed", "response.failed", "response.incomplete":
		return true
	}
	return false
}
