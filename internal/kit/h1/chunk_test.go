package h1

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// chunkCases are chunked bodies. data is what can be decoded of them, and want
// the refusal, in the words of readRequests; empty if there is none.
var chunkCases = []struct {
	section, name, in, data, want string
}{
	{"9112 §7.1", "chunks", "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "hello world", ""},
	{"9112 §7.1", "nothing", "0\r\n\r\n", "", ""},
	{"9112 §7.1", "digits have no case", "a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789", ""},
	{"9112 §7.1", "data that looks like an end", "5\r\n0\r\n\r\n\r\n0\r\n\r\n", "0\r\n\r\n", ""},
	{"9112 §7.1", "leading zeros", "0001\r\nx\r\n000\r\n\r\n", "x", ""},
	{"9112 §7.1", "sixteen digits", "0000000000000001\r\nx\r\n0\r\n\r\n", "x", ""},
	{"9112 §7.1", "seventeen digits", "00000000000000001\r\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1"},
	{"9112 §7.1", "would overflow to 1", "10000000000000001\r\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1"},
	{"9112 §7.1", "larger than any chunk", "4000000000000001\r\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1"},
	{"9112 §7.1", "negative if it is signed", "ffffffffffffffff\r\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1"},
	{"9112 §7.1", "no digits", "\r\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1"},
	{"9112 §7.1", "0x", "0x1\r\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1"},
	{"9112 §7.1", "minus", "-1\r\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1"},
	{"9112 §7.1", "plus", "+1\r\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1"},
	{"9112 §7.1", "underscore", "1_0\r\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1"},
	{"9112 §7.1", "letter that is no digit", "1g\r\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1"},
	{"9112 §7.1", "space before", " 1\r\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1"},
	{"9112 §7.1", "space after", "1 \r\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1"},
	{"9112 §7.1", "tab after", "1\t\r\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1"},
	{"9112 §7.1", "NUL after", "1\x00\r\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1"},
	{"9112 §7.1", "two carriage returns", "1\r\r\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1"},
	{"9112 §7.1", "line feed alone", "1\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1"},
	{"9112 §7.1", "carriage return alone", "1\rx\r\n0\r\n\r\n", "", "!400 9112 §7.1"},
	{"9112 §7.1", "data shorter than its size", "2\r\nx\r\n0\r\n\r\n", "x\r", "!400 9112 §7.1"},
	{"9112 §7.1", "data longer than its size", "1\r\nxy\r\n0\r\n\r\n", "x", "!400 9112 §7.1"},
	{"9112 §7.1", "data that a line feed ends", "1\r\nx\n0\r\n\r\n", "x", "!400 9112 §7.1"},
	{"9112 §7.1", "data that a carriage return ends", "1\r\nx\r0\r\n\r\n", "x", "!400 9112 §7.1"},
	{"9112 §7.1", "data that nothing ends", "1\r\nx0\r\n\r\n", "x", "!400 9112 §7.1"},

	{"9112 §7.1.1", "an extension", "1;a\r\nx\r\n0;b=c\r\n\r\n", "x", ""},
	{"9112 §7.1.1", "several, with whitespace", "1; a ; b = c\t;d=\"e;f\\\"g\" ;h=\"\"\r\nx\r\n0\r\n\r\n", "x", ""},
	{"9112 §7.1.1", "space before the first", "1 ;a\r\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1"},
	{"9112 §7.1.1", "no name", "1;\r\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1.1"},
	{"9112 §7.1.1", "no names", "1;;;;\r\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1.1"},
	{"9112 §7.1.1", "no value", "1;a=\r\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1"},
	{"9112 §7.1.1", "two words", "1;a b\r\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1.1"},
	{"9112 §7.1.1", "two values", "1;a=b c\r\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1.1"},
	{"9112 §7.1.1", "a word after quotes", "1;a=\"b\"c\r\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1.1"},
	{"9112 §7.1.1", "quotes that do not end", "1;a=\"b\r\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1"},
	{"9112 §7.1.1", "line feed in an extension", "1;a\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1"},
	{"9112 §7.1.1", "carriage return in an extension", "1;a\rx\r\n0\r\n\r\n", "", "!400 9112 §7.1"},
	{"9112 §7.1.1", "line feed in quotes", "1;a=\"\n\"\r\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1"},
	{"9112 §7.1.1", "an escaped line feed", "1;a=\"\\\n\"\r\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1"},
	{"9112 §7.1.1", "NUL", "1;a\x00\r\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1.1"},
	{"9112 §7.1.1", "too long", "1;" + strings.Repeat("a", 4<<10) + "\r\nx\r\n0\r\n\r\n", "", "!400 9112 §7.1.1"},

	{"9112 §7.1.2", "trailers", "1\r\nx\r\n0\r\nX-Sum: 1\r\nGrpc-Status:0\r\nA-Name-That-Is-Longer-Than-Any-That-Is-Refused: \xff\t\r\n\r\n", "x", ""},
	{"9112 §7.1.2", "no end", "0\r\nX:\r\n", "", "!400 9112 §5.1"}, // what follows is a line of words
	{"9112 §5.2", "obs-fold in trailers", "0\r\nX: y\r\n z\r\n\r\n", "", "!400 9112 §5.2"},
	{"9112 §5.1", "space before the colon in trailers", "0\r\nX : y\r\n\r\n", "", "!400 9112 §5.1"},
	{"9110 §5.1", "no name in trailers", "0\r\n: y\r\n\r\n", "", "!400 9110 §5.1"},
	{"9110 §5.1", "no colon in trailers", "0\r\nX\r\n\r\n", "", "!400 9110 §5.1"},
	{"9110 §5.1", "something like a request in trailers", "0\r\nX", "", "!400 9112 §5.1"},
	{"9110 §5.5", "NUL in trailers", "0\r\nX: \x00\r\n\r\n", "", "!400 9110 §5.5"},
	{"9112 §2.2", "line feed alone in trailers", "0\r\nX: y\n\r\n", "", "!400 9112 §2.2"},
	{"9112 §2.2", "carriage return alone in trailers", "0\r\nX: y\rZ: z\r\n\r\n", "", "!400 9112 §2.2"},
	{"9112 §2.2", "line feed ends the body", "0\r\n\n", "", "!400 9112 §2.2"},
	{"9112 §2.2", "carriage return ends the body", "0\r\n\r", "", "!400 9112 §2.2"},
	{"9110 §6.5.1", "Content-Length in trailers", "0\r\nContent-Length: 1\r\n\r\n", "", "!400 9110 §6.5.1"},
	{"9110 §6.5.1", "Transfer-Encoding in trailers", "0\r\nX: y\r\ntransfer-ENCODING: chunked\r\n\r\n", "", "!400 9110 §6.5.1"},
	{"9110 §6.5.1", "Host in trailers", "0\r\nHost: b\r\n\r\n", "", "!400 9110 §6.5.1"},
	{"9110 §6.5.1", "Authorization in trailers", "0\r\nAuthorization: b\r\n\r\n", "", "!400 9110 §6.5.1"},
	{"9110 §6.5.1", "Cookie in trailers", "0\r\nCookie: b\r\n\r\n", "", "!400 9110 §6.5.1"},
	{"9110 §6.5.1", "X-Forwarded-For in trailers", "0\r\nX-Forwarded-For: b\r\n\r\n", "", "!400 9110 §6.5.1"},
}

// TestForbiddenTrailers holds that the scanner keeps enough of a name to know
// it, and that its own list is whole.
func TestForbiddenTrailers(t *testing.T) {
	var s ChunkScanner
	names := append([]string{"transfer-encoding", "content-length", "host", "connection", "keep-alive", "trailer", "te", "expect", "upgrade",
		"proxy-authorization", "proxy-authenticate", "proxy-connection"}, forbiddenTrailers[:]...)
	for _, name := range names {
		if len(name) >= len(s.name) {
			t.Errorf("%s is as long as what is kept of a name", name)
		}
		s.Reset(DefaultLimits())
		_, _, err := s.Scan([]byte("0\r\n" + strings.ToUpper(name) + ": x\r\n\r\n"))
		if !errors.Is(err, errTrailer) {
			t.Errorf("%s in a trailer: err = %v, want %v", name, err, errTrailer)
		}
		s.Reset(DefaultLimits())
		if _, done, err := s.Scan([]byte("0\r\n" + name + "-x: x\r\n\r\n")); !done || err != nil {
			t.Errorf("%s-x in a trailer: done %t, err %v; want it passed", name, done, err)
		}
	}
}

// scan follows in through s in pieces as a relay does, and returns what it
// would have passed on, the data that a watcher saw, and how it ended.
func scan(in string, cut []int) (passed, data, end string) {
	var s ChunkScanner
	s.Reset(DefaultLimits())
	from := 0
	for _, to := range append(cut, len(in)) {
		p := []byte(in[from:to])
		from = to
		for len(p) > 0 && !s.Done() {
			n, piece, err := s.Next(p)
			passed += string(p[:n])
			data += string(piece)
			if err != nil {
				return passed, data, err.Error()
			}
			p = p[n:]
		}
	}
	if s.Done() {
		return passed, data, "done"
	}
	return passed, data, "more"
}

// TestScanPassesFramingOn holds that what is scanned is what was sent, up to
// the body's end, and that Scan and Next agree.
func TestScanPassesFramingOn(t *testing.T) {
	for _, c := range chunkCases {
		const after = "HTTP/1.1 200 OK\r\n"
		in := c.in + after
		passed, data, end := scan(in, nil)
		switch {
		case data != c.data:
			t.Errorf("%s: data %q, want %q", c.name, data, c.data)
		case c.want == "" && (passed != c.in || end != "done"):
			t.Errorf("%s: passed %q and is %s; want all of %q and done", c.name, passed, end, c.in)
		case c.want != "" && (end == "done" || end == "more" && !strings.HasPrefix(c.name, "no end")):
			t.Errorf("%s: is %s, want an error", c.name, end)
		}
		for _, cut := range cuts(len(in)) {
			if p, d, e := scan(in, cut); p != passed || d != data || e != end {
				t.Fatalf("%s cut at %v: (%q, %q, %s), want (%q, %q, %s)", c.name, cut, p, d, e, passed, data, end)
			}
		}
		var s ChunkScanner
		s.Reset(DefaultLimits())
		n, done, err := s.Scan([]byte(in))
		if n != len(passed) || done != (end == "done") || err != nil && err.Error() != end {
			t.Errorf("%s: Scan gives (%d, %t, %v), Next gives (%d, %s)", c.name, n, done, err, len(passed), end)
		}
	}
}

func TestScannerKeepsItsError(t *testing.T) {
	var s ChunkScanner
	s.Reset(DefaultLimits())
	n, done, err := s.Scan([]byte("1\r\nxyz"))
	if n != 4 || done || err == nil {
		t.Fatalf("Scan = (%d, %t, %v), want 4 good bytes and an error", n, done, err)
	}
	if n, done, again := s.Scan([]byte("\r\n0\r\n\r\n")); n != 0 || done || !errors.Is(again, err) {
		t.Errorf("then (%d, %t, %v), want nothing but the same error", n, done, again)
	}
}

// TestBodyReadings holds that the three readings of a body agree, whatever its
// framing and however it is cut.
func TestBodyReadings(t *testing.T) {
	const after = "HTTP/1.1 200 OK\r\n\r\n"
	tests := []struct {
		framing Framing
		length  int64
		wire    string
		data    string
	}{
		{FramingNone, -1, "", ""},
		{FramingNone, 5, "", ""}, // an answer to HEAD
		{FramingLength, 0, "", ""},
		{FramingLength, 5, "hello", "hello"},
		{FramingChunked, -1, "2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nX: y\r\n\r\n", "hello"},
	}
	for _, tt := range tests {
		for _, cut := range cuts(len(tt.wire) + len(after)) {
			for how, read := range map[string]func(*Body, []byte) (int, []byte, error){
				"Scan": func(b *Body, p []byte) (int, []byte, error) { n, _, err := b.Scan(p); return n, nil, err },
				"Next": (*Body).Next,
				"Decode": func(b *Body, p []byte) (int, []byte, error) {
					dst := make([]byte, 3)
					w, r, err := b.Decode(dst, p)
					return r, dst[:w], err
				},
				"Decode in place": func(b *Body, p []byte) (int, []byte, error) {
					p = []byte(string(p))
					w, r, err := b.Decode(p, p)
					return r, p[:w], err
				},
			} {
				var b Body
				b.Reset(tt.framing, tt.length, DefaultLimits())
				var wire, data string
				from := 0
				for _, to := range append(append([]int{}, cut...), len(tt.wire)+len(after)) {
					p := []byte((tt.wire + after)[from:to])
					from = to
					for len(p) > 0 && !b.Done() {
						n, d, err := read(&b, p)
						if err != nil {
							t.Fatalf("%s of %v: %v", how, tt, err)
						}
						wire += string(p[:n])
						data += string(d)
						p = p[n:]
					}
				}
				if wire != tt.wire || how != "Scan" && data != tt.data || !b.Done() || b.End() != nil {
					t.Fatalf("%s of %v cut at %v took %q with data %q, done %t", how, tt, cut, wire, data, b.Done())
				}
				if n, _, err := read(&b, []byte(after)); n != 0 || err != nil {
					t.Fatalf("%s of %v took %d bytes of the next message, err %v", how, tt, n, err)
				}
			}
		}
	}
}

func TestDecodeStopsWhenFull(t *testing.T) {
	var b Body
	b.Reset(FramingChunked, -1, DefaultLimits())
	dst := make([]byte, 5)
	src := []byte("2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\nGET")
	w, r, err := b.Decode(dst, src)
	if w != 5 || string(src[r:]) != "GET" || err != nil || !b.Done() {
		t.Errorf("a body that fits: Decode = (%d, %d, %v), done %t; want 5, all of its %d, done", w, r, err, b.Done(), len(src)-3)
	}

	b.Reset(FramingChunked, -1, DefaultLimits())
	w, r, err = b.Decode(dst[:4], src)
	if w != 4 || string(dst[:4]) != "hell" || err != nil || b.Done() || src[r] != 'o' {
		t.Errorf("a body that does not: Decode = (%d, %d, %v), done %t; want 4, up to the o", w, r, err, b.Done())
	}
	if w, r, err := b.Decode(nil, src[r:]); w != 0 || r != 0 || err != nil || b.Done() {
		t.Errorf("into nothing: Decode = (%d, %d, %v), done %t; want nothing", w, r, err, b.Done())
	}
}

func TestBodyUntilClose(t *testing.T) {
	var b Body
	b.Reset(FramingClose, -1, DefaultLimits())
	n, done, err := b.Scan([]byte("anything"))
	if n != 8 || done || err != nil || b.Done() {
		t.Errorf("Scan = (%d, %t, %v), want 8 bytes and no end", n, done, err)
	}
	if err := b.End(); err != nil || !b.Done() {
		t.Errorf("End = %v, done %t; the connection's end is the body's", err, b.Done())
	}
	b.Reset(FramingLength, 5, DefaultLimits())
	if err := b.End(); err == nil {
		t.Error("a connection ended inside a body of known length, and End says nothing")
	}
}

func ExampleChunkScanner_Next() {
	var s ChunkScanner
	s.Reset(DefaultLimits())
	p := []byte("5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\nHTTP/1.1 200 OK")
	for !s.Done() {
		n, data, err := s.Next(p)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("pass %q, which holds %q\n", p[:n], data)
		p = p[n:]
	}
	fmt.Printf("the next message begins %q\n", p)
	// Output:
	// pass "5\r\nhello\r\n7\r\n", which holds "hello"
	// pass ", world\r\n0\r\n\r\n", which holds ", world"
	// the next message begins "HTTP/1.1 200 OK"
}
