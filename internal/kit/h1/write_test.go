package h1

import (
	"bytes"
	"fmt"
	"testing"
	"time"
)

func TestAppendRefusesWhatCouldSplit(t *testing.T) {
	line := func(method, target string) ([]byte, bool) {
		return AppendRequestLine([]byte("before "), method, target)
	}
	status := func(code int, reason string) ([]byte, bool) {
		return AppendStatusLine([]byte("before "), code, reason)
	}
	field := func(name, value string) ([]byte, bool) { return AppendField([]byte("before "), name, value) }
	length := func(n int64) ([]byte, bool) { return AppendContentLength([]byte("before "), n) }

	f := func(want string) func([]byte, bool) {
		return func(got []byte, ok bool) {
			t.Helper()
			if ok != (want != "") || string(got) != "before "+want {
				t.Errorf("got %q, %t; want %q", got, ok, "before "+want)
			}
		}
	}
	f("GET /a?b HTTP/1.1\r\n")(line("GET", "/a?b"))
	f("OPTIONS * HTTP/1.1\r\n")(line("OPTIONS", "*"))
	for _, bad := range []string{"", "a", "/a b", "/a\r\n", "/\n", "/\x00", "/#a", "/\xff", "**", "http://a/"} {
		f("")(line("GET", bad))
	}
	for _, bad := range []string{"", "GET /", "G\r\nT", "G:T", "GET "} {
		f("")(line(bad, "/"))
	}
	f("HTTP/1.1 200 OK\r\n")(status(200, "OK"))
	f("HTTP/1.1 599 \r\n")(status(599, ""))
	f("")(status(99, ""))
	f("")(status(600, ""))
	f("")(status(-200, ""))
	f("")(status(200, "OK\r\nX: y"))
	f("")(status(200, "\n"))
	f("X: y z\t\xff\r\n")(field("X", "y z\t\xff"))
	f("X: \r\n")(field("X", ""))
	for _, bad := range []string{"a\r\nb", "a\rb", "a\nb", "\x00", "\x7f", "a ", " a", "\ta", "a\t"} {
		f("")(field("X", bad))
	}
	for _, bad := range []string{"", "X ", "X:", "X\r\n", "\xc3\xa9", "X\n", "a b"} {
		f("")(field(bad, "y"))
	}
	f("Content-Length: 0\r\n")(length(0))
	f("Content-Length: 4611686018427387904\r\n")(length(maxLength))
	f("")(length(-1))
}

func TestAppendChunk(t *testing.T) {
	got := AppendChunk(nil, bytes.Repeat([]byte("x"), 26))
	got = AppendChunk(got, nil)
	got = append(got, LastChunk...)
	if want := "1a\r\nxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n0\r\n\r\n"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
	defer func() {
		if recover() == nil {
			t.Error("a chunk of no data, which is the last, was written as any other")
		}
	}()
	AppendChunkSize(nil, 0)
}

func TestDateField(t *testing.T) {
	var d DateField
	for _, second := range []int64{784111777, 784111777, 784111778, 0} {
		want := fmt.Sprintf("Date: %s\r\n", time.Unix(second, 0).UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT"))
		if got := string(d.Append([]byte("x"), second)); got != "x"+want {
			t.Errorf("second %d: %q, want %q", second, got, "x"+want)
		}
	}
}

func TestLists(t *testing.T) {
	f := func(value string, want ...string) {
		t.Helper()
		var got []string
		l := Elements([]byte(value))
		for e := l.Next(); e != nil; e = l.Next() {
			got = append(got, string(e))
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q holds %q, want %q", value, got, want)
		}
	}
	f("")
	f(" ,\t, ")
	f("a", "a")
	f(" a , b,,c d\t,", "a", "b", "c d")
	if !HasToken([]byte("x, Close"), "close") || HasToken([]byte("closed, not close"), "close") {
		t.Error("HasToken compares something else than whole elements without case")
	}
	for name, want := range map[string]bool{
		"Connection": true, "KEEP-ALIVE": true, "te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
		"Proxy-Connection": true, "Proxy-Authenticate": true, "Proxy-Authorization": true,
		"Host": false, "Content-Length": false, "Expect": false, "Tea": false, "": false,
	} {
		if got := IsHopByHop([]byte(name)); got != want {
			t.Errorf("IsHopByHop(%q) = %t, want %t", name, got, want)
		}
	}
}
