package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"sluice/internal/kit/bubble"
	"sluice/test/program"
)

// soon bounds how late a worker may hear that the client has left. It is 20
// times what is promised, for machines that do other things; what was measured
// is in the log.
const soon = time.Second

// TestTheClientLeaves holds that a worker's connection ends soon after the
// client's, in every phase of a request.
func TestTheClientLeaves(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		first  string // what the worker has said by then
		stream bool
	}{
		{"before the worker's header", "", false},
		{"after the header of a stream", chunked(sse), true},
		{"in a stream", chunked(sse, one), true},
		{"in a body that is read whole", "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", false},
		{"in a body that is passed on", "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 9000000\r\n\r\n{", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			asked, gone := make(chan struct{}), make(chan struct{})
			w := newRogue(t, func(c net.Conn, _ *http.Request) {
				_, _ = io.WriteString(c, tt.first)
				close(asked)
				_, _ = io.Copy(io.Discard, c)
				close(gone)
			})
			g := inFrontOf(t, 1, []string{w.URL})
			ctx, leave := context.WithCancel(t.Context())
			got := make(chan struct{})
			go func() {
				defer close(got)
				_, _ = try(ctx, oneShot, "POST", g.URL+chatPath, body(chatPath, tt.stream, ""))
			}()
			<-asked
			time.Sleep(30 * time.Millisecond) // what the worker said is on its way to the client
			watch := bubble.Begin(t)
			leave()
			select {
			case <-gone:
				if took, awake := watch.End(); awake > soon {
					t.Errorf("the worker heard of it after %s, %s of it awake; want %s at most", took, awake, soon)
				} else {
					t.Logf("the worker heard of it after %s", took.Round(10*time.Microsecond))
				}
			case <-time.After(20 * time.Second):
				t.Error("the worker never heard that the client left")
			}
			<-got
			wantLine(t, g, "status=499", "error=client_closed_request")
		})
	}
}

// wantLine waits until one line of the log holds all parts.
func wantLine(t *testing.T, g *program.Gateway, parts ...string) {
	t.Helper()
	program.Eventually(t, fmt.Sprintf("a log line with %q", parts), func() bool {
	lines:
		for _, l := range g.Lines() {
			for _, p := range parts {
				if !strings.Contains(l, p) {
					continue lines
				}
			}
			return true
		}
		return false
	})
}

// A client that leaves while it sends its body costs no worker anything.
func TestTheClientLeavesWhileItSends(t *testing.T) {
	t.Parallel()
	g, e := program.Fleet(t, 1, []string{"--model", "m"}, nil)
	c, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(c, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{\"model\"")
	c.Close()
	wantLine(t, g, "path="+chatPath, "status=4")
	if n := state(t, e.URLs[0]).Counts.Requests; n != 0 {
		t.Errorf("the engine was asked %d times", n)
	}
}

// A client that leaves in the pause before a second try: there is none.
func TestTheClientLeavesBetweenTries(t *testing.T) {
	t.Parallel()
	g, e := program.Fleet(t, 2, []string{"--model", "m", "--fault", "status=503"},
		[]string{"--retry-initial-backoff-ms", "20000", "--retry-jitter-factor", "0"})
	ctx, leave := context.WithCancel(t.Context())
	got := make(chan struct{})
	go func() {
		defer close(got)
		_, _ = try(ctx, oneShot, "POST", g.URL+chatPath, body(chatPath, false, ""))
	}()
	requests := func() int {
		return state(t, e.URLs[0]).Counts.Faulted + state(t, e.URLs[1]).Counts.Faulted
	}
	program.Eventually(t, "the first try fails", func() bool { return requests() == 1 })
	leave()
	watch := bubble.Begin(t)
	<-got
	wantLine(t, g, "status=499", "tries=1")
	if took, awake := watch.End(); awake > soon {
		t.Errorf("the request ended %s after its client left, %s of it awake", took, awake)
	}
	if n := requests(); n != 1 {
		t.Errorf("the engines were asked %d times, want once", n)
	}
}

// TestEnginesStopWhenClientsLeave has a simulated engine count what was left.
func TestEnginesStopWhenClientsLeave(t *testing.T) {
	t.Parallel()
	g, e := program.Fleet(t, 1, []string{"--model", "m", "--speed", "1", "--decode-rate", "50"}, nil)
	const n = 20
	ctx, leave := context.WithCancel(t.Context())
	got := make(chan struct{}, n)
	for range n {
		go func() {
			_, _ = try(ctx, oneShot, "POST", g.URL+chatPath, strings.Replace(body(chatPath, true, ""), `"max_tokens":8`, `"max_tokens":2000`, 1))
			got <- struct{}{}
		}()
	}
	program.Eventually(t, "all run", func() bool { return state(t, e.URLs[0]).Load.Running == n })
	leave()
	for range n {
		<-got
	}
	begun := time.Now()
	program.Eventually(t, "the engine is idle", func() bool {
		s := state(t, e.URLs[0])
		return s.Load.Running == 0 && s.Counts.Cancelled == n
	})
	t.Logf("%d streams were gone from the engine after %s", n, time.Since(begun).Round(time.Millisecond))
}
