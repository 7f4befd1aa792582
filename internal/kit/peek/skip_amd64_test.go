//go:build unix

package peek

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"
)

// A mode is one of the ways to read strings.
type mode struct {
	name                string
	avx2, avx512, vbmi2 bool
	skip                func(b []byte, i int) int // nil if there is none
}

// vectors are the modes with vectors that this machine has.
func vectors(t testing.TB) []mode {
	var modes []mode
	if hasAVX2 {
		modes = append(modes, mode{"AVX2", true, false, false, skipAVX2})
	}
	if hasAVX512 {
		modes = append(modes, mode{"AVX-512", true, true, hasVBMI2, skipAVX512})
	}
	if len(modes) == 0 {
		t.Skip("this machine has neither AVX2 nor AVX-512")
	}
	return modes
}

// set makes m what strings are read by, until the function that it returns is
// called.
func (m mode) set() (reset func()) {
	old2, old512, oldVBMI2 := hasAVX2, hasAVX512, hasVBMI2
	hasAVX2, hasAVX512, hasVBMI2 = m.avx2, m.avx512, m.vbmi2
	return func() { hasAVX2, hasAVX512, hasVBMI2 = old2, old512, oldVBMI2 }
}

// sameString holds that in each mode the string that begins in b at i ends, or
// fails, as it does a byte at a time.
func sameString(t *testing.T, modes []mode, b []byte, i int) {
	t.Helper()
	want := scanner{b: b}
	wantEnd := want.strRest(i)
	for _, m := range modes {
		at := m.skip(b, i)
		got := scanner{b: b}
		if end := got.strRest(at); at < i || at > len(b) || end != wantEnd || got.off != want.off || got.where != want.where {
			t.Fatalf("%s: %q from %d on: skipped to %d, and ends at %d (%d, %q), want %d (%d, %q)",
				m.name, b, i, at, end, got.off, got.where, wantEnd, want.off, want.where)
		}
		if at < want.off-skipEnd-64 || wantEnd >= 0 && at < wantEnd-1-skipEnd {
			t.Fatalf("%s: %q from %d on: skipped only to %d", m.name, b, i, at)
		}
	}
}

// pieces are what matters in a string, and what only seems to.
var pieces = []string{
	`"`, `\"`, `\\`, `\\"`, `\\\"`, `\\\\"`, `\/\b\f\n\r\t`, `\u0000`, `\u00e9`, `\uABCD"`, `\uFfFf\uD83d\n`, `\\u12"`, `\\\u1234`,
	`\`, `\x`, `\U0000`, `\u`, `\u"`, `\u1`, `\u12"`, `\u12\"`, `\u123`, `\u123g`, `\u\u1234`, `\u1\u1234`, `\u12\u1234`, `\u123\u1234`, `\u123"`, "\\\n", "\\\x00", "\\\xa2",
	"\x00", "\x1f", "\n", "\t", "\x1f\"", "\"\x1f", " ", "!", "#", "\x7f", "\x80", "\xa2", "\xdc", "\xff", "é", "🐎",
	`\u00:0`, `\u00/0`, `\u00@0`, `\u00G0`, "\\u00`0", `\u00g0`, "\\u00\xb00", "\\u00\xe10", "\\u00\x100",
}

// TestStringsAtEveryBorder puts each piece at every place of a block and at
// every distance from the end of the body.
func TestStringsAtEveryBorder(t *testing.T) {
	modes := vectors(t)
	for _, piece := range pieces {
		for before := range 70 {
			text := strings.Repeat("x", before) + piece + strings.Repeat("y", 140) + `"`
			for end := before; end <= len(text); end++ {
				if end == before+len(piece)+8 {
					end = max(end, len(text)-8-before%64)
				}
				sameString(t, modes, []byte(text[:end]), 0)
				sameEnd(t, modes, []byte(text[:end]))
			}
		}
	}
}

// TestEveryByte asks of each byte whether it is a stop, may be escaped, and is a
// hex digit.
func TestEveryByte(t *testing.T) {
	modes := vectors(t)
	for c := range 256 {
		for at := 0; at < 64; at += 3 {
			for _, f := range []string{"%s%c", `%s\%c`, `%s\u%c000`, `%s\u000%c`, `%s\\%c`} {
				text := bytes.ReplaceAll(fmt.Appendf(nil, f, strings.Repeat("x", at), '#'), []byte("#"), []byte{byte(c)})
				text = append(text, strings.Repeat("y", 70)+`"`...)
				sameString(t, modes, text, 0)
				sameEnd(t, modes, text)
			}
		}
	}
}

// TestRunsOfBackslashes ends runs of every length, at every place, in a quote.
func TestRunsOfBackslashes(t *testing.T) {
	modes := vectors(t)
	for before := range 66 {
		for run := range 200 {
			text := strings.Repeat("x", before) + strings.Repeat(`\`, run) + `"` + strings.Repeat("y", 70) + `"`
			sameString(t, modes, []byte(text), 0)
			sameEnd(t, modes, []byte(text))
		}
	}
}

// TestStringsOfPieces reads random strings from every alignment.
func TestStringsOfPieces(t *testing.T) {
	modes := vectors(t)
	r := rand.New(rand.NewPCG(1, 2))
	good := pieces[1:13]
	for range 500 {
		var text []byte
		for len(text) < 300 {
			switch n := r.IntN(100); {
			case n < 60:
				text = append(text, "plain text of a prompt "[:r.IntN(24)]...)
			case n < 99:
				text = append(text, strings.TrimSuffix(good[r.IntN(len(good))], `"`)...)
			default:
				text = append(text, pieces[r.IntN(len(pieces))]...)
			}
		}
		text = append(text, '"')
		for i := range 64 {
			if i > 0 && text[i-1] == '\\' {
				continue
			}
			sameString(t, modes, text[:len(text)-r.IntN(4)], i)
			sameEnd(t, modes, text[i:len(text)-r.IntN(4)])
		}
	}
}

// TestNothingBesideTheBodyIsRead lets bodies begin and end where there is no
// memory.
func TestNothingBesideTheBodyIsRead(t *testing.T) {
	modes := vectors(t)
	page := syscall.Getpagesize()
	all, err := syscall.Mmap(-1, 0, 3*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Munmap(all); err != nil {
			t.Error(err)
		}
	}()
	for _, guard := range [][]byte{all[:page], all[2*page:]} {
		if err := syscall.Mprotect(guard, syscall.PROT_NONE); err != nil {
			t.Fatal(err)
		}
	}
	room := all[page : 2*page]
	for _, text := range []string{
		strings.Repeat("x", 300), strings.Repeat("x", 299) + `"`, strings.Repeat(`\n`, 150), strings.Repeat(`\u00e9`, 50),
		strings.Repeat("x", 299) + `\`, strings.Repeat("x", 298) + `\u`, strings.Repeat("x", 296) + `\u12`,
	} {
		for n := range len(text) + 1 {
			last := room[page-n:]
			copy(last, text[len(text)-n:])
			first := room[:n]
			copy(first, text[len(text)-n:])
			for i := 0; i <= n; i += 1 + i/70*30 {
				sameString(t, modes, last, i)
				sameString(t, modes, first, i)
			}
			if s := (scanner{b: append(bytes.Clone(last), '"')}); s.strRest(0) == n+1 {
				sameText(t, modes, last)
				sameText(t, modes, first)
				appendUnescaped(last[:0:n], bytes.Clone(first)) // up to the guard
				if hasText() {
					textAVX512(last, bytes.Clone(first))
					textAVX512(bytes.Clone(first), last)
				}
			}
		}
	}
}

// TestLongStringsAreReadInSteps puts pieces where a step ends.
func TestLongStringsAreReadInSteps(t *testing.T) {
	const tail = 200
	text := bytes.Repeat([]byte("x"), skipStep+tail)
	for _, m := range vectors(t) {
		reset := m.set()
		if at := skip(text, 0); at < len(text)-skipEnd {
			t.Errorf("%s: skipped only to %d of %d", m.name, at, len(text))
		}
		for _, piece := range []string{`"`, `\"`, `\\\"`, `\\\\\\\\\\`, `\u00e9"`, `\u00g9`, "\x00"} {
			for before := skipStep - 66; before < skipStep+2; before += 1 + (skipStep-before)/10 {
				b := bytes.Clone(text)
				copy(b[before:], piece)
				b[len(b)-1] = '"'
				want, got := scanner{b: b}, scanner{b: b}
				if wantEnd, end := want.strRest(skipStep-tail), got.str(0); end != wantEnd || got.off != want.off || got.where != want.where {
					t.Fatalf("%s: with %q at %d: ends at %d (%d, %q), want %d (%d, %q)", m.name, piece, before, end, got.off, got.where, wantEnd, want.off, want.where)
				}
			}
		}
		reset()
	}
}

// sameText holds that in each mode the inside of a sound string reads as it does
// an escape at a time, with room for it and without, and that nothing else is
// written.
func sameText(t *testing.T, modes []mode, raw []byte) {
	t.Helper()
	var want []byte
	for i := 0; i < len(raw); {
		if raw[i] != '\\' {
			want = append(want, raw[i])
			i++
			continue
		}
		r, n := unescape(raw[i:])
		want = utf8.AppendRune(want, r)
		i += n
	}
	for _, m := range append(modes, mode{name: "no vectors"}) {
		reset := m.set()
		for _, body := range [][]byte{append(bytes.Clone(raw), '"'), append(bytes.Clone(raw), `","name":"read"`...)} {
			room := bytes.Repeat([]byte("#"), 2+len(body)+80)
			s := scanner{b: body}
			got, end := s.appendStr(room[:2:2+len(body)], 0)
			small, smallEnd := s.appendStr(nil, 0)
			if string(got) != "##"+string(want) || end != len(raw)+1 || string(small) != string(want) || smallEnd != end {
				t.Fatalf("%s: %q reads %q up to %d, and %q up to %d; want %q, %d", m.name, body, got[2:], end, small, smallEnd, want, len(raw)+1)
			}
			if rest := room[2+len(body):]; string(rest) != strings.Repeat("#", 80) {
				t.Fatalf("%s: %q: written behind the room for it: %q", m.name, body, rest)
			}
		}
		reset()
	}
}

// sameEnd holds that in each mode what is appended of a string that may be
// unsound is what the plain way appends.
func sameEnd(t *testing.T, modes []mode, b []byte) {
	t.Helper()
	reset := mode{}.set()
	want := scanner{b: b}
	wantText, wantEnd := want.appendStr(nil, 0)
	reset()
	for _, m := range modes {
		reset := m.set()
		got := scanner{b: b}
		text, end := got.appendStr(nil, 0)
		reset()
		if string(text) != string(wantText) || end != wantEnd || got.off != want.off || got.where != want.where {
			t.Fatalf("%s: %q reads %q up to %d (%d, %q), want %q, %d (%d, %q)", m.name, b, text, end, got.off, got.where, wantText, wantEnd, want.off, want.where)
		}
	}
}

// sound are the pieces that may stand inside a string.
func sound() (list []string) {
	for _, piece := range pieces {
		s := scanner{b: []byte(piece + `"`)}
		if s.strRest(0) == len(s.b) {
			list = append(list, piece)
		}
	}
	return list
}

// TestTextAtEveryBorder puts each piece that can be text at every place of a
// block and at every distance from the end, and ends and begins text with it.
func TestTextAtEveryBorder(t *testing.T) {
	modes := vectors(t)
	for _, piece := range append(sound(), `\n\n`, `\ud83d\udc0e`, `\ud83d\n`, `\\\\\n\\`, strings.Repeat(`\`, 130), strings.Repeat(`\n`, 65)) {
		for before := range 68 {
			for after := range 68 {
				sameText(t, modes, []byte(strings.Repeat("x", before)+piece+strings.Repeat("y", after)))
			}
		}
	}
}

// TestTextOfPieces reads random text.
func TestTextOfPieces(t *testing.T) {
	modes := vectors(t)
	r := rand.New(rand.NewPCG(1, 2))
	list := sound()
	for range 3000 {
		var text []byte
		for size := r.IntN(400); len(text) < size; {
			text = append(text, "plain text of a prompt "[:r.IntN(24)]...)
			text = append(text, list[r.IntN(len(list))]...)
		}
		sameText(t, modes, text)
	}
}

// TestLongTextIsReadInSteps puts escapes where a step ends.
func TestLongTextIsReadInSteps(t *testing.T) {
	modes := vectors(t)
	for before := skipStep - 7; before < skipStep+2; before++ {
		sameText(t, modes, []byte(strings.Repeat("x", before)+`\\\n\u00e9`+strings.Repeat("y", 100)))
	}
}

// FuzzSkip holds that vectors make no difference: not to a string that begins
// anywhere in a body, and not to what is found in the body and said of it, and not to its
// text.
func FuzzSkip(f *testing.F) {
	for _, piece := range pieces {
		f.Add([]byte(`{"a":"`+strings.Repeat("x", 60)+piece+strings.Repeat("y", 60)+`","model":1}`), 3)
	}
	f.Add(chat(600, 200, escapes), 70)
	f.Add([]byte(`{"role":"user","content":["`+strings.Repeat(`text\n\ud83d\udc0e`, 20)+`",1,22, 333,{"text":"\\\""}]}`), 30)
	f.Add(tools(900), 10)
	f.Add(ids(300, ", "), 10)
	f.Fuzz(func(t *testing.T, b []byte, i int) {
		modes := vectors(t)
		if i >= 0 && i <= len(b) {
			sameString(t, modes, b, i)
		}
		reset := mode{}.set()
		var want [3]Value
		wantErr := Object(b, routing, want[:])
		wantText := AppendText(nil, b)
		reset()
		for _, m := range modes {
			reset := m.set()
			var got [3]Value
			err := Object(b, routing, got[:])
			text := AppendText(nil, b)
			reset()
			if got != want || fmt.Sprintf("%T %[1]v", err) != fmt.Sprintf("%T %[1]v", wantErr) {
				t.Fatalf("%s: %q: %v, %v, want %v, %v", m.name, b, got, err, want, wantErr)
			}
			if !bytes.Equal(text, wantText) {
				t.Fatalf("%s: %q has the text %q, want %q", m.name, b, text, wantText)
			}
		}
	})
}
