package server

import (
	"net/http"
	"strings"
	"testing"

	"sluice/internal/infer"
)

func TestAnthropicVersion(t *testing.T) {
	work := Body(1<<10, 0, nil, nil, nil)(echo)
	s := gateway(t, Route{"POST", "/v1/messages", infer.Messages, work}, Route{"POST", "/v1/chat/completions", infer.Chat, work})
	for _, tt := range []struct {
		path, version string
		status        int
	}{
		{"/v1/messages", "", 200},
		{"/v1/messages", "2023-06-01", 200},
		{"/v1/messages", "1", 400},
		{"/v1/messages", "2023-13-01", 400},
		{"/v1/messages", "2023-06-01 soon", 400}, // two fields
		{"/v1/chat/completions", "1", 200},
	} {
		req, err := http.NewRequest("POST", s.URL+tt.path, strings.NewReader(`{"model":"m","messages":[1]}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		for v := range strings.FieldsSeq(tt.version) {
			req.Header.Add("Anthropic-Version", v)
		}
		res, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if code := res.Header.Get("x-smg-error-code"); res.StatusCode != tt.status || tt.status == 400 && code != "invalid_anthropic_version" {
			t.Errorf("%s with version %q: %d %s, want %d", tt.path, tt.version, res.StatusCode, code, tt.status)
		}
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}
