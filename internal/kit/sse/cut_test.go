package sse

import (
	"bytes"
	"strings"
	"testing"
)

func TestEventsAreCutOff(t *testing.T) {
	for _, tt := range []struct {
		in     string
		events []string
		rest   string
	}{
		{"", nil, ""},
		{"data: a\n", nil, "data: a\n"},
		{"data: a\n\ndata: b\n\nda", []string{"data: a\n\n", "data: b\n\n"}, "da"},
		{"data: a\r\n\r\ndata: b\r\n\r\n", []string{"data: a\r\n\r\n", "data: b\r\n\r\n"}, ""},
		{"data: a\r\n\r", nil, "data: a\r\n\r"},
		{"data: a\r\rdata: b\r\r", []string{"data: a\r\r", "data: b\r\r"}, ""},
		{"data: a\r\r\ndata: b\r\r", []string{"data: a\r\r\n", "data: b\r\r"}, ""},
		{"data: a\n\r", nil, "data: a\n\r"},
		{"data: a\r", nil, "data: a\r"},
		{"\r", nil, "\r"},
		{"\n\n: note\n\n", []string{"\n", "\n", ": note\n\n"}, ""},
		{"event: x\ndata: 1\ndata: 2\n\n", []string{"event: x\ndata: 1\ndata: 2\n\n"}, ""},
	} {
		p := []byte(tt.in)
		var got []string
		for {
			e, rest, ok := Cut(p)
			if !ok {
				break
			}
			got, p = append(got, string(e)), rest
		}
		if strings.Join(got, "|") != strings.Join(tt.events, "|") || string(p) != tt.rest {
			t.Errorf("%q: %q and %q, want %q and %q", tt.in, got, p, tt.events, tt.rest)
		}
	}
}

// FuzzCut holds that nothing is lost, and that it does not matter in which
// pieces the bytes come: the events are the same, but for an LF after two CRs. It
// is the end's if it has come with them, and else an empty line of its own.
func FuzzCut(f *testing.F) {
	f.Add([]byte("data: a\r\n\r\ndata: b\n\n"), 3)
	f.Add([]byte("data: a\r\r\ndata: b\n\n"), 9)
	f.Add([]byte("data: a\r\r\n\ndata: b\r\r"), 9)
	f.Fuzz(func(t *testing.T, p []byte, at int) {
		var whole, pieces [][]byte
		rest := p
		for {
			e, r, ok := Cut(rest)
			if !ok {
				break
			}
			whole, rest = append(whole, e), r
		}
		if at < 0 || at > len(p) {
			at = len(p) / 2
		}
		buf := bytes.Clone(p[:at])
		for _, more := range [][]byte{nil, p[at:]} {
			buf = append(buf, more...)
			for {
				e, r, ok := Cut(buf)
				if !ok {
					break
				}
				if n := len(pieces) - 1; more != nil && n >= 0 && string(e) == "\n" && p[at] == '\n' && bytes.HasSuffix(pieces[n], []byte("\r\r")) && len(bytes.Join(pieces, nil)) == at {
					pieces[n] = append(pieces[n], e...)
				} else {
					pieces = append(pieces, bytes.Clone(e))
				}
				buf = bytes.Clone(r)
			}
		}
		if !bytes.Equal(bytes.Join(whole, []byte("|")), bytes.Join(pieces, []byte("|"))) || !bytes.Equal(rest, buf) {
			t.Errorf("whole: %q and %q; in pieces: %q and %q", whole, rest, pieces, buf)
		}
	})
}
