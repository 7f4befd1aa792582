// Package relay serves requests by passing them on, byte for byte, to workers
// that speak the client's own API over HTTP.
//
// One call of Serve is one upstream request. What can still be answered by
// another worker is returned as an error and nothing is sent to the client: an
// answer is begun with its first byte of body, so a worker that dies between
// header and body is not noticed.
package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
)

const (
	connectTimeout = 10 * time.Second
	keepAlive      = 30 * time.Second
	maxHeader      = 64 << 10 // of an answer; larger ones are refused

	// idlePerWorker bounds unused connections to one worker. A burst that
	// ends leaves no more than this many behind.
	idlePerWorker = 1024
)

// A Backend relays to HTTP workers.
type Backend struct {
	rt http.RoundTripper
}

// New returns a Backend that sends through rt.
func New(rt http.RoundTripper) *Backend { return &Backend{rt: rt} }

// Transport returns what production Backends send through. The caller closes
// its idle connections at the end.
//
// Proxies named by the environment are not asked: workers are neighbours.
// Compression is left as client and worker agree on it.
func Transport(cfg Config) *http.Transport {
	d := &net.Dialer{Timeout: connectTimeout, KeepAlive: keepAlive}
	return &http.Transport{
		DialContext:            d.DialContext,
		MaxIdleConns:           0,
		MaxIdleConnsPerHost:    idlePerWorker,
		IdleConnTimeout:        cfg.PoolIdle,
		TLSHandshakeTimeout:    connectTimeout,
		MaxResponseHeaderBytes: maxHeader,
		DisableCompression:     true,
		ReadBufferSize:         8 << 10,
		WriteBufferSize:        8 << 10,
	}
}

// Serve implements route.Backend.
func (b *Backend) Serve(ctx context.Context, r *infer.Request, w *infer.Reply, t fleet.Team) error {
	out, err := http.NewRequestWithContext(ctx, http.MethodPost, t.Lead.Base()+r.Endpoint.Path(), bytes.NewReader(r.Body))
	if err != nil {
		return &infer.Error{Status: http.StatusInternalServerError, Code: "call_upstream_builder_error", Msg: "The request to the worker could not be built.", Err: err}
	}
	out.Header = upstreamHeader(r, t.Lead)
	res, err := b.rt.RoundTrip(out)
	if err != nil {
		return failed(ctx, err)
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode < 200:
		return &infer.Error{Status: http.StatusBadGateway, Code: "call_upstream_decode_error", Msg: "The worker's answer is not one.", Retry: true, Err: errors.New(res.Status)}
	case res.StatusCode >= 300 && res.StatusCode < 400:
		// Following it would hand the request, key and all, to whoever the
		// worker names.
		return &infer.Error{Status: http.StatusBadGateway, Code: "call_upstream_redirect_error", Msg: "The worker redirects, which is not followed.", Retry: true, Err: errors.New(res.Status)}
	case retryable(res.StatusCode), res.StatusCode >= 400 && r.Endpoint.Dialect() == infer.Anthropic:
		return refused(ctx, res)
	case res.StatusCode == http.StatusOK && r.Endpoint == infer.Rerank:
		return rerank(ctx, r, w, res)
	case isEventStream(res.Header):
		return stream(ctx, r, w, res)
	}
	return whole(ctx, r, w, res)
}

// retryable reports whether another worker may do better than status.
func retryable(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// failed names what went wrong before an answer's header was in. What has been
// sent may have been worked on; sending it to another worker is still right,
// because the client gets one answer.
func failed(ctx context.Context, err error) error {
	if e := infer.Ended(ctx, err); e != nil {
		return e
	}
	e := &infer.Error{Status: http.StatusBadGateway, Code: "call_upstream_connection_failed", Msg: "The worker could not be reached.", Retry: true, Err: err}
	var op *net.OpError
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		e.Status, e.Code, e.Msg = http.StatusGatewayTimeout, "call_upstream_timeout", "The worker did not take a connection in time."
	case errors.As(err, &op), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), strings.Contains(err.Error(), "server closed idle connection"):
		e.Msg = "The worker closed the connection before it answered."
		if op != nil && op.Op == "dial" {
			e.Msg = "The worker could not be reached."
		}
	case notHTTP(err.Error()):
		e.Code, e.Msg = "call_upstream_decode_error", "The worker's answer is not HTTP."
	}
	return e
}

// notHTTP reports whether an error of net/http's says that an answer came which
// breaks the rules. It has no types for them.
func notHTTP(text string) bool {
	for _, s := range []string{"malformed", "invalid", "exceeded", "transport connection broken"} {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

// maxRefusal bounds how much of a worker's error is kept to be relayed when no
// other worker does better.
const maxRefusal = 1 << 20

// refused reads an answer that another worker may better, or that has to be
// said in the client's dialect, and returns it as an error.
func refused(ctx context.Context, res *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(res.Body, maxRefusal+1))
	retry := retryable(res.StatusCode)
	if err != nil {
		if e := infer.Ended(ctx, err); e != nil {
			return e
		}
		return &infer.Error{Status: http.StatusBadGateway, Code: "call_upstream_body_error", Msg: "The worker's answer broke off.", Retry: true, Err: err}
	}
	e := &infer.Error{
		Status: res.StatusCode, Code: "call_upstream_status_error", Retry: retry,
		Msg: "The worker answered " + strconv.Itoa(res.StatusCode) + ".",
		Err: errors.New("worker answered " + res.Status),
	}
	if s := res.Header.Get("Retry-After"); s != "" {
		if secs, err := strconv.Atoi(s); err == nil && secs > 0 && secs < 86400 {
			e.RetryAfter = time.Duration(secs) * time.Second
		}
	}
	a := &infer.Answer{Status: res.StatusCode, Body: body}
	if len(body) > maxRefusal {
		a.Body = nil // too long to be an error message; ours is sent instead
	}
	clientHeader(&a.Header, res.Header)
	a.Header.Del("Content-Length")
	e.Answer = a
	return e
}

// BackPressure reports whether err is a worker's word that it has enough to do:
// another worker should be asked, and nothing is wrong with this one.
func BackPressure(err error) bool {
	var e *infer.Error
	if !errors.As(err, &e) || e.Answer == nil {
		return false
	}
	switch e.Answer.Status {
	case http.StatusTooManyRequests:
		return true
	case http.StatusServiceUnavailable:
		return e.RetryAfter > 0 || saysFull(e.Answer.Body)
	}
	return false
}

// saysFull looks for the words in which engines say that their queue is full.
func saysFull(body []byte) bool {
	b := bytes.ToLower(body[:min(len(body), 4<<10)])
	for _, s := range []string{"queue", "overload", "too many", "capacity", "busy"} {
		if bytes.Contains(b, []byte(s)) {
			return true
		}
	}
	return false
}
