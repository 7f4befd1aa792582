package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/intern"
	"sluice/internal/kit/peek"
)

// The keys that routing and refusing need of every body come first.
const (
	keyModel = iota
	keyStream
	keyTemperature
	keyMessages
	keyTools
)

// A shape is what is looked for in the bodies of one endpoint.
type shape struct {
	keys   *peek.Keys
	prompt []int  // keys, by index, whose values make the prompt, in the order in which engines read them
	texts  uint32 // the same, a bit each
}

// mostKeys bounds the keys of a shape.
const mostKeys = 8

// newShape returns the shape of bodies whose prompt is made of the values of
// keys, of no more than two of them at once, and of tools before them.
func newShape(keys ...string) shape {
	names := []string{keyModel: "model", keyStream: "stream", keyTemperature: "temperature", keyMessages: "messages", keyTools: "tools"}
	var s shape
	for _, key := range keys {
		i := slices.Index(names, key)
		if i < 0 {
			i = len(names)
			names = append(names, key)
		}
		s.prompt = append(s.prompt, i)
		s.texts |= 1 << i
	}
	s.keys = peek.NewKeys(names...)
	return s
}

var shapes = [infer.NumEndpoints]shape{
	infer.Local:       newShape(),
	infer.Realtime:    newShape(),
	infer.Chat:        newShape("documents", "messages"),
	infer.Completions: newShape("prompt"),
	infer.Responses:   newShape("instructions", "input"),
	infer.Messages:    newShape("system", "messages"),
	infer.CountTokens: newShape("system", "messages"),
	infer.Embeddings:  newShape("input", "messages"),
	infer.Classify:    newShape("input", "messages", "text"),
	infer.Rerank:      newShape("query"),
	infer.Generate:    newShape("text", "input_ids", "prompt"),
}

// Body is the gate that reads the body and finds what routing needs in it.
// The gates before it judge a client by its header alone.
//
// A body of more than above bytes is left with the client, if blind says that
// requests can be routed unread now; nobody looks into it then. above 0 is no
// such body. If texts says that requests' texts are looked at, one is made while
// the body is read; nil is no.
//
// What no worker could answer is refused here, unless repairs says that somebody
// behind may make another request of it, or answer it: then it goes on with its
// Fault, and Sound has to stand before the workers. nil is nobody. A body that
// cannot be had goes to nobody.
func Body(limit, above int64, blind, texts func() bool, repairs func(*infer.Request) bool) infer.Gate {
	if above <= 0 || above > limit {
		above = limit
	}
	read := func(r *infer.Request) (left bool, err error) {
		if above == limit || !passable(r.Endpoint) {
			return false, r.ReadBody(limit)
		}
		longer, err := r.ReadShortBody(above, limit)
		if !longer || err != nil {
			return false, err
		}
		if !blind() {
			return false, r.ReadBody(limit)
		}
		r.LeaveBody(limit)
		return true, nil
	}
	return func(next infer.Handler) infer.Handler {
		return infer.HandlerFunc(func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
			if r.Fault = wantJSON(r); r.Fault != nil && (repairs == nil || !repairs(r)) {
				return r.Fault
			}
			left, err := read(r)
			switch {
			case r.Fault != nil && err != nil:
				return r.Fault // what would be said without the body
			case err != nil:
				return err
			case r.Fault != nil:
				return next.Serve(ctx, r, w)
			}
			r.Fault = judge(r, left, !left && texts != nil && texts())
			if r.Fault != nil && (repairs == nil || !repairs(r)) {
				return r.Fault
			}
			return next.Serve(ctx, r, w)
		})
	}
}

// judge sets what routing needs of r, which is said to be JSON, and returns why no
// worker could answer it. Of a body that was left with the client the header
// alone tells.
func judge(r *infer.Request, left, text bool) error {
	version := anthropicVersion(r)
	if left {
		return version
	}
	if err := look(r, text); version == nil {
		return err
	}
	return version
}

// Sound is the gate that refuses what Body has found a fault with and nobody has
// repaired since.
func Sound(next infer.Handler) infer.Handler {
	return infer.HandlerFunc(func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
		if r.Fault != nil {
			return r.Fault
		}
		return next.Serve(ctx, r, w)
	})
}

// passable reports whether a body of e may go to a worker that nobody has looked
// into. SGLang's answer to rerank is wrapped, which what was asked has a say in.
func passable(e infer.Endpoint) bool { return e != infer.Rerank }

// JSON is the gate that reads a body and believes its Content-Type. limit is not of
// the settings.
func JSON(limit int64) infer.Gate {
	return func(next infer.Handler) infer.Handler {
		return infer.HandlerFunc(func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
			if err := wantJSON(r); err != nil {
				return err
			}
			if err := r.ReadFixed(limit); err != nil {
				return err
			}
			return next.Serve(ctx, r, w)
		})
	}
}

// wantJSON refuses a body that says it is something else, or is packed.
func wantJSON(r *infer.Request) error {
	t := r.Header.Get("Content-Type")
	if !isJSON(t) {
		t, _, _ = bytes.Cut(t, []byte(";"))
		t = bytes.ToLower(bytes.TrimSpace(t))
		msg := "The request has no Content-Type; want Content-Type: application/json."
		if len(t) > 0 {
			msg = fmt.Sprintf("The Content-Type is %q; want application/json.", t[:min(len(t), 64)])
		}
		return &infer.Error{Status: http.StatusUnsupportedMediaType, Code: "unsupported_media_type", Msg: msg}
	}
	if enc := r.Header.Get("Content-Encoding"); len(enc) > 0 && !equalFold(enc, "identity") {
		return &infer.Error{Status: http.StatusUnsupportedMediaType, Code: "unsupported_media_type",
			Msg: fmt.Sprintf("The Content-Encoding %q is not understood; send the body as it is.", enc[:min(len(enc), 64)])}
	}
	return nil
}

// isJSON reports whether a Content-Type is application/json, or one of those
// whose name says that they are written in it (RFC 6839 §3.1).
func isJSON(t []byte) bool {
	const begin, end = "application/", "+json"
	if string(t) == "application/json" {
		return true
	}
	t, _, _ = bytes.Cut(t, []byte(";"))
	t = bytes.TrimSpace(t)
	if len(t) < len(begin) || !equalFold(t[:len(begin)], begin) {
		return false
	}
	t = t[len(begin):]
	return equalFold(t, "json") || len(t) >= len(end) && equalFold(t[len(t)-len(end):], end)
}

// equalFold compares b with s, which is in small letters, without the case of
// ASCII letters. Of others it knows none: bytes.EqualFold takes the Kelvin sign
// for a k.
func equalFold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != s[i] {
			return false
		}
	}
	return true
}

// look sets what routing needs of r's body, and refuses what no worker could
// answer. With text it makes the text, too.
func look(r *infer.Request, text bool) error {
	form := &shapes[r.Endpoint]
	var got [mostKeys]peek.Value
	if text && len(form.prompt) > 0 {
		if err := readText(r, form, &got); err != nil {
			r.DropText()
			return badBody(err)
		}
	} else if err := peek.Object(r.Body, form.keys, got[:]); err != nil {
		return badBody(err)
	}
	raw := func(k int) []byte { return r.Body[got[k].Start:got[k].End] }
	switch v := got[keyModel]; v.Kind {
	case peek.String:
		r.Model = name(raw(keyModel))
		r.ModelAt, r.ModelEnd = v.Start, v.End
	case peek.Absent, peek.Null:
	default:
		return wrongType("model", "a string")
	}
	switch got[keyStream].Kind {
	case peek.Bool:
		r.Stream = peek.IsTrue(raw(keyStream))
	case peek.Absent, peek.Null:
	default:
		return wrongType("stream", "true or false")
	}
	if r.Extract == nil {
		notePrompt(r, form, &got)
	}
	switch r.Endpoint {
	case infer.Generate, infer.Rerank:
		return nil // the fleet's one model will do
	}
	if r.Model == "" {
		return missing("model")
	}
	switch r.Endpoint {
	case infer.Chat, infer.Messages, infer.CountTokens:
		switch v := got[keyMessages]; {
		case v.Kind == peek.Absent || v.Kind == peek.Null:
			return missing("messages")
		case v.Kind != peek.Array:
			return wrongType("messages", "an array")
		case peek.ArrayEmpty(raw(keyMessages)):
			return &infer.Error{Status: http.StatusBadRequest, Code: "empty_array", Param: "messages",
				Msg: "Invalid 'messages': empty array. Expected an array with minimum length 1."}
		}
	}
	if r.Endpoint == infer.Chat && got[keyTemperature].Kind == peek.Number {
		return temperature(string(raw(keyTemperature)))
	}
	return nil
}

// readText finds in r's body what form is of, as peek.Object does, and makes its
// text.
func readText(r *infer.Request, form *shape, got *[mostKeys]peek.Value) error {
	var parts [mostKeys]peek.Part
	dst, err := peek.ObjectText(r.Body, form.keys, got[:], form.texts, r.LendText(), parts[:])
	if err != nil {
		return err
	}
	if notePrompt(r, form, got); r.Extract == nil {
		r.DropText()
		return nil
	}
	r.SetText(inOrder(r, form, got, &parts, dst))
	return nil
}

// inOrder makes of the parts of text, which are in the order in which they came,
// the text of those that r's prompt is made of, in the order in which engines read
// them.
func inOrder(r *infer.Request, form *shape, got *[mostKeys]peek.Value, parts *[mostKeys]peek.Part, text []byte) []byte {
	var chosen [len(r.TextAt)]peek.Part
	n, prompts, next, done := 0, 1, 0, true
	for _, k := range form.prompt {
		if got[k].Kind >= peek.String && prompts < len(r.TextAt) {
			prompts++
			if p := parts[k]; p.End > p.Start {
				done = done && p.Start == next
				chosen[n], next = p, p.End+1
				n++
			}
		}
	}
	if begin := len(text); !done || next != begin+1 {
		for _, p := range chosen[:n] {
			if len(text) > begin {
				text = append(text, '\n')
			}
			text = append(text, text[p.Start:p.End]...)
		}
		text = text[:copy(text, text[begin:])]
	}
	at := r.TextAt[0]
	if at.End == 0 {
		return text
	}
	// The tools come first, as they are written.
	tools, had := r.Body[at.Start:at.End], len(text)
	if had == 0 {
		return append(text, tools...)
	}
	text = slices.Grow(text, len(tools)+1)[:had+len(tools)+1]
	copy(text[len(tools)+1:], text[:had])
	text[copy(text, tools)] = '\n'
	return text
}

// notePrompt sets where r's prompt is: what prefix policies compare.
func notePrompt(r *infer.Request, form *shape, got *[mostKeys]peek.Value) {
	n := 1
	for _, k := range form.prompt {
		if v := &got[k]; v.Kind >= peek.String && n < len(r.TextAt) {
			r.TextAt[n] = infer.Span{Start: v.Start, End: v.End}
			n++
		}
	}
	if n == 1 {
		return
	}
	if v := &got[keyTools]; v.Kind == peek.Array && !peek.ArrayEmpty(r.Body[v.Start:v.End]) {
		r.TextAt[0] = infer.Span{Start: v.Start, End: v.End}
	}
	r.Extract = peek.AppendText
}

// models are the names of models that were asked for lately.
var models intern.Table

// name returns the text of a JSON string.
func name(raw []byte) string {
	if inner := raw[1 : len(raw)-1]; bytes.IndexByte(inner, '\\') < 0 {
		return models.String(inner)
	}
	s, _ := peek.StringValue(raw)
	return s
}

// anthropicVersion refuses a version that is not a date. It may be absent:
// engines do not ask for it.
func anthropicVersion(r *infer.Request) error {
	if r.Endpoint.Dialect() != infer.Anthropic {
		return nil
	}
	for v := range r.Header.Values("anthropic-version") { // workers get all
		if _, err := time.Parse(time.DateOnly, string(v)); err != nil {
			return &infer.Error{Status: http.StatusBadRequest, Code: "invalid_anthropic_version",
				Msg: fmt.Sprintf("anthropic-version: %q is not a valid version", v[:min(len(v), 64)])}
		}
	}
	return nil
}

// temperature holds to the range of the API reference.
func temperature(s string) error {
	if len(s) == 1 && s <= "2" || len(s) == 3 && s < "2" && s[1] == '.' {
		return nil // what nearly all ask for, as 1 or 0.7
	}
	switch t, err := strconv.ParseFloat(s, 64); {
	case err != nil || t > 2:
		return &infer.Error{Status: http.StatusBadRequest, Code: "decimal_above_max_value", Param: "temperature", Msg: "The temperature is above 2."}
	case t < 0:
		return &infer.Error{Status: http.StatusBadRequest, Code: "decimal_below_min_value", Param: "temperature", Msg: "The temperature is below 0."}
	}
	return nil
}

// badBody says what is wrong with a body that is not one JSON object. The client is
// told all of err, so that there is no more for the log.
func badBody(err error) error {
	var dup *peek.DuplicateError
	if errors.As(err, &dup) {
		return &infer.Error{Status: http.StatusBadRequest, Code: "duplicate_parameter", Param: dup.Key,
			Msg: fmt.Sprintf("The key %q stands twice in the body; readers would disagree on which one counts.", dup.Key)}
	}
	return &infer.Error{Status: http.StatusBadRequest, Code: "json_parse_error",
		Msg: "The request body is not a JSON object: " + err.Error() + "."}
}

func missing(key string) error {
	return &infer.Error{Status: http.StatusBadRequest, Code: "missing_required_parameter", Param: key, Msg: fmt.Sprintf("Missing required parameter: '%s'.", key)}
}

func wrongType(key, want string) error {
	return &infer.Error{Status: http.StatusBadRequest, Code: "invalid_type", Param: key, Msg: fmt.Sprintf("Invalid type for '%s': want %s.", key, want)}
}
