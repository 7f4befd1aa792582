package relay

import (
	"net/http"
	"strings"

	"sluice/internal/fleet"
	"sluice/internal/infer"
)

// sent says which of a client's header fields workers get; all others stay
// here. The request id is set by us.
var sent = map[string]bool{
	"accept":            true,
	"anthropic-beta":    true,
	"anthropic-version": true,
	"authorization":     true,
	"content-type":      true,
	"traceparent":       true,
	"tracestate":        true,
	"x-correlation-id":  true,
	"x-smg-routing-key": true,
}

// upstreamHeader builds what lead gets with r. Nothing of the client's is
// copied that is not on the list, nor what its Connection field names.
func upstreamHeader(r *infer.Request, lead *fleet.Worker) http.Header {
	h := make(http.Header, 8)
	own := lead.Authorization()
	for _, f := range r.Header.Fields() {
		name := strings.ToLower(string(f.Name))
		if !sent[name] && !strings.HasPrefix(name, "x-request-id-") {
			continue
		}
		if name == "authorization" && own != "" || r.Header.HasToken("Connection", name) {
			continue
		}
		key := http.CanonicalHeaderKey(name)
		if (name == "authorization" || name == "content-type") && h[key] != nil {
			continue // one only: the first, which the gateway has read
		}
		h[key] = append(h[key], string(f.Value))
	}
	if own != "" {
		h["Authorization"] = []string{own}
	}
	if r.Stream && lead.Info().ClosesStreams {
		// Said by us, or the next request would meet a connection that is
		// about to be closed, and fail.
		h["Connection"] = []string{"close"}
	}
	h["X-Request-Id"] = []string{r.ID}
	h["User-Agent"] = []string{"sluice"}
	return h
}

// kept says which fields of an answer are not the client's business: those of
// one connection (RFC 9110 §7.6.1), those that speak of the worker's own
// address, and those that the gateway sets itself. What Access-Control fields a
// worker sends are dropped too: which pages may read answers is the gateway's
// to say.
var kept = map[string]bool{
	"Alt-Svc":                true,
	"Connection":             true,
	"Keep-Alive":             true,
	"Proxy-Authenticate":     true,
	"Proxy-Authorization":    true,
	"Proxy-Connection":       true,
	"Te":                     true,
	"Trailer":                true,
	"Trailers":               true,
	"Transfer-Encoding":      true,
	"Upgrade":                true,
	"X-Request-Id":           true,
	"X-Smg-Routed-Worker-Id": true,
}

// clientHeader adds the fields of a worker's answer to dst.
func clientHeader(dst *infer.Header, src http.Header) {
	for name, values := range src {
		if kept[name] || strings.HasPrefix(name, "Access-Control-") || named(src["Connection"], name) {
			continue
		}
		for _, v := range values {
			dst.AddString(name, v)
		}
	}
}

// named reports whether one of the lists holds name.
func named(lists []string, name string) bool {
	for _, l := range lists {
		for part := range strings.SplitSeq(l, ",") {
			if strings.EqualFold(strings.TrimSpace(part), name) {
				return true
			}
		}
	}
	return false
}

func isEventStream(h http.Header) bool {
	t, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(t), "text/event-stream")
}

func isJSON(h http.Header) bool {
	t, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(t), "application/json")
}
