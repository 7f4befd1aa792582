package upstream

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"
	"testing"
	"time"

	"sluice/internal/kit/h1"
	"sluice/internal/kit/sock"
)

// steady is a worker that does not allocate: it answers each size bytes.
func steady(t testing.TB, size int, answer []byte) (base string) {
	t.Helper()
	ln := listen(t, "tcp")
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				p := make([]byte, size)
				for {
					if _, err := io.ReadFull(c, p); err != nil {
						return
					}
					if _, err := c.Write(answer); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		all.Wait()
	})
	return "http://" + ln.Addr().String()
}

// turn returns what sends one request, and reads its answer, with all that a
// front end sets.
func turn(t testing.TB, size int, answer string) func() {
	head := fmt.Appendf(nil, "POST /v1/x HTTP/1.1\r\nHost: worker\r\nContent-Length: %d\r\n\r\n", size)
	body := make([]byte, size)
	h := host(t, client(t, Options{}), steady(t, len(head)+size, []byte(answer)))
	ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), sock.Key{}, new(sock.Waits)), time.Hour)
	t.Cleanup(func() {
		cancel()
		h.Close()
	})
	var c Collect
	return func() {
		x := NewExchange(0)
		x.Method, x.FirstByte, x.Between = "POST", time.Minute, time.Minute
		x.Head = append(x.Head, head...)
		x.Body = body
		c.Limit = 1 << 20
		x.Sink = &c
		if err := h.Do(ctx, x); err != nil {
			t.Fatal(err)
		}
		c.Free()
		x.Free()
	}
}

var exchangesOf = []struct {
	name   string
	size   int // of the request's body
	answer string
}{
	{"unary", 2400, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\nhello"},
	{"chunked", 2400, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"},
	{"200 KB", 200 << 10, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"},
	{"2 MiB", 2 << 20, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"},
}

func TestNothingIsAllocatedOnAKeptConnection(t *testing.T) {
	if raced {
		t.Skip("the race detector allocates")
	}
	for _, e := range exchangesOf {
		f := turn(t, e.size, e.answer)
		f()
		if n := testing.AllocsPerRun(100, f); n > 0 {
			t.Errorf("%s: %v allocations for an exchange", e.name, n)
		}
	}
}

// pieces is a Sink that counts, and tells of each piece.
type pieces struct {
	n, data int
	told    chan struct{}
}

func (p *pieces) Answer(*h1.ResponseHead) error { return nil }

func (p *pieces) Body(b *h1.Body, wire []byte) (n int, err error) {
	p.n++
	for n < len(wire) && !b.Done() {
		k, data, err := b.Next(wire[n:])
		if n += k; err != nil {
			return n, err
		}
		p.data += len(data)
	}
	p.told <- struct{}{}
	return n, nil
}

// TestNothingIsAllocatedForAPiece counts within a stream.
func TestNothingIsAllocatedForAPiece(t *testing.T) {
	if raced {
		t.Skip("the race detector allocates")
	}
	ln := listen(t, "tcp")
	defer ln.Close()
	const chunks = 1000
	p := pieces{told: make(chan struct{}, 1)}
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b := make([]byte, 16<<10)
		c.Read(b)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		event := h1.AppendChunk(nil, make([]byte, 200))
		for range chunks {
			c.Write(event)
			<-p.told
		}
		io.WriteString(c, h1.LastChunk)
		c.Read(b)
	}()
	h := host(t, client(t, Options{}), "http://"+ln.Addr().String())
	x := post("{}")
	x.Between = time.Minute
	x.Sink = &p
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := h.Do(context.Background(), x)
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	x.Free()
	if p.data != chunks*200 {
		t.Errorf("%d bytes came", p.data)
	}
	if n := after.Mallocs - before.Mallocs; p.n < chunks || n > 200 { // most are the new connection's
		t.Errorf("%v allocations for a connection and a stream of %d pieces", n, p.n)
	}
	h.Close()
}

func BenchmarkExchange(b *testing.B) {
	for _, e := range exchangesOf {
		b.Run(e.name, func(b *testing.B) {
			f := turn(b, e.size, e.answer)
			f()
			b.SetBytes(int64(e.size))
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
}
