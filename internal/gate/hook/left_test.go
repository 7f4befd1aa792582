package hook

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/internal/infer"
	"sluice/internal/wasm"
)

// TestABodyThatIsWantedOnlyNow holds that a module which comes when it was decided
// that nobody wants a body is shown it nevertheless. The module before it, which
// wants none, is closed here a moment sooner than it would be, so that the request
// waits for who comes.
func TestABodyThatIsWantedOnlyNow(t *testing.T) {
	h := newHouse(t)
	m := h.add(t, "m", func(s *wasm.Spec) { s.Attach = []wasm.Hook{wasm.OnResponse} })
	m.Module.Close()
	r := &infer.Request{ID: "id", Method: "POST", Path: "/v1/chat/completions", Endpoint: infer.Chat, Received: time.Now()}
	r.SetBody(infer.NewBody(strings.NewReader(chat), int64(len(chat))))
	r.LeaveBody(1 << 20)
	done := make(chan error)
	go func() {
		_, err := h.ask(r, func(_ context.Context, r *infer.Request, w *infer.Reply) error {
			if r.Left() || string(r.Body) != chat || r.Model != "m" {
				t.Errorf("left %t, body %q of model %q", r.Left(), r.Body, r.Model)
			}
			return w.Send(200, "text/plain", nil)
		})
		done <- err
	}()
	<-time.After(50 * time.Millisecond) // if it has not come by then, nothing is held
	b, err := everything()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.modules.Update(t.Context(), m.ID, func(s *wasm.Spec) { s.Attach = nil }, append(slices.Clone(b), 0, 2, 1, 'v')); err != nil {
		t.Error(err)
		h.modules.Close()
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
