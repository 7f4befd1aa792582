package h1

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// cuts returns the ways in which a test feeds size bytes, each a list of
// places to cut at: not at all, everywhere, and in each place once. Inputs
// that are long because a limit is, are cut at their ends and here and there.
func cuts(size int) [][]int {
	all := [][]int{{}}
	every := []int{}
	for i := 1; i < size; i++ {
		every = append(every, i)
		if i < 300 || i > size-50 || i%97 == 0 {
			all = append(all, []int{i})
		}
	}
	return append(all, every)
}

// feeder hands out a connection's bytes in pieces, each time in new memory, so
// that whoever keeps an address instead of an offset is found out.
type feeder struct {
	in   string
	cuts []int
	have int    // bytes handed out
	buf  []byte // handed out, not taken
}

// more returns whether it could add to buf.
func (f *feeder) more() bool {
	if f.have == len(f.in) {
		return false
	}
	to := len(f.in)
	if len(f.cuts) > 0 {
		to, f.cuts = f.cuts[0], f.cuts[1:]
	}
	old := f.buf
	f.buf = append(slices.Clone(f.buf), f.in[f.have:to]...)
	for i := range old {
		old[i] = '!'
	}
	f.have = to
	return true
}

// body reads a body and returns what it holds, in quotes.
func (f *feeder) body(b *Body, small bool) (string, error) {
	var data []byte
	dst := make([]byte, 64)
	if small {
		dst = dst[:1]
	}
	for !b.Done() {
		w, r, err := b.Decode(dst, f.buf)
		data = append(data, dst[:w]...)
		f.buf = f.buf[r:]
		if err != nil {
			return fmt.Sprintf("%q", data), err
		}
		if w+r == 0 && !f.more() {
			err := b.End()
			return fmt.Sprintf("%q", data), err
		}
	}
	return fmt.Sprintf("%q", data), nil
}

// outcome says what an error is to a test: status and section.
func outcome(t *testing.T, err error) string {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v (%T) is no *Error", err, err)
	}
	return fmt.Sprintf("!%d %s", e.Status, e.Section)
}

// readRequests says in one line what a connection holds: its requests, each as
// method, target, authority, marks and body, and then how it ends: "…" for
// more input, "!" for an error.
func readRequests(t *testing.T, in string, cut []int, lim Limits) string {
	t.Helper()
	f := &feeder{in: in, cuts: cut}
	var h RequestHead
	var out []string
	for {
		n, err := ParseRequest(f.buf, &h, lim)
		if err != nil {
			return strings.Join(append(out, outcome(t, err)), " | ")
		}
		if n == 0 {
			if f.more() {
				continue
			}
			if len(f.buf) > 0 {
				out = append(out, "…")
			}
			return strings.Join(out, " | ")
		}
		said := sayRequest(&h)
		f.buf = f.buf[n:]
		if fr := h.Framing(); fr != FramingNone {
			var b Body
			b.Reset(fr, h.ContentLength, lim)
			data, err := f.body(&b, len(cut) > 1)
			said += " " + data
			if err != nil {
				return strings.Join(append(out, said, outcome(t, err)), " | ")
			}
		}
		out = append(out, said)
	}
}

func sayRequest(h *RequestHead) string {
	s := fmt.Sprintf("%s %s %s", h.Method, h.AppendTarget(nil), h.Authority)
	s = strings.TrimRight(s, " ")
	if !h.KeepAlive {
		s += " close"
	}
	if h.Chunked {
		s += " chunked"
	}
	if h.Expect100 {
		s += " expect"
	}
	if h.Upgrade != nil {
		s += " upgrade=" + string(h.Upgrade)
	}
	return s
}

// readResponses is readRequests for a connection's answers, all to method.
func readResponses(t *testing.T, in, method string, cut []int, lim Limits) string {
	t.Helper()
	f := &feeder{in: in, cuts: cut}
	var h ResponseHead
	var out []string
	for {
		n, err := ParseResponse(f.buf, &h, []byte(method), lim)
		if err != nil {
			return strings.Join(append(out, outcome(t, err)), " | ")
		}
		if n == 0 {
			if f.more() {
				continue
			}
			if len(f.buf) > 0 {
				out = append(out, "…")
			}
			return strings.Join(out, " | ")
		}
		said := sayResponse(&h)
		f.buf = f.buf[n:]
		if h.Framing != FramingNone {
			var b Body
			b.Reset(h.Framing, h.ContentLength, lim)
			data, err := f.body(&b, len(cut) > 1)
			said += " " + data
			if err != nil {
				return strings.Join(append(out, said, outcome(t, err)), " | ")
			}
		}
		out = append(out, said)
	}
}

func sayResponse(h *ResponseHead) string {
	s := strings.TrimRight(fmt.Sprintf("%d %s", h.Status, h.Reason), " ")
	if h.Interim {
		s += " interim"
	}
	if h.Framing == FramingChunked || h.Framing == FramingClose {
		s += " " + h.Framing.String()
	}
	if !h.KeepAlive && h.Framing != FramingClose {
		s += " close"
	}
	if h.IdleSeconds >= 0 {
		s += fmt.Sprintf(" timeout=%d", h.IdleSeconds)
	}
	if h.Requests >= 0 {
		s += fmt.Sprintf(" max=%d", h.Requests)
	}
	if h.Upgrade != nil {
		s += " upgrade=" + string(h.Upgrade)
	}
	return s
}
