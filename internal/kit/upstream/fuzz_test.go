package upstream

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
)

// FuzzAnswers holds that whatever a worker says, and however it is cut, no
// exchange hangs or panics, and that what is taken for an answer is the one
// that net/http reads.
func FuzzAnswers(f *testing.F) {
	for _, a := range answers {
		if len(a.wire) < 4000 {
			f.Add([]byte(a.wire), uint16(7))
		}
	}
	var script func(net.Conn) // of the one input that is tried at a time
	c := client(f, Options{Dial: func(context.Context, string, string) (net.Conn, error) {
		far, near := net.Pipe()
		script(far)
		return near, nil
	}})
	h := host(f, c, "http://127.0.0.1")
	f.Fuzz(func(t *testing.T, wire []byte, at uint16) {
		cut := int(at) % (len(wire) + 1)
		done := make(chan struct{})
		script = func(c net.Conn) {
			go func() {
				defer close(done)
				defer c.Close()
				if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
					return
				}
				c.Write(wire[:cut])
				c.Write(wire[cut:])
			}()
		}
		x, s := request("GET"), new(Collect)
		s.Limit = 1 << 20
		x.Sink = s
		err := h.Do(context.Background(), x)
		x.Free()
		defer s.Free()
		h.evict(func(*conn) (reason, bool, bool) { return shutdown, true, true }) // each has its own worker
		<-done
		if err != nil {
			return
		}
		status, body, err := others(wire)
		if err != nil || status != s.Status || !bytes.Equal(body, s.Bytes()) {
			t.Errorf("taken as %d %q; net/http reads %d %q, %v", s.Status, s.Bytes(), status, body, err)
		}
	})
}

// others reads an answer with net/http.
func others(wire []byte) (status int, body []byte, err error) {
	in := bufio.NewReader(bytes.NewReader(wire))
	for {
		res, err := http.ReadResponse(in, &http.Request{Method: "GET"})
		if err != nil {
			return 0, nil, err
		}
		if res.StatusCode >= 200 {
			body, err := io.ReadAll(res.Body)
			return res.StatusCode, body, err
		}
	}
}
