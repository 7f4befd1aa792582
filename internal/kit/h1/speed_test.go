package h1

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// typicalRequest is what an SDK sends: twelve fields.
const typicalRequest = "POST /v1/chat/completions HTTP/1.1\r\n" +
	"Host: gateway.example.com:8080\r\n" +
	"Accept: application/json\r\n" +
	"Accept-Encoding: gzip, deflate\r\n" +
	"Connection: keep-alive\r\n" +
	"Content-Length: 2431\r\n" +
	"Content-Type: application/json\r\n" +
	"Authorization: Bearer sk-0123456789abcdef0123456789abcdef\r\n" +
	"User-Agent: OpenAI/Python 1.99.1\r\n" +
	"X-Stainless-Lang: python\r\n" +
	"X-Stainless-Package-Version: 1.99.1\r\n" +
	"X-Stainless-OS: Linux\r\n" +
	"X-Request-Id: 6f1c2f0e-5a0b-4a55-9d0f-0f2b8c4d7e11\r\n\r\n"

const typicalResponse = "HTTP/1.1 200 OK\r\n" +
	"date: Sun, 06 Nov 1994 08:49:37 GMT\r\n" +
	"server: uvicorn\r\n" +
	"cache-control: no-cache\r\n" +
	"content-type: text/event-stream; charset=utf-8\r\n" +
	"x-request-id: 6f1c2f0e-5a0b-4a55-9d0f-0f2b8c4d7e11\r\n" +
	"transfer-encoding: chunked\r\n\r\n"

func BenchmarkParseRequest(b *testing.B) {
	in := []byte(typicalRequest)
	var h RequestHead
	lim := DefaultLimits()
	b.ReportAllocs()
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		if n, err := ParseRequest(in, &h, lim); n != len(in) || err != nil {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkParseResponse(b *testing.B) {
	in := []byte(typicalResponse)
	var h ResponseHead
	lim, get := DefaultLimits(), []byte("GET")
	b.ReportAllocs()
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		if n, err := ParseResponse(in, &h, get, lim); n != len(in) || err != nil {
			b.Fatal(n, err)
		}
	}
}

// BenchmarkParseRequestByByte shows by its ns/byte that a slow client costs no
// more with a longer head.
func BenchmarkParseRequestByByte(b *testing.B) {
	for _, size := range []int{1 << 10, 4 << 10, 16 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			in := []byte("GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", size) + "\r\n\r\n")
			var h RequestHead
			lim := DefaultLimits()
			b.ReportAllocs()
			for b.Loop() {
				for i := range in {
					if _, err := ParseRequest(in[:i+1], &h, lim); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(in)), "ns/byte")
		})
	}
}

func BenchmarkChunkScan(b *testing.B) {
	event := bytes.Repeat([]byte("x"), 200)
	one := AppendChunk(nil, event)
	for _, chunks := range []int{1, 8} {
		b.Run(fmt.Sprint(chunks), func(b *testing.B) {
			in := bytes.Repeat(one, chunks)
			var s ChunkScanner
			s.Reset(DefaultLimits())
			b.ReportAllocs()
			b.SetBytes(int64(len(in)))
			for b.Loop() {
				if n, _, err := s.Scan(in); n != len(in) || err != nil {
					b.Fatal(n, err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*chunks), "ns/chunk")
		})
	}
}

func BenchmarkAppendResponseHead(b *testing.B) {
	var h ResponseHead
	in := []byte(typicalResponse)
	if _, err := ParseResponse(in, &h, nil, DefaultLimits()); err != nil {
		b.Fatal(err)
	}
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst, _ = AppendStatusLine(dst[:0], h.Status, h.Reason)
		for i := range h.Fields {
			if h.Passes(i) {
				dst, _ = AppendField(dst, h.Fields[i].Name, h.Fields[i].Value)
			}
		}
		dst = append(dst, ChunkedField+EndHead...)
	}
}
