package server

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"sluice/internal/infer"
)

// TestWhoMayRepairARequest holds that what is wrong with a request goes with it if
// somebody may repair it, with all that is known of it, and is refused in the end
// as it would have been at once; that nobody is shown a body which cannot be had;
// and that without somebody it is refused before its body is read.
func TestWhoMayRepairARequest(t *testing.T) {
	const js, sound = "application/json", `{"model":"m","messages":[1]}`
	long := `{"text":"` + strings.Repeat("a", 1<<10) + `"}`
	tests := []struct {
		name, path, kind, version, body string
		code                            string // "" for none
		seen                            string // by who may repair it, "" for nothing
		unread                          bool   // without him, its body is not read
	}{
		{"sound", "/v1/messages", js, "", sound, "", "m " + sound, false},
		{"no JSON", "/v1/messages", js, "", `{`, "json_parse_error", " {", false},
		{"empty", "/v1/messages", js, "", ``, "json_parse_error", " ", false},
		{"no messages", "/v1/messages", js, "", `{"model":"m"}`, "missing_required_parameter", `m {"model":"m"}`, false},
		{"another type", "/v1/messages", "text/plain", "", sound, "unsupported_media_type", " " + sound, true},
		{"another version", "/v1/messages", js, "x", sound, "invalid_anthropic_version", "m " + sound, false},
		{"another version and no JSON", "/v1/messages", js, "x", `{`, "invalid_anthropic_version", " {", false},
		{"too long", "/v1/messages", js, "", long + long, "request_body_too_large", "", true},
		{"too long, and of another type", "/v1/messages", "text/plain", "", long + long, "unsupported_media_type", "", true},
		{"left with the client", "/generate", js, "", long, "", " left", false},
		{"left with the client, of another type", "/generate", "text/plain", "", long, "unsupported_media_type", " left", true},
	}
	for _, tt := range tests {
		for _, may := range []bool{false, true} {
			r := &infer.Request{Endpoint: infer.Messages, Path: tt.path}
			if tt.path == "/generate" {
				r.Endpoint = infer.Generate
			}
			r.Header.AddString("Content-Type", tt.kind)
			if tt.version != "" {
				r.Header.AddString("Anthropic-Version", tt.version)
			}
			src := strings.NewReader(tt.body)
			r.SetBody(infer.NewBody(src, int64(len(tt.body))))
			seen, served := "", false
			repairer := func(next infer.Handler) infer.Handler {
				return infer.HandlerFunc(func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
					seen = r.Model + " " + string(r.Body)
					if r.Left() {
						seen += "left"
					}
					return next.Serve(ctx, r, w)
				})
			}
			h := infer.Chain(infer.HandlerFunc(func(context.Context, *infer.Request, *infer.Reply) error {
				served = true
				return nil
			}), Body(2<<10-1, 1<<10, func() bool { return true }, nil, func(*infer.Request) bool { return may }), repairer, Sound)
			code := ""
			if err := h.Serve(t.Context(), r, infer.NewReply(nil)); err != nil {
				code = infer.AsError(err).Code
			}
			want := tt.seen
			if !may && tt.code != "" {
				want = ""
			}
			if name := fmt.Sprintf("%s, may %t", tt.name, may); code != tt.code || seen != want || served != (code == "") {
				t.Errorf("%s: %q, seen %q, served %t; want %q and %q", name, code, seen, served, tt.code, want)
			} else if unread := src.Len() == len(tt.body); !may && len(tt.body) > 0 && tt.code != "" && unread != tt.unread {
				t.Errorf("%s: its body is unread: %t", name, unread)
			}
		}
	}
}

// FuzzLookAgain holds that what Look says of a request is what Body has said: who
// repairs requests gets none past it that a client could not.
func FuzzLookAgain(f *testing.F) {
	f.Add("application/json", "", []byte(`{"model":"m","messages":[1]}`), byte(infer.Chat))
	f.Add("text/plain", "", []byte(`{"model":"m","messages":[1]}`), byte(infer.Messages))
	f.Add("application/json; a=b", "2023-01-01", []byte(`{"model":"m"}`), byte(infer.Messages))
	f.Add("application/json", "x", []byte(`{`), byte(infer.CountTokens))
	f.Add("application/json", "", []byte(`{"model":5}`), byte(infer.Generate))
	f.Fuzz(func(t *testing.T, kind, version string, body []byte, e byte) {
		r := &infer.Request{Endpoint: infer.Endpoint(e % infer.NumEndpoints)}
		if !looked(r.Endpoint) {
			return
		}
		r.Header.AddString("Content-Type", kind)
		if version != "" {
			r.Header.AddString("Anthropic-Version", version)
		}
		r.SetBody(infer.NewBody(strings.NewReader(string(body)), int64(len(body))))
		var model string
		h := Body(1<<20, 0, nil, nil, nil)(infer.HandlerFunc(func(_ context.Context, r *infer.Request, _ *infer.Reply) error {
			model = r.Model
			return nil
		}))
		err := h.Serve(t.Context(), r, infer.NewReply(nil))
		r.SetBytes(body)
		again := Look(r)
		if fmt.Sprint(err) != fmt.Sprint(again) || err == nil && model != r.Model {
			t.Fatalf("Body says %v, model %q; Look %v, model %q", err, model, again, r.Model)
		}
		if header := LookHeader(r); header != nil && fmt.Sprint(header) != fmt.Sprint(err) {
			t.Fatalf("LookHeader says %v, Body %v", header, err)
		}
	})
}

// TestWhatIsWrongIsSaidOnce holds that the log has each word of why a body is none
// once, as the client does.
func TestWhatIsWrongIsSaidOnce(t *testing.T) {
	for body, cause := range map[string]string{`no JSON`: "at offset", `{"model":"m"}{}`: "at offset", `{"model":"m","model":"n"}`: `"model"`} {
		r := &infer.Request{Endpoint: infer.Chat}
		r.Header.AddString("Content-Type", "application/json")
		r.SetBytes([]byte(body))
		err := Look(r)
		if e := infer.AsError(err); err == nil || strings.Count(e.Msg, cause) != 1 {
			t.Errorf("%s: the client is told %q, want %q once", body, e.Msg, cause)
		} else if n := strings.Count(err.Error(), cause); n != 1 {
			t.Errorf("%s: the log has %d times %q: %v", body, n, cause, err)
		}
	}
}
