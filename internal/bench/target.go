package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"sluice/internal/infer"
)

// targetURL returns the URL that requests for e go to. A path that ends in /,
// or that is /v1, or none, is a base; any other is asked as it is.
func targetURL(raw string, e infer.Endpoint) (*url.URL, error) {
	if raw == "" {
		return nil, errors.New("url is missing; give the server's, for example http://127.0.0.1:30000")
	}
	if !strings.Contains(raw, "://") {
		raw = "http://" + raw
	}
	u, err := url.Parse(raw)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // without the URL, which may hold a password
		}
		return nil, fmt.Errorf("reading url: %w", err)
	}
	switch {
	case u.User != nil:
		return nil, errors.New("url must not hold a user or password; use api-key or header")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("url scheme %q is neither http nor https", u.Scheme)
	case u.Hostname() == "":
		return nil, fmt.Errorf("url %q names no host", u.Redacted())
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.Atoi(p); err != nil || n < 1 || n > 65535 {
			return nil, fmt.Errorf("url port %q is not between 1 and 65535", p)
		}
	}
	path, want := u.Path, e.Path()
	switch {
	case path == "" || strings.HasSuffix(path, "/"):
		path = strings.TrimSuffix(path, "/")
		if strings.HasSuffix(path, "/v1") && strings.HasPrefix(want, "/v1/") {
			path = strings.TrimSuffix(path, "/v1")
		}
		u.Path, u.RawPath = path+want, ""
	case strings.HasSuffix(path, "/v1"):
		u.Path, u.RawPath = strings.TrimSuffix(path, "/v1")+want, ""
	}
	u.Fragment, u.RawFragment = "", ""
	return u, nil
}

// shownURL is u as results show it: a query may hold a key.
func shownURL(u *url.URL) string {
	v := *u
	if v.RawQuery != "" {
		v.RawQuery = "…"
	}
	return v.Scheme + "://" + v.Host + v.EscapedPath() + map[bool]string{true: "?…"}[v.RawQuery != ""]
}

// requestHeader returns the header that all requests share. It is only read
// once requests run.
func requestHeader(c Config, e infer.Endpoint) http.Header {
	h := http.Header{"Content-Type": {"application/json"}, "User-Agent": {"sluice-bench"}}
	if c.Stream {
		h["Accept"] = []string{"text/event-stream"}
	}
	if e.Dialect() == infer.Anthropic {
		h["Anthropic-Version"] = []string{"2023-06-01"}
	}
	if !c.APIKey.Empty() {
		h["Authorization"] = []string{"Bearer " + c.APIKey.Reveal()}
		if e.Dialect() == infer.Anthropic {
			h["X-Api-Key"] = []string{c.APIKey.Reveal()}
		}
	}
	given := http.Header{}
	for _, s := range c.Headers {
		if name, value, err := splitHeader(s); err == nil { // Validate has refused others
			given[name] = append(given[name], value)
		}
	}
	for name, values := range given {
		h[name] = values
	}
	return h
}

// A template makes request bodies: fixed text around a system text, a prompt
// and an output length. The texts are words of ours and need no escaping.
type template struct {
	open      string // before everything
	sysOpen   string // around the system text; left out, with it, where there is none
	sysClose  string
	textOpen  string // around the prompt
	textClose string
	maxOpen   string // before the number of output tokens; empty where none is sent
	close     string
	inline    bool // the system text has no place of its own and stands before the prompt
}

func newTemplate(c Config, e infer.Endpoint) template {
	model := quote(c.Model)
	stream := ""
	if c.Stream {
		stream = `,"stream":true`
	}
	eos := ""
	if c.IgnoreEOS {
		eos = `,"ignore_eos":true`
	}
	usage := ""
	if c.Stream {
		usage = `,"stream_options":{"include_usage":true}`
	}
	switch e {
	case infer.Completions:
		return template{open: `{"model":` + model + stream + usage + eos, textOpen: `,"prompt":"`, textClose: `"`, maxOpen: `,"max_tokens":`, close: `}`, inline: true}
	case infer.Responses:
		return template{open: `{"model":` + model + stream + eos, sysOpen: `,"instructions":"`, sysClose: `"`, textOpen: `,"input":"`, textClose: `"`, maxOpen: `,"max_output_tokens":`, close: `}`}
	case infer.Messages:
		return template{open: `{"model":` + model + stream + eos, sysOpen: `,"system":"`, sysClose: `"`, textOpen: `,"messages":[{"role":"user","content":"`, textClose: `"}]`, maxOpen: `,"max_tokens":`, close: `}`}
	case infer.Generate:
		return template{open: `{"model":` + model + stream, textOpen: `,"text":"`, textClose: `","sampling_params":{"temperature":0` + eos, maxOpen: `,"max_new_tokens":`, close: `}}`, inline: true}
	case infer.Embeddings:
		return template{open: `{"model":` + model, textOpen: `,"input":"`, textClose: `"`, close: `}`, inline: true}
	default:
		return template{
			open: `{"model":` + model + stream + usage + eos + `,"messages":[`, sysOpen: `{"role":"system","content":"`, sysClose: `"},`,
			textOpen: `{"role":"user","content":"`, textClose: `"}]`, maxOpen: `,"max_tokens":`, close: `}`,
		}
	}
}

// body returns a new request body for p. It belongs to the request alone: a
// transport may still read it after it has returned.
func (t *template) body(p *prompts, j plan) []byte {
	b := make([]byte, 0, len(t.open)+len(t.sysOpen)+len(t.textOpen)+4*j.words()+len(t.close)+96)
	b = append(b, t.open...)
	if n := j.shared; n > 0 && !t.inline {
		b = append(b, t.sysOpen...)
		b = p.appendShared(b, j)
		b = append(b[:len(b)-1], t.sysClose...)
	}
	b = append(b, t.textOpen...)
	if j.shared > 0 && t.inline {
		b = p.appendShared(b, j)
	}
	b = p.appendOwn(b, j)
	if b[len(b)-1] == ' ' {
		b = b[:len(b)-1]
	}
	b = append(b, t.textClose...)
	if t.maxOpen != "" {
		b = append(b, t.maxOpen...)
		b = strconv.AppendInt(b, int64(max(j.output, 1)), 10)
	}
	return append(b, t.close...)
}

func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic("BUG: a string does not marshal: " + err.Error())
	}
	return string(b)
}
