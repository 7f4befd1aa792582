package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"sluice/internal/gate/access"
	"sluice/internal/infer"
)

// TestRefusedBehindAGate is what clients read of answers that break where a gate
// has them answered, on each front end.
func TestRefusedBehindAGate(t *testing.T) {
	broken := &infer.Error{Status: 502, Code: "call_upstream_body_error", Msg: "The worker's answer broke off."}
	begin := func(contentType string, end func() error) infer.Handler {
		return infer.HandlerFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			if contentType != "" {
				w.Header().Set("Content-Type", contentType)
				if _, err := w.Write([]byte("data: 1\n\n")); err != nil {
					return err
				}
				if err := w.Flush(); err != nil {
					return err
				}
			}
			return end()
		})
	}
	const stream, js = "text/event-stream", "application/json"
	fail := func() error { return broken }
	mux := NewMux([]Route{
		{"POST", "/v1/chat/completions", infer.Chat, begin(stream, fail)},
		{"POST", "/v1/responses", infer.Responses, begin(stream, fail)},
		{"POST", "/v1/messages", infer.Messages, begin(stream, fail)},
		{"POST", "/generate", infer.Generate, begin(js, fail)},
		{"POST", "/silent", infer.Chat, begin("", fail)},
		{"POST", "/gone", infer.Chat, begin("", func() error { return &infer.Error{Status: infer.StatusClientGone} })},
		{"POST", "/panics", infer.Chat, begin("", func() error { panic("x") })},
		{"POST", "/panics/midway", infer.Chat, begin(stream, func() error { panic("x") })},
		{"POST", "/aborts", infer.Chat, begin("", func() error { panic(http.ErrAbortHandler) })},
	}, access.Gate(access.DefaultConfig(), access.Options{Log: slog.New(slog.DiscardHandler), Refuse: Refuse}))
	std := httptest.NewServer(HTTPHandler(mux))
	defer std.Close()
	own := serve(t, DefaultConfig(), mux)

	const said = `{"type":"stream_error","code":"call_upstream_body_error","message":"The worker's answer broke off.","param":null}}` + "\n\n"
	tests := []struct {
		path   string
		status int    // 0 if the connection ends without an answer
		want   string // what the body begins with, and all of it if it is whole
		whole  bool
	}{
		{"/v1/chat/completions", 200, "data: 1\n\ndata: {\"error\":" + said, true},
		{"/v1/responses", 200, "data: 1\n\nevent: error\ndata: {\"error\":" + said, true},
		{"/v1/messages", 200, "data: 1\n\nevent: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"The worker's answer broke off.\"},\"request_id\":\"id-1\"}\n\n", true},
		{"/generate", 200, "data: 1\n\n", false},
		{"/silent", 502, `{"error":{"type":"server_error","code":"call_upstream_body_error","message":"The worker's answer broke off.","param":null}}`, true},
		{"/gone", 0, "", false},
		{"/panics", 500, `{"error":{"type":"server_error","code":"internal_error","message":"The gateway failed.","param":null}}`, true},
		{"/panics/midway", 200, "data: 1\n\n", false},
		{"/aborts", 0, "", false},
	}
	for name, url := range map[string]string{"net/http": std.URL, "own": own.URL} {
		for _, tt := range tests {
			t.Run(name+tt.path, func(t *testing.T) {
				tr := &http.Transport{}
				defer tr.CloseIdleConnections()
				req, err := http.NewRequest("POST", url+tt.path, nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("X-Request-Id", "id-1")
				res, err := tr.RoundTrip(req)
				if tt.status == 0 {
					if err == nil {
						res.Body.Close()
						t.Errorf("got %d, want no answer", res.StatusCode)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				b, err := io.ReadAll(res.Body)
				if res.StatusCode != tt.status || string(b) != tt.want || (err == nil) != tt.whole {
					t.Errorf("got %d %q, %v; want %d %q, whole: %v", res.StatusCode, b, err, tt.status, tt.want, tt.whole)
				}
				if got := res.Header.Get("X-Request-Id"); got != "id-1" {
					t.Errorf("X-Request-Id is %q, want id-1", got)
				}
			})
		}
	}
}

// TestWhatIsTornStaysSo holds that a front end adds nothing to an answer whose
// refusal failed.
func TestWhatIsTornStaysSo(t *testing.T) {
	c := &fakeClient{}
	r, w := &infer.Request{}, infer.NewReply(c)
	w.Header().Set("Content-Type", "application/json")
	w.Commit(200)
	cause := errors.New("broke off")
	err := Refuse(r, w, cause)
	if !errors.Is(err, cause) {
		t.Fatalf("got %v, want an error that holds its cause", err)
	}
	w.Header().Set("Content-Type", "text/event-stream") // were it one, an event would do
	if refuse(r, w, err) || c.sent > 0 {
		t.Errorf("%d bytes were sent after it", c.sent)
	}
}

func TestContentTypes(t *testing.T) {
	f := func(contentType string, want bool) {
		t.Helper()
		r := &infer.Request{}
		if contentType != "" {
			r.Header.AddString("Content-Type", contentType)
		}
		if err := wantJSON(r); (err == nil) != want {
			t.Errorf("%q: %v, want it taken: %v", contentType, err, want)
		}
	}
	f("application/json", true)
	f("Application/JSON", true)
	f("application/json; charset=utf-8", true)
	f("application/json;charset=utf-8", true)
	f(" application/json ; x", true)
	f("application/vnd.api+json", true)
	f("APPLICATION/problem+JSON; x=y", true)
	f("application/+json", true)
	f("", false)
	f(";", false)
	f("json", false)
	f("text/json", false)
	f("application/jsonl", false)
	f("application/x-json", false)
	f("application/jſon", false)
	f("application/", false)
	f("text/plain; application/json", false)
	f("multipart/form-data; boundary=x+json", false)
}

// TestModelNames holds that names come out as they went in, however often.
func TestModelNames(t *testing.T) {
	for range 2 {
		for raw, want := range map[string]string{`"m"`: "m", `""`: "", `"a\u0062\n"`: "ab\n", `"é"`: "é", `"` + strings.Repeat("x", 1000) + `"`: strings.Repeat("x", 1000)} {
			if got := name([]byte(raw)); got != want {
				t.Errorf("%s is %q, want %q", raw, got, want)
			}
		}
	}
}
