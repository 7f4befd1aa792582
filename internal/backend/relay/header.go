package relay

import (
	"bytes"
	"errors"
	"strconv"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/h1"
)

// goes says which of a client's header fields workers get; all others stay
// here. The request id is set by us.
func goes(name []byte) bool {
	const ours = "x-request-id-"
	if len(name) >= len(ours) && h1.EqualFold(name[:len(ours)], ours) {
		return true
	}
	switch len(name) {
	case 6:
		return h1.EqualFold(name, "accept")
	case 10:
		return h1.EqualFold(name, "tracestate")
	case 11:
		return h1.EqualFold(name, "traceparent")
	case 12:
		return h1.EqualFold(name, "content-type")
	case 13:
		return h1.EqualFold(name, "authorization")
	case 14:
		return h1.EqualFold(name, "anthropic-beta")
	case 16:
		return h1.EqualFold(name, "x-correlation-id")
	case 17:
		return h1.EqualFold(name, "anthropic-version") || h1.EqualFold(name, "x-smg-routing-key")
	}
	return false
}

// isOnce says which fields a request to a worker has at most once: the first,
// which the gateway has read.
func isOnce(name []byte) (index int, ok bool) {
	switch {
	case h1.EqualFold(name, "authorization"):
		return 0, true
	case h1.EqualFold(name, "content-type"):
		return 1, true
	}
	return 0, false
}

var errHead = errors.New("a header field cannot be sent")

// appendHead appends the head of the request that lead gets with r. Nothing of
// the client's is copied that is not on the list, nor what its Connection field
// names. The body will have length bytes, -1 if nobody knows.
func appendHead(b []byte, r *infer.Request, lead *fleet.Worker, p *peer, length int64) ([]byte, error) {
	b = append(b, p.lines[r.Endpoint]...)
	b = append(b, p.fixed...)
	ok := true
	own := lead.Authorization()
	connection := options(&r.Header)
	had := [2]bool{0: own != ""}
	for _, f := range r.Header.Fields() {
		if !goes(f.Name) || connection && r.Header.HasToken("Connection", string(f.Name)) {
			continue
		}
		if i, once := isOnce(f.Name); once {
			if had[i] {
				continue
			}
			had[i] = true
		}
		var k bool
		b, k = h1.AppendField(b, f.Name, f.Value)
		ok = ok && k
	}
	field := func(name, value string) {
		var k bool
		b, k = h1.AppendField(b, name, value)
		ok = ok && k
	}
	if own != "" {
		field("Authorization", own)
	}
	if (r.Stream || r.Left()) && lead.Info().ClosesStreams {
		// Said by us, or the next request would meet a connection that is
		// about to be closed, and fail.
		field("Connection", "close")
	}
	if rank, ok := lead.Rank(); ok {
		field("X-Data-Parallel-Rank", strconv.Itoa(rank))
	}
	field("X-Request-Id", r.ID)
	if !ok {
		return b, errHead
	}
	if length >= 0 {
		b, _ = h1.AppendContentLength(b, length)
	} else {
		b = append(b, h1.ChunkedField...)
	}
	return append(b, h1.EndHead...), nil
}

// options reports whether a Connection field says more than what every client
// says.
func options(h *infer.Header) bool {
	for v := range h.Values("Connection") {
		if !bytes.EqualFold(v, []byte("keep-alive")) && !bytes.EqualFold(v, []byte("close")) {
			return true
		}
	}
	return false
}

// stays says which fields of an answer are not the client's business, beside
// those of one connection: those that speak of the worker's own address, and
// those that the gateway sets itself. What Access-Control fields a worker sends
// are dropped too: which pages may read answers is the gateway's to say.
func stays(name []byte) bool {
	const cors = "access-control-"
	if len(name) > len(cors) && h1.EqualFold(name[:len(cors)], cors) {
		return true
	}
	switch len(name) {
	case 7:
		return h1.EqualFold(name, "alt-svc")
	case 8:
		return h1.EqualFold(name, "trailers")
	case 12:
		return h1.EqualFold(name, "x-request-id")
	case 18:
		return h1.EqualFold(name, "proxy-authenticate")
	case 19:
		return h1.EqualFold(name, "proxy-authorization")
	case 22:
		return h1.EqualFold(name, "x-smg-routed-worker-id")
	}
	return false
}

// keepHeader copies to dst the fields of a worker's answer that are for the
// client. The length of the body is not among them.
func keepHeader(dst *infer.Header, h *h1.ResponseHead) {
	for i := range h.Fields {
		if f := &h.Fields[i]; h.Passes(i) && !stays(f.Name) {
			dst.AddCopy(f.Name, f.Value)
		}
	}
}

// isType reports whether a Content-Type is lower, with whatever parameters.
func isType(t []byte, lower string) bool {
	if len(t) < len(lower) || !h1.EqualFold(t[:len(lower)], lower) {
		return false // values have no space around them
	}
	t = bytes.TrimLeft(t[len(lower):], " \t")
	return len(t) == 0 || t[0] == ';'
}
