package h1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// fuzzLimits are below net/http's own where it has any: it reads chunk lines
// and trailers of up to 4 KiB.
func fuzzLimits() Limits {
	lim := DefaultLimits()
	lim.Extension, lim.Trailer = 1<<10, 1<<10
	return lim
}

// wire reads bodies from a connection's rest, and tells how much it took.
type wire struct {
	r    *bytes.Reader
	b    *bufio.Reader
	size int
}

func newWire(p []byte) *wire {
	r := bytes.NewReader(p)
	return &wire{r, bufio.NewReader(r), len(p)}
}

func (w *wire) taken() int { return w.size - w.r.Len() - w.b.Buffered() }

// readBody decodes a body from the beginning of p, and returns its data and
// its length on the wire.
func readBody(f Framing, length int64, p []byte, lim Limits) (data []byte, n int, err error) {
	var b Body
	b.Reset(f, length, lim)
	data = make([]byte, len(p))
	w, n, err := b.Decode(data, p)
	if err == nil && !b.Done() {
		err = b.End()
	}
	return data[:w], n, err
}

// fieldsOf returns our fields as net/http keeps them: without case in names,
// and without those that it takes out of its map.
func fieldsOf(m *Message, request bool) http.Header {
	h := http.Header{}
	for _, f := range m.Fields {
		h.Add(string(f.Name), string(f.Value))
	}
	h.Del("Transfer-Encoding")
	if request {
		h.Del("Host")
	}
	if m.Chunked {
		h.Del("Trailer")
	}
	if v, ok := h["Pragma"]; ok && v[0] == "no-cache" {
		if _, has := h["Cache-Control"]; !has {
			h["Cache-Control"] = []string{"no-cache"} // as net/http adds it
		}
	}
	return h
}

// seedRequests are the rows, and tricks that are more than one row.
func seedRequests(f *testing.F) {
	for _, rows := range [][]row{requestLineRows, hostRows, fieldRows, framingRows, chunkRows()} {
		for _, r := range rows {
			f.Add([]byte(r.in))
		}
	}
	f.Add([]byte(typicalRequest + strings.Repeat("x", 2431) + typicalRequest))
	f.Add([]byte("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nPOST /2 HTTP/1.0\r\nContent-Length: 3\r\n\r\nabcGET http://b?c HTTP/1.3\r\nHost: a\r\n\r\n"))
}

// FuzzRequestAgainstNetHTTP holds that whatever we accept, net/http reads as
// the same requests, with the same fields, framing and bodies, and ends them
// at the same bytes. It is allowed to accept more.
func FuzzRequestAgainstNetHTTP(f *testing.F) {
	seedRequests(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		rest := in
		for {
			var h RequestHead
			n, err := ParseRequest(rest, &h, fuzzLimits())
			if n == 0 || err != nil {
				return
			}
			data, bodyLen, err := readBody(h.Framing(), h.ContentLength, rest[n:], fuzzLimits())
			// net/http's ReadRequest leaves the empty line before to its caller.
			start := 0
			if rest[0] == '\r' {
				start = 2
			}
			compareRequest(t, rest[start:], &h, n-start, data, bodyLen, err)
			rebuildRequest(t, &h)
			if err != nil || t.Failed() {
				return
			}
			rest = rest[n+bodyLen:]
		}
	})
}

// compareRequest reads a request with net/http and compares it with ours: head
// of n bytes, body of bodyLen bytes on the wire, or an error in it.
func compareRequest(t *testing.T, in []byte, h *RequestHead, n int, data []byte, bodyLen int, bodyErr error) {
	t.Helper()
	w := newWire(in)
	req, err := http.ReadRequest(w.b)
	if err != nil {
		t.Fatalf("we accept %q, net/http does not: %v", in[:n], err)
	}
	defer req.Body.Close()
	if got := w.taken(); got != n {
		t.Fatalf("head %q: net/http takes %d bytes, we %d", in, got, n)
	}
	same := func(what string, ours, theirs any) {
		t.Helper()
		if fmt.Sprint(ours) != fmt.Sprint(theirs) {
			t.Fatalf("%s of %q: ours is %q, net/http's %q", what, in[:n], ours, theirs)
		}
	}
	same("method", string(h.Method), req.Method)
	same("target", string(h.Target), req.RequestURI)
	same("authority", string(h.Authority), req.Host)
	same("query", string(h.Query), req.URL.RawQuery)
	path, err := url.PathUnescape(string(h.Path))
	if err != nil {
		t.Fatalf("path %q: %v", h.Path, err)
	}
	if req.URL.Path != "" { // ours says what an empty one means
		same("path", path, req.URL.Path)
	}
	same("length", max(h.ContentLength, 0), max(req.ContentLength, 0))
	same("chunked", h.Chunked, slices.Equal(req.TransferEncoding, []string{"chunked"}))
	same("keep-alive", h.KeepAlive, !req.Close)
	if ours := fieldsOf(&h.Message, true); !maps.EqualFunc(ours, req.Header, slices.Equal) {
		t.Fatalf("fields of %q:\nours       %q\nnet/http's %q", in[:n], ours, req.Header)
	}
	compareBody(t, in[n:], w, n, req.Body, data, bodyLen, bodyErr)
}

// rebuildRequest builds what h says, as whoever sends it on does, and reads it
// again: what was accepted can be sent, and says the same there.
func rebuildRequest(t *testing.T, h *RequestHead) {
	t.Helper()
	out, ok := AppendRequestLine(nil, h.Method, h.AppendTarget(nil))
	if !ok {
		t.Fatalf("method %q and target %q were read and cannot be written", h.Method, h.AppendTarget(nil))
	}
	out = append(append(out, "Host: worker\r\n"...), rebuildFields(t, &h.Message)...)
	size := len(out) + len(EndHead)
	var again RequestHead
	lim := DefaultLimits()
	lim.Fields, lim.Head, lim.RequestLine = MaxFields, size, size
	n, err := ParseRequest(append(out, EndHead...), &again, lim)
	if err != nil || n != size {
		t.Fatalf("what was built of a good request is refused: %q: %v", out, err)
	}
	for i := range again.Fields[1:] {
		if !again.Passes(i + 1) {
			t.Fatalf("field %q of %q was passed on and is not passed again", again.Fields[i+1].Name, out)
		}
	}
	if again.Framing() != FramingNone || again.Upgrade != nil || !bytes.Equal(again.AppendTarget(nil), h.AppendTarget(nil)) {
		t.Fatalf("%q, built of a request, says more than it", out)
	}
}

// rebuildFields writes the fields of m that pass.
func rebuildFields(t *testing.T, m *Message) []byte {
	t.Helper()
	var out []byte
	for i, f := range m.Fields {
		if !m.Passes(i) {
			continue
		}
		var ok bool
		if out, ok = AppendField(out, f.Name, f.Value); !ok {
			t.Fatalf("field %q: %q was read and cannot be written", f.Name, f.Value)
		}
	}
	return out
}

// compareBody compares data, of bodyLen bytes on the wire, with what body gives.
func compareBody(t *testing.T, in []byte, w *wire, n int, body io.Reader, data []byte, bodyLen int, bodyErr error) {
	t.Helper()
	theirs, err := io.ReadAll(body)
	if bodyErr != nil { // net/http may accept, and has read as much as we have
		if !bytes.HasPrefix(theirs, data) {
			t.Fatalf("body %q, refused with %v: ours begins %q, net/http's %q", in, bodyErr, data, theirs)
		}
		return
	}
	if err != nil {
		t.Fatalf("we accept the body %q, net/http does not: %v", in[:bodyLen], err)
	}
	if !bytes.Equal(theirs, data) {
		t.Fatalf("body %q: ours is %q, net/http's %q", in[:bodyLen], data, theirs)
	}
	if got := w.taken() - n; got != bodyLen {
		t.Fatalf("body %q: net/http takes %d bytes, we %d", in, got, bodyLen)
	}
}

// FuzzResponseAgainstNetHTTP is FuzzRequestAgainstNetHTTP for answers.
func FuzzResponseAgainstNetHTTP(f *testing.F) {
	for _, r := range responseRows {
		f.Add([]byte(r.in), strings.HasPrefix(r.name, "HEAD"))
	}
	for _, r := range [][]row{fieldRows, framingRows, chunkRows()} {
		for _, r := range r {
			f.Add([]byte(strings.Replace(r.in, "POST / HTTP/1.1", "HTTP/1.1 200 OK", 1)), false)
		}
	}
	f.Add([]byte(typicalResponse+"5\r\nhello\r\n0\r\n\r\n"), false)
	f.Fuzz(func(t *testing.T, in []byte, head bool) {
		method := "GET"
		if head {
			method = "HEAD"
		}
		rest := in
		for {
			var h ResponseHead
			n, err := ParseResponse(rest, &h, []byte(method), fuzzLimits())
			if n == 0 || err != nil {
				return
			}
			data, bodyLen, err := readBody(h.Framing, h.ContentLength, rest[n:], fuzzLimits())
			compareResponse(t, rest, method, &h, n, data, bodyLen, err)
			rebuildFields(t, &h.Message)
			if _, ok := AppendStatusLine(nil, h.Status, h.Reason); !ok {
				t.Fatalf("status %d and reason %q were read and cannot be written", h.Status, h.Reason)
			}
			if err != nil || h.Framing == FramingClose || t.Failed() {
				return
			}
			rest = rest[n+bodyLen:]
		}
	})
}

func compareResponse(t *testing.T, in []byte, method string, h *ResponseHead, n int, data []byte, bodyLen int, bodyErr error) {
	t.Helper()
	w := newWire(in)
	resp, err := http.ReadResponse(w.b, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("we accept %q, net/http does not: %v", in[:n], err)
	}
	defer resp.Body.Close()
	if got := w.taken(); got != n {
		t.Fatalf("head %q: net/http takes %d bytes, we %d", in, got, n)
	}
	same := func(what string, ours, theirs any) {
		t.Helper()
		if fmt.Sprint(ours) != fmt.Sprint(theirs) {
			t.Fatalf("%s of %q: ours is %q, net/http's %q", what, in[:n], ours, theirs)
		}
	}
	same("status", h.Status, resp.StatusCode)
	same("keep-alive", h.KeepAlive, !resp.Close)
	if h.Framing != FramingNone {
		same("chunked", h.Framing == FramingChunked, slices.Equal(resp.TransferEncoding, []string{"chunked"}))
		same("length", h.ContentLength, resp.ContentLength)
	}
	ours := fieldsOf(&h.Message, false)
	if h.sawClose && h.Minor > 0 {
		ours.Del("Connection") // as net/http does
	}
	if _, has := resp.Header["Connection"]; !has {
		ours.Del("Connection")
	}
	if !maps.EqualFunc(ours, resp.Header, slices.Equal) {
		t.Fatalf("fields of %q:\nours       %q\nnet/http's %q", in[:n], ours, resp.Header)
	}
	compareBody(t, in[n:], w, n, resp.Body, data, bodyLen, bodyErr)
}

// FuzzCuts holds that it does not matter where input is cut: requests, answers,
// and all that is read of them.
func FuzzCuts(f *testing.F) {
	seedRequests(f)
	for _, r := range responseRows {
		f.Add([]byte(r.in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 512 {
			return // the square of it is too slow to find anything
		}
		lim := Limits{RequestLine: 64, Head: 256, Fields: 8, Extension: 16, Extensions: 32, Trailer: 32}
		requests := readRequests(t, string(in), nil, lim)
		responses := readResponses(t, string(in), "GET", nil, lim)
		for _, cut := range cuts(len(in)) {
			if got := readRequests(t, string(in), cut, lim); got != requests {
				t.Fatalf("requests %q cut at %v: %s, whole: %s", in, cut, got, requests)
			}
			if got := readResponses(t, string(in), "GET", cut, lim); got != responses {
				t.Fatalf("answers %q cut at %v: %s, whole: %s", in, cut, got, responses)
			}
		}
	})
}

// FuzzChunks holds that it does not matter where chunks are cut, that what is
// passed on is what came, and that net/http's reader finds the same data and
// the same end in what we accept. It is laxer where TestLaxerChunks says.
func FuzzChunks(f *testing.F) {
	for _, c := range chunkCases {
		f.Add([]byte(c.in+"GET"), uint(len(c.in)/2))
	}
	f.Fuzz(func(t *testing.T, in []byte, at uint) {
		passed, data, end := scan(string(in), nil)
		if !bytes.HasPrefix(in, []byte(passed)) {
			t.Fatalf("passed %q of %q", passed, in)
		}
		every := make([]int, 0, len(in))
		for i := 1; i < len(in); i++ {
			every = append(every, i)
		}
		for _, cut := range [][]int{{int(at % uint(len(in)+1))}, every} {
			if p, d, e := scan(string(in), cut); p != passed || d != data || e != end {
				t.Fatalf("%q cut at %v: (%q, %q, %s), whole: (%q, %q, %s)", in, cut, p, d, e, passed, data, end)
			}
		}
		if end != "done" {
			return
		}
		w := newWire(in)
		theirs, err := io.ReadAll(httputil.NewChunkedReader(w.b))
		switch {
		case err != nil && strings.Contains(err.Error(), "too long"), err != nil && strings.Contains(err.Error(), "non-data"):
			return // its limits are lower than the default of ours
		case err != nil:
			t.Fatalf("we accept %q, net/http does not: %v", passed, err)
		case string(theirs) != data:
			t.Fatalf("chunks %q: ours hold %q, net/http's %q", passed, data, theirs)
		}
		// Its reader stops before the trailers.
		if trailers := passed[w.taken():]; trailers != "\r\n" {
			if _, err := textproto.NewReader(w.b).ReadMIMEHeader(); err != nil {
				t.Fatalf("trailers %q: %v", trailers, err)
			}
			if w.taken() != len(passed) {
				t.Fatalf("trailers %q: net/http takes %d bytes of %d", trailers, w.taken(), len(passed))
			}
		}
	})
}

// TestLaxerChunks lists what net/http's chunk reader accepts and ours does not.
func TestLaxerChunks(t *testing.T) {
	for name, in := range map[string]string{
		"whitespace after a size":     "1 \r\nx\r\n0\r\n",
		"an extension without a name": "1;\r\nx\r\n0\r\n",
		"control bytes in extensions": "1;a\x00\r\nx\r\n0\r\n",
		"words in extensions":         "1;a b\r\nx\r\n0\r\n",
	} {
		if got, err := io.ReadAll(httputil.NewChunkedReader(strings.NewReader(in))); string(got) != "x" || err != nil {
			t.Errorf("%s: net/http no longer accepts it: %q, %v", name, got, err)
		}
		if _, _, end := scan(in, nil); end == "more" || end == "done" {
			t.Errorf("%s: we accept it", name)
		}
	}
}

// FuzzAppend holds that no name, value, method, target or reason makes more
// lines, or others, than it is asked for.
func FuzzAppend(f *testing.F) {
	f.Add("GET", "/a?b", "X", "y", "OK")
	f.Add("G\r\nT", "/ HTTP/1.1\r\nX: y", "X:", "y\r\n\r\nGET / HTTP/1.1", "\n")
	f.Fuzz(func(t *testing.T, method, target, name, value, reason string) {
		if len(method)+len(target)+len(name)+len(value)+len(reason) > 4<<10 {
			return
		}
		line, ok1 := AppendRequestLine(nil, method, target)
		status, ok2 := AppendStatusLine(nil, 200, []byte(reason))
		field, ok3 := AppendField(nil, name, value)
		if ok1 && ok3 && known([]byte(name)) == kindOther && method != "CONNECT" {
			in := append(append(line, "Host: a\r\n"...), field...)
			in = append(in, EndHead...)
			var h RequestHead
			if n, err := ParseRequest(in, &h, DefaultLimits()); err == nil {
				if n != len(in) || string(h.Method) != method || string(h.Target) != target || len(h.Fields) != 2 ||
					string(h.Fields[1].Name) != name || string(h.Fields[1].Value) != value {
					t.Fatalf("%q reads as %d bytes: %q %q %q", in, n, h.Method, h.Target, h.Fields)
				}
			} else if !strings.Contains(target, "%") && target != "*" {
				t.Fatalf("what was built is refused: %q: %v", in, err)
			}
		}
		if ok2 {
			in := append(status, EndHead...)
			var h ResponseHead
			if n, err := ParseResponse(in, &h, nil, DefaultLimits()); n != len(in) || err != nil || string(h.Reason) != reason {
				t.Fatalf("%q reads as %d bytes: %q, %v", in, n, h.Reason, err)
			}
		}
	})
}
