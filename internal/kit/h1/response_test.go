package h1

import (
	"strings"
	"testing"
)

const ok = "HTTP/1.1 200 OK\r\n"

// responseRows are answers to GET unless their name begins with a method.
var responseRows = []row{
	{"9112 §4", "a status line", ok + "Content-Length: 0\r\n\r\n", "200 OK"},
	{"9112 §4", "a reason of words", "HTTP/1.1 404 Not \xe9 Found\t!\r\nContent-Length: 0\r\n\r\n", "404 Not \xe9 Found\t!"},
	{"9112 §4", "no reason", "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", "200"},
	{"9112 §4", "nor the space before it", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "200"},
	{"9112 §4", "two digits", "HTTP/1.1 20 OK\r\n\r\n", "!502 9112 §4"},
	{"9112 §4", "four digits", "HTTP/1.1 2000 OK\r\n\r\n", "!502 9112 §4"},
	{"9112 §4", "no space before the status", "HTTP/1.1_200 OK\r\n\r\n", "!502 9112 §4"},
	{"9112 §4", "no space after the status", "HTTP/1.1 200_OK\r\n\r\n", "!502 9112 §4"},
	{"9112 §4", "nothing after the version", "HTTP/1.1 \r\n\r\n", "!502 9112 §4"},
	{"9112 §4", "a colon for a digit", "HTTP/1.1 20: OK\r\n\r\n", "!502 9112 §4"},
	{"9110 §15", "the lowest status", "HTTP/1.1 100 \r\n\r\n", "100 interim"},
	{"9110 §15", "the highest status", "HTTP/1.1 599 \r\nContent-Length: 0\r\n\r\n", "599"},
	{"9112 §4", "letters", "HTTP/1.1 2OO OK\r\n\r\n", "!502 9112 §4"},
	{"9112 §4", "plus", "HTTP/1.1 +20 OK\r\n\r\n", "!502 9112 §4"},
	{"9112 §4", "two spaces before the status", "HTTP/1.1  200 OK\r\n\r\n", "!502 9112 §4"},
	{"9112 §4", "tab after the status", "HTTP/1.1 200\tOK\r\n\r\n", "!502 9112 §4"},
	{"9112 §4", "NUL in the reason", "HTTP/1.1 200 O\x00K\r\n\r\n", "!502 9112 §4"},
	{"9112 §4", "another protocol", "SSH-2.0-OpenSSH", "!502 9112 §4"},
	{"9112 §4", "an empty line first", "\r\nHTTP/1.1 200 OK\r\n\r\n", "!502 9112 §4"},
	{"9112 §4", "nothing but a status line that is cut", "HTTP/1.1 200 O", "…"},
	{"9110 §15", "a status below 100", "HTTP/1.1 099 OK\r\n\r\n", "!502 9110 §15"},
	{"9110 §15", "a status above 599", "HTTP/1.1 600 OK\r\n\r\n", "!502 9110 §15"},
	{"9112 §2.3", "HTTP/1.0 closes", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", "200 OK close"},
	{"9110 §2.5", "a higher minor version", "HTTP/1.7 200 OK\r\nContent-Length: 0\r\n\r\n", "200 OK"},
	{"9110 §15.6.6", "another major version", "HTTP/2.0 200 OK\r\n\r\n", "!502 9110 §15.6.6"},
	{"9112 §2.3", "a version that is none", "HTTP/1,1 200 OK\r\n\r\n", "!502 9112 §2.3"},
	{"9112 §2.2", "line feed alone ends no status line", "HTTP/1.1 200 OK\nX: y\r\n\r\n", "!502 9112 §2.2"},
	{"9112 §2.2", "nor does a carriage return", "HTTP/1.1 200 OK\rX: y\r\n\r\n", "!502 9112 §2.2"},
	{"9112 §2.2", "line feed alone ends no field", ok + "X: y\n\r\n", "!502 9112 §2.2"},
	{"9112 §5.1", "space before the colon", ok + "Content-Length : 1\r\n\r\nx", "!502 9112 §5.1"},
	{"9112 §5.2", "obs-fold", ok + "X: y\r\n z\r\n\r\n", "!502 9112 §5.2"},
	{"9110 §5.5", "NUL in a value", ok + "X: \x00\r\n\r\n", "!502 9110 §5.5"},

	{"9112 §6.3", "a length", ok + "Content-Length: 2\r\n\r\nhiHTTP/1.1 204 No Content\r\n\r\n", "200 OK \"hi\" | 204 No Content"},
	{"9112 §6.3", "chunks", ok + "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX: y\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", "200 OK chunked \"hi\" | 204 No Content"},
	{"9112 §6.3", "neither: until close", ok + "\r\nhiHTTP/1.1 204 No Content\r\n\r\n", "200 OK close \"hiHTTP/1.1 204 No Content\\r\\n\\r\\n\""},
	{"9112 §6.3", "neither, and keep-alive: until close", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nhi", "200 OK close \"hi\""},
	{"9112 §8", "a body that is cut", ok + "Content-Length: 2\r\n\r\nh", "200 OK \"h\" | !400 9112 §8"},
	{"9112 §6.3", "HEAD has no body", ok + "Content-Length: 2\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", "200 OK | 204 No Content"},
	{"9112 §6.3", "HEAD has no chunks", ok + "Transfer-Encoding: chunked\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", "200 OK | 204 No Content"},
	{"9112 §6.3", "HEAD does not close", ok + "\r\nHTTP/1.1 204 No Content\r\n\r\n", "200 OK | 204 No Content"},
	{"9112 §6.3", "304 has no body", "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", "304 Not Modified | 204 No Content"},
	{"9112 §6.3", "304 has no chunks", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", "304 Not Modified | 204 No Content"},
	{"9112 §6.3", "CONNECT has no body", ok + "Content-Length: 2\r\n\r\n", "200 OK"},
	{"9112 §6.3", "CONNECT that failed has one", "HTTP/1.1 407 No\r\nContent-Length: 2\r\n\r\nhi", "407 No \"hi\""},
	{"9112 §6.3", "CONNECT that is sent elsewhere has one", "HTTP/1.1 300 No\r\nContent-Length: 2\r\n\r\nhi", "300 No \"hi\""},
	{"9112 §6.3", "205 has one like any other", "HTTP/1.1 205 Reset\r\nContent-Length: 2\r\n\r\nhi", "205 Reset \"hi\""},
	{"9110 §15.2", "interim answers come first", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + ok + "Content-Length: 2\r\n\r\nhi", "100 Continue interim | 103 Early Hints interim | 200 OK \"hi\""},
	{"9110 §15.2.2", "101 is final", "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", "101 Switching upgrade=websocket"},
	{"9112 §6.1", "1xx with chunks", "HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n", "!502 9112 §6.1"},
	{"9112 §6.1", "204 with chunks", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "!502 9112 §6.1"},
	{"9110 §8.6", "204 with a length", "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nhi", "!502 9110 §8.6"},
	{"9110 §8.6", "204 with a length of 0", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "204 No Content"},

	{"9112 §6.1", "a length and a coding", ok + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "!502 9112 §6.1"},
	{"9112 §6.1", "HEAD: a length and a coding", ok + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", "!502 9112 §6.1"},
	{"9112 §6.3", "two lengths that differ", ok + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nhi", "!502 9112 §6.3"},
	{"9112 §6.3", "two lengths that are equal", ok + "Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi", "!502 9112 §6.3"},
	{"9110 §8.6", "a length that is none", ok + "Content-Length: 2, 2\r\n\r\nhi", "!502 9110 §8.6"},
	{"9110 §8.6", "a length larger than any body", ok + "Content-Length: 99999999999999999999\r\n\r\nhi", "!502 9110 §8.6"},
	{"9112 §6.1", "another coding", ok + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "!502 9112 §6.1"},
	{"9112 §6.3", "another coding until close", ok + "Transfer-Encoding: gzip\r\n\r\nhi", "!502 9112 §6.3"},
	{"9112 §6.1", "a coding in 1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "!502 9112 §6.1"},
	{"9112 §6.1", "two codings", ok + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "!502 9112 §6.1"},

	{"9112 §9.3", "close", ok + "Connection: close\r\nContent-Length: 0\r\n\r\n", "200 OK close"},
	{"9112 §9.3", "1.0 may keep its connection", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi", "200 OK \"hi\""},
	{"2068 §19.7.1.1", "how long it will keep it", ok + "Keep-Alive: timeout=5, max=100\r\nContent-Length: 0\r\n\r\n", "200 OK timeout=5 max=100"},
	{"2068 §19.7.1.1", "a part of that", ok + "Keep-Alive: TIMEOUT = 7 ,, x, max=x\r\nContent-Length: 0\r\n\r\n", "200 OK timeout=7"},
	{"2068 §19.7.1.1", "forever", ok + "Keep-Alive: timeout=4611686018427387904\r\nContent-Length: 0\r\n\r\n", "200 OK timeout=1073741824"},
	{"9112 §3.2", "Host means nothing in an answer", ok + "Host: a\r\nHost: b c\r\nContent-Length: 0\r\n\r\n", "200 OK"},
	{"9110 §10.1.1", "nor does Expect", ok + "Expect: x\r\nContent-Length: 0\r\n\r\n", "200 OK"},
}

func TestResponses(t *testing.T) {
	for _, r := range responseRows {
		t.Run(r.section+"/"+r.name, func(t *testing.T) {
			method, _, _ := strings.Cut(r.name, " ")
			if method != "HEAD" && method != "CONNECT" {
				method = "GET"
			}
			for _, cut := range cuts(len(r.in)) {
				if got := readResponses(t, r.in, method, cut, DefaultLimits()); got != r.want {
					t.Fatalf("reading %q to %s cut at %v:\n got %s\nwant %s", r.in, method, cut, got, r.want)
				}
			}
		})
	}
}

func TestResponseLimits(t *testing.T) {
	lim := DefaultLimits()
	lim.Head, lim.Fields = 64, 3
	for _, r := range []row{
		{"9110 §5.4", "a head as long as may be", ok + "X: " + strings.Repeat("x", 64-17-3-4) + "\r\n\r\n", "200 OK close \"\""},
		{"9110 §5.4", "one byte longer", ok + "X: " + strings.Repeat("x", 64-17-3-3) + "\r\n\r\n", "!502 9110 §5.4"},
		{"9110 §5.4", "a head without end", ok + "X: " + strings.Repeat("x", 100), "!502 9110 §5.4"},
		{"9110 §5.4", "a status line that has all it may and no end", "HTTP/1.1 200 " + strings.Repeat("x", 64-13), "!502 9110 §5.4"},
		{"9110 §5.4", "a status line that may still end", "HTTP/1.1 200 " + strings.Repeat("x", 64-14), "…"},
		{"9110 §5.4", "a status line without end", "HTTP/1.1 200 " + strings.Repeat("x", 100), "!502 9110 §5.4"},
		{"9110 §5.4", "a status line longer than a head", "HTTP/1.1 200 " + strings.Repeat("x", 100) + "\r\n\r\n", "!502 9110 §5.4"},
		{"9110 §5.4", "a field more than may be", ok + "A:\r\nB:\r\nC:\r\nD:\r\n\r\n", "!502 9110 §5.4"},
	} {
		t.Run(r.section+"/"+r.name, func(t *testing.T) {
			for _, cut := range cuts(len(r.in)) {
				if got := readResponses(t, r.in, "GET", cut, lim); got != r.want {
					t.Fatalf("reading %q cut at %v:\n got %s\nwant %s", r.in, cut, got, r.want)
				}
			}
		})
	}
}

// TestResponseResetForgets is TestResetForgets for answers.
func TestResponseResetForgets(t *testing.T) {
	var h ResponseHead
	if _, err := ParseResponse([]byte(typicalResponse), &h, nil, DefaultLimits()); err != nil {
		t.Fatal(err)
	}
	h.Reset()
	for i, f := range h.Fields[:cap(h.Fields)] {
		if f.Name != nil || f.Value != nil {
			t.Fatalf("field %d still points to %q", i, f.Name)
		}
	}
	if n, err := ParseResponse([]byte("HTTP/1.1 200 begun"), &h, nil, DefaultLimits()); n != 0 || err != nil || h.Reason != nil {
		t.Fatalf("half a head: n = %d, err = %v, reason %q", n, err, h.Reason)
	}
	h.Reset()
	in := []byte("HTTP/1.1 404 \r\n\r\n")
	if n, err := ParseResponse(in, &h, nil, DefaultLimits()); n != len(in) || err != nil || h.Status != 404 {
		t.Errorf("after Reset: n = %d, err = %v, status %d", n, err, h.Status)
	}
}
