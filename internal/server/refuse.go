package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"sluice/internal/infer"
)

// ErrorCodeHeader names the error's code where a body's is not read.
const ErrorCodeHeader = "x-smg-error-code"

// Refuse answers r with err, which its handler returned, in the dialect of its
// client. It returns nil if the client has a whole answer, else an error for
// the front end, which cuts the connection and writes nothing more.
func Refuse(r *infer.Request, w *infer.Reply, err error) error {
	if refuse(r, w, err) {
		return nil
	}
	return &torn{err}
}

// torn is the error of a request whose client has been told all that it can be
// told, and has no whole answer.
type torn struct{ err error }

func (t *torn) Error() string { return "the answer is not whole: " + t.err.Error() }

func (t *torn) Unwrap() error { return t.err }

// refuse answers with err in the dialect of r's client. What is begun is ended
// as well as can be: a stream gets an error event. It reports whether the
// answer is whole; if not, the connection must be cut, or the client would
// take a part for the whole.
func refuse(r *infer.Request, w *infer.Reply, err error) (whole bool) {
	var t *torn
	if errors.As(err, &t) {
		return false
	}
	e := infer.AsError(err)
	if w.Committed() {
		if e.Status == infer.StatusClientGone || !isEventStream(w.Header()) {
			return false
		}
		if _, err := w.Write(errorEvent(r, e)); err != nil {
			return false
		}
		return w.Flush() == nil
	}
	h := w.Header()
	if e.Answer != nil && e.Answer.Body != nil {
		relayAnswer(h, e.Answer)
		body := e.Answer.Body
		if dialect(r) == infer.Anthropic {
			body = anthropicAnswer(r, e)
			h.Set("Content-Type", "application/json")
		}
		h.Set("Content-Length", strconv.Itoa(len(body)))
		w.Commit(e.Answer.Status)
		_, err := w.Write(body)
		return err == nil
	}
	if e.Status == infer.StatusClientGone {
		return false
	}
	h.Set(ErrorCodeHeader, e.Code)
	if e.Allow != "" {
		h.Set("Allow", e.Allow)
	}
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((e.RetryAfter+time.Second-1)/time.Second)))
	}
	return w.Send(e.Status, "application/json", errorBody(r, e)) == nil
}

// relayAnswer copies the header of a worker's answer. What the gates have set
// already stays.
func relayAnswer(h *infer.Header, a *infer.Answer) {
	for _, f := range a.Header.Fields() {
		h.AddString(string(f.Name), string(f.Value))
	}
}

// dialect is the shape in which r's client expects errors. Paths that no route
// answers count too: an SDK reads their errors as well.
func dialect(r *infer.Request) infer.Dialect {
	if r.Endpoint.Dialect() == infer.Anthropic || r.Path == "/v1/messages" || strings.HasPrefix(r.Path, "/v1/messages/") {
		return infer.Anthropic
	}
	return infer.OpenAI
}

type openAIError struct {
	Type    string  `json:"type"`
	Code    string  `json:"code"`
	Message string  `json:"message"`
	Param   *string `json:"param"`
}

type anthropicError struct {
	Type    string `json:"type"`
	Message string `json:"message"`
}

type anthropicEnvelope struct {
	Type      string         `json:"type"`
	Error     anthropicError `json:"error"`
	RequestID string         `json:"request_id"`
}

func errorBody(r *infer.Request, e *infer.Error) []byte {
	if dialect(r) == infer.Anthropic {
		return encode(anthropicEnvelope{"error", anthropicError{anthropicType(e.Status), e.Msg}, r.ID})
	}
	o := openAIError{Type: openAIType(e.Status), Code: e.Code, Message: e.Msg}
	if e.Param != "" {
		o.Param = &e.Param
	}
	return encode(map[string]openAIError{"error": o})
}

// errorEvent ends a stream that broke.
func errorEvent(r *infer.Request, e *infer.Error) []byte {
	if dialect(r) == infer.Anthropic {
		b := append([]byte("event: error\ndata: "), encode(anthropicEnvelope{"error", anthropicError{anthropicType(e.Status), e.Msg}, r.ID})...)
		return append(b, "\n\n"...)
	}
	var b []byte
	if r.Endpoint == infer.Responses {
		b = append(b, "event: error\n"...) // all events of that API have a name
	}
	b = append(b, "data: "...)
	b = append(b, encode(map[string]openAIError{"error": {Type: "stream_error", Code: e.Code, Message: e.Msg}})...)
	return append(b, "\n\n"...)
}

// anthropicAnswer is a worker's error in Anthropic's shape: its own bytes if
// they have that shape, else its message in ours.
func anthropicAnswer(r *infer.Request, e *infer.Error) []byte {
	var said struct {
		Type    string          `json:"type"`
		Error   json.RawMessage `json:"error"`
		Message string          `json:"message"` // SGLang
		Detail  json.RawMessage `json:"detail"`  // FastAPI
	}
	msg := e.Msg
	if json.Unmarshal(e.Answer.Body, &said) == nil {
		var inner struct {
			Type    string `json:"type"`
			Message string `json:"message"`
		}
		var text string
		switch {
		case json.Unmarshal(said.Error, &inner) == nil && inner.Message != "":
			if said.Type == "error" && inner.Type != "" {
				return e.Answer.Body
			}
			msg = inner.Message
		case json.Unmarshal(said.Error, &text) == nil && text != "":
			msg = text
		case said.Message != "":
			msg = said.Message
		case json.Unmarshal(said.Detail, &text) == nil && text != "":
			msg = text
		}
	}
	return encode(anthropicEnvelope{"error", anthropicError{anthropicType(e.Answer.Status), msg}, r.ID})
}

func openAIType(status int) string {
	switch {
	case status == http.StatusTooManyRequests:
		return "rate_limit_error"
	case status >= 500:
		return "server_error"
	}
	return "invalid_request_error"
}

// anthropicType is the error type of Anthropic's API reference, "Errors".
func anthropicType(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "authentication_error"
	case http.StatusForbidden:
		return "permission_error"
	case http.StatusNotFound:
		return "not_found_error"
	case http.StatusRequestEntityTooLarge:
		return "request_too_large"
	case http.StatusTooManyRequests:
		return "rate_limit_error"
	case http.StatusGatewayTimeout:
		return "timeout_error"
	case http.StatusServiceUnavailable, 529:
		return "overloaded_error"
	}
	if status >= 500 {
		return "api_error"
	}
	return "invalid_request_error"
}

// encode is json.Marshal without the escapes that HTML would want.
func encode(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic("BUG: an error body cannot be encoded: " + err.Error())
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

func isEventStream(h *infer.Header) bool {
	t, _, _ := strings.Cut(string(h.Get("Content-Type")), ";")
	return strings.EqualFold(strings.TrimSpace(t), "text/event-stream")
}
