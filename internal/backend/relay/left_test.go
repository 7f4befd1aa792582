package relay

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"sluice/internal/infer"
)

// left returns a request whose body was left with its client.
func left(body string, length int64) *infer.Request {
	r := &infer.Request{ID: "id-1", Endpoint: infer.Chat, Model: "m"}
	r.SetBody(infer.NewBody(strings.NewReader(body), length))
	r.LeaveBody(1 << 20)
	return r
}

// TestBodiesThatWereLeft holds that one goes to the worker as its client frames
// it, that its answer says whether it is streamed, and that an error in it is
// the client's.
func TestBodiesThatWereLeft(t *testing.T) {
	body := strings.Repeat("no JSON ", 20_000)
	var got, framing string
	answer := "application/json"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, framing = string(b), "length"
		if slices.Contains(r.TransferEncoding, "chunked") {
			framing = "chunks"
		}
		w.Header().Set("Content-Type", answer)
		io.WriteString(w, "data: {}\n\n")
	}))
	defer s.Close()
	for _, tt := range []struct {
		name, framing, answer string
		length                int64
		stream                bool
	}{
		{"its length is known", "length", "application/json", int64(len(body)), false},
		{"its length is not known", "chunks", "application/json", -1, false},
		{"it asks for a stream", "chunks", "text/event-stream", -1, true},
	} {
		answer = tt.answer
		r := left(body, tt.length)
		c, _, err := relay(t, t.Context(), s.URL, r)
		if err != nil || c.body() != "data: {}\n\n" {
			t.Errorf("%s: got %q, %v", tt.name, c.body(), err)
		}
		if got != body || framing != tt.framing || r.Stream != tt.stream || !r.Gone() || r.Size != int64(len(body)) {
			t.Errorf("%s: %d bytes in %s came, %d were counted; a stream: %v", tt.name, len(got), framing, r.Size, r.Stream)
		}
	}
	_, _, err := relay(t, t.Context(), s.URL, left(body, int64(len(body)+1)))
	if e := infer.AsError(err); e.Code != "request_body_unreadable" {
		t.Errorf("a body that is too short: %v", err)
	}
	s.Close()
	r := left(body, -1)
	if _, _, err := relay(t, t.Context(), s.URL, r); !infer.Retryable(err) || r.Gone() {
		t.Errorf("nobody is there: %v; the body is gone: %v", err, r.Gone())
	}
}
