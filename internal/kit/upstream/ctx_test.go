package upstream

import (
	"context"
	"errors"
	"net/netip"
	"testing"
)

// brief is a context that is good until its request was served.
type brief struct {
	context.Context
	over, asked bool
}

func (b *brief) Value(key any) any {
	b.asked = b.asked || b.over
	return b.Context.Value(key)
}

// TestTheContextIsNotKept holds that a lookup which goes on behind a request, as
// those of package net do, does not ask the request's context: it may be
// another's by then.
func TestTheContextIsNotKept(t *testing.T) {
	var kept context.Context
	c := client(t, Options{Resolve: func(ctx context.Context, _ string) ([]netip.Addr, error) {
		kept = ctx
		return nil, errors.New("no such host")
	}})
	h := host(t, c, "http://worker.test")
	defer h.Close()
	x := NewExchange(0)
	defer x.Free()
	ctx := &brief{Context: t.Context()}
	if err := h.Do(ctx, x); err == nil {
		t.Fatal("it was found")
	}
	ctx.over = true
	kept.Value("anything")
	if ctx.asked {
		t.Error("the request's context was asked when it was over")
	}
}
