//go:build linux

package abuse

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/internal/kit/bubble"
)

// TestModulesThatMisbehave has clients who make a module spin, take memory,
// recurse and trap all the while. Their requests end in their time; those of
// others, which go through another module, are answered; and nothing is left.
func TestModulesThatMisbehave(t *testing.T) {
	const limit = 100 * time.Millisecond
	module := func(spec, file string) string {
		path, err := filepath.Abs(filepath.Join("../../internal/wasm", file))
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf(spec, path)
	}
	v := fleet(t, 0, "--enable-wasm",
		"--wasm-module", module("good=%s;fail_closed=true;paths=/v1/chat/*", "component/testdata/c-log-smg.component.wasm"),
		"--wasm-module", module(fmt.Sprintf("bad=%%s;fail_closed=true;paths=/v1/completions;max_execution_time_ms=%d", limit.Milliseconds()), "testdata/every.wasm"))
	v.settle(t)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var clients sync.WaitGroup
	var stopped [4]atomic.Int64
	var longest atomic.Int64
	ways := [...]string{"spin", "bomb", "deep", "trap"}
	for i, does := range ways {
		for range 4 {
			c := v.dial(t)
			clients.Go(func() {
				defer c.Close()
				for ctx.Err() == nil {
					watch := bubble.Begin(t)
					status, body := c.askFor("/v1/completions?request=" + does)
					// A bomb may be done before its time is up: the worker is asked then.
					if status != 503 && (does != "bomb" || status != 400) {
						t.Errorf("%s: %d %s, want 503", does, status, body)
						return
					}
					stopped[i].Add(1)
					_, awake := watch.End()
					for took, most := int64(awake), longest.Load(); took > most && !longest.CompareAndSwap(most, took); most = longest.Load() {
					}
				}
			})
		}
	}
	for end := time.Now().Add(time.Duration(size(1, 30)) * time.Second); time.Now().Before(end) || stopped[0].Load() < 8; {
		v.ask(t) // fails if it takes seconds
		if t.Failed() {
			break
		}
	}
	stop()
	clients.Wait()
	for i, does := range ways {
		t.Logf("%s: %d requests", does, stopped[i].Load())
	}
	// How soon is measured elsewhere; here a machine does other things as well.
	if most := time.Duration(longest.Load()); most > limit+5*time.Second {
		t.Errorf("a call took %s, want %s and some", most, limit)
	}
	v.recovers(t, 64<<20)
}

// askFor is ask for another target.
func (c *conn) askFor(target string) (status int, body string) {
	_, _ = fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", target, len(chat), chat)
	return c.answer()
}
