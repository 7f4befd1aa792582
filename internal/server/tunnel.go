package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"

	"sluice/internal/infer"
	"sluice/internal/kit/h1"
)

// errTaken ends a conn whose connection somebody else has.
var errTaken = errors.New("the connection was given away")

// Tunnels implements infer.Tunneler. A request that asks for another protocol
// is served outside the callback in which it was read, so that who gets the
// connection can wait on it.
func (w *wire) Tunnels() bool {
	held := w.c.held
	return w.mode == modeNew && held != nil && held.head.Upgrade != nil && held.head.Framing() == h1.FramingNone && !w.head
}

// Tunnel implements infer.Tunneler.
func (w *wire) Tunnel() (net.Conn, []byte, error) {
	c := w.c
	w.header.Del("Content-Length") // RFC 9110 §8.6
	w.WriteHeader(http.StatusSwitchingProtocols)
	w.mode = modeNone
	w.keep(append(w.start(), h1.EndHead...))
	w.send(nil, standsIdle)
	if w.broken != nil {
		return nil, nil, w.broken
	}
	var early []byte
	if c.from < c.to {
		early = bytes.Clone(c.in.B[c.from:c.to])
		c.from = c.to
	}
	w.drop()
	c.request.Release()
	c.release()
	c.taken = true
	c.front.count.tunnels.Inc()
	return c.sock.Detach(), early, nil
}

// WebSocket is the gate of calls that are made through one, RFC 6455 §4.2.1. A
// call's model is in its query. pages says of which origins web pages may call;
// nil for all: browsers ask nobody before they open a WebSocket.
func WebSocket(pages func(origin []byte) bool) infer.Gate {
	return func(next infer.Handler) infer.Handler {
		return infer.HandlerFunc(func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
			if origin := r.Header.Get("Origin"); origin != nil && pages != nil && !pages(origin) {
				return &infer.Error{Status: http.StatusForbidden, Code: "origin_not_allowed",
					Msg: "Without an API key, pages of this origin may not call the gateway. Its operator allows origins with --cors-allowed-origins."}
			}
			if err := handshake(r, w); err != nil {
				return err
			}
			model, err := queryModel(r.Query)
			if err != nil {
				return err
			}
			r.Model, r.Stream = models.String([]byte(model)), true
			return next.Serve(ctx, r, w)
		})
	}
}

// websocketVersion is the one there is, RFC 6455 §4.1.
const websocketVersion = "13"

// handshake refuses what does not begin a WebSocket.
func handshake(r *infer.Request, w *infer.Reply) error {
	bad := func(msg string) error {
		return &infer.Error{Status: http.StatusBadRequest, Code: "bad_websocket_handshake", Msg: msg}
	}
	key, n := []byte(nil), 0
	for v := range r.Header.Values("Sec-WebSocket-Key") {
		key, n = v, n+1
	}
	switch {
	case r.Method != http.MethodGet:
		return bad("A WebSocket begins with a GET.")
	case !r.Header.HasToken("Upgrade", "websocket") || !r.Header.HasToken("Connection", "Upgrade"):
		w.Header().Set("Upgrade", "websocket") // RFC 9110 §15.5.22
		return &infer.Error{Status: http.StatusUpgradeRequired, Code: "websocket_required",
			Msg: "This call is made through a WebSocket. Send Upgrade: websocket and Connection: Upgrade, over HTTP/1.1."}
	case string(r.Header.Get("Sec-WebSocket-Version")) != websocketVersion:
		w.Header().Set("Sec-WebSocket-Version", websocketVersion) // RFC 6455 §4.4
		w.Header().Set("Upgrade", "websocket")
		return &infer.Error{Status: http.StatusUpgradeRequired, Code: "websocket_version", Msg: "Want Sec-WebSocket-Version: " + websocketVersion + "."}
	case n != 1:
		return bad("Want one Sec-WebSocket-Key.")
	case !isNonce(key):
		return bad("The Sec-WebSocket-Key is not 16 bytes in base64.")
	case !w.Tunnels():
		return bad("A WebSocket is opened by a GET without a body, over HTTP/1.1.")
	}
	return nil
}

func isNonce(key []byte) bool {
	var nonce [18]byte
	n, err := base64.StdEncoding.Decode(nonce[:], key[:min(len(key), 24)])
	return err == nil && n == 16 && len(key) == 24
}

// queryModel returns the model that a query names.
func queryModel(query string) (model string, err error) {
	n := 0
	for part := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(part, "=")
		if name, err := url.QueryUnescape(name); err != nil || name != "model" {
			continue
		}
		if model, err = url.QueryUnescape(value); err != nil {
			return "", &infer.Error{Status: http.StatusBadRequest, Code: "invalid_query", Param: "model", Msg: "The model in the query is not well escaped."}
		}
		n++
	}
	switch {
	case n > 1:
		return "", &infer.Error{Status: http.StatusBadRequest, Code: "duplicate_parameter", Param: "model",
			Msg: "The query names model twice; readers would disagree on which one counts."}
	case model == "":
		return "", missing("model")
	}
	return model, nil
}
