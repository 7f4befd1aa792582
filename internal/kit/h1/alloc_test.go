package h1

import "testing"

// TestNothingAllocates holds the ways of a request and of an answer to no
// allocation once their storage has grown.
func TestNothingAllocates(t *testing.T) {
	if raced {
		t.Skip("the race detector allocates")
	}
	request, response := []byte(typicalRequest), []byte(typicalResponse)
	absolute := []byte("GET http://[2001:db8::1]:80?q HTTP/1.1\r\nHost: [2001:db8::1]:80\r\nConnection: x-mine\r\nX-Mine: 1\r\n\r\n")
	hostile := []byte("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")
	chunks := append(AppendChunk(nil, make([]byte, 200)), "5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n"...)
	lim := DefaultLimits()
	var (
		req  RequestHead
		resp ResponseHead
		body Body
		date DateField
		out  []byte
		dst  = make([]byte, 512)
	)
	for name, f := range map[string]func(){
		"request":          func() { ParseRequest(request, &req, lim) },
		"absolute request": func() { ParseRequest(absolute, &req, lim) },
		"refused request":  func() { ParseRequest(hostile, &req, lim) },
		"response":         func() { ParseResponse(response, &resp, req.Method, lim) },
		"scan":             func() { body.Reset(FramingChunked, -1, lim); body.Scan(chunks) },
		"next":             func() { body.Reset(FramingChunked, -1, lim); body.Next(chunks) },
		"decode":           func() { body.Reset(FramingChunked, -1, lim); body.Decode(dst, chunks) },
		"head out": func() {
			out, _ = AppendRequestLine(out[:0], req.Method, req.Path)
			out, _ = AppendStatusLine(out, 200, "OK")
			for i := range resp.Fields {
				out, _ = AppendField(out, resp.Fields[i].Name, resp.Fields[i].Value)
			}
			out, _ = AppendField(out, "Content-Type", "text/event-stream")
			out, _ = AppendContentLength(out, 1<<40)
			out = date.Append(out, 1)
			out = AppendChunk(out, request)
		},
	} {
		f()
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
}
