package hook

import (
	"context"
	"strings"
	"testing"

	"sluice/internal/infer"
)

// TestWhoSaysIt holds that a line that a module writes to the log says which module,
// in which hook, and of which request.
func TestWhoSaysIt(t *testing.T) {
	h := newHouse(t)
	h.add(t, "loud", nil)
	r := newRequest("")
	r.ID = "r-of-this-test"
	_, _ = h.ask(r, func(context.Context, *infer.Request, *infer.Reply) error {
		return &infer.Error{Status: 503, Code: "no_workers"}
	})
	for _, want := range []string{
		`msg="a module says" module=loud hook=OnError request=r-of-this-test text="error 503 no_workers"`,
		`msg="a module says" module=loud hook=OnEnd request=r-of-this-test text="end 503 0+0"`,
	} {
		if !strings.Contains(h.log.String(), want) {
			t.Errorf("the log has no %s:\n%s", want, h.log)
		}
	}
}
