package infer

import (
	"fmt"
	"testing"
)

type discard struct{ header Header }

func (d *discard) Header() *Header             { return &d.header }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) Flush() error                { return nil }

func TestOnCommitHearsTheStatusOnce(t *testing.T) {
	var heard []int
	hear := func(status int) { heard = append(heard, status) }
	w := NewReply(new(discard))
	w.OnCommit(func(int) { t.Error("the one before was told, too") })
	w.OnCommit(hear)
	_, _ = w.Write([]byte("ok"))
	w.Commit(500)
	w.Reset(new(discard))
	w.Commit(404) // another request's
	w.Reset(new(discard))
	w.OnCommit(hear)
	w.OnCommit(nil)
	w.Commit(404)
	if got := fmt.Sprint(heard); got != "[200]" {
		t.Errorf("heard %s, want [200]", got)
	}
}
