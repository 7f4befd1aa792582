package trace

import (
	"encoding/hex"

	otel "go.opentelemetry.io/otel/trace"
)

// A Context ties a span to its trace, as W3C Trace Context has it. The zero
// Context belongs to no trace.
type Context struct{ sc otel.SpanContext }

const (
	traceAt  = 3
	parentAt = traceAt + 32 + 1
	flagsAt  = parentAt + 16 + 1
	length   = flagsAt + 2 // of a traceparent of version 00
)

// known is the flags that mean something: sampled, and random trace id. W3C
// has all others ignored, and sent as zero.
const known = otel.FlagsSampled | otel.FlagsRandom

// Parse reads the values of traceparent and tracestate, W3C Trace Context §3.
// It returns the zero Context if traceparent is malformed, of version ff, or
// names trace or parent 0; a later version is read as far as version 00 goes.
// A malformed tracestate is as good as none. Several tracestate fields are
// given as one, joined by commas.
func Parse(traceparent, tracestate string) Context {
	p := traceparent
	if len(p) < length || p[traceAt-1] != '-' || p[parentAt-1] != '-' || p[flagsAt-1] != '-' {
		return Context{}
	}
	var version, flags [1]byte
	var c otel.SpanContextConfig
	if !unhex(version[:], p[:2]) || !unhex(c.TraceID[:], p[traceAt:]) || !unhex(c.SpanID[:], p[parentAt:]) || !unhex(flags[:], p[flagsAt:]) {
		return Context{}
	}
	if version[0] == 0xff || len(p) > length && (version[0] == 0 || p[length] != '-') {
		return Context{}
	}
	c.TraceFlags = otel.TraceFlags(flags[0]) & known
	c.TraceState, _ = otel.ParseTraceState(tracestate) // the zero TraceState beside an error
	c.Remote = true
	sc := otel.NewSpanContext(c)
	if !sc.IsValid() {
		return Context{}
	}
	return Context{sc}
}

// unhex fills dst from the hex digits that s begins with, which has enough
// bytes. Capitals are none: W3C forbids them.
func unhex(dst []byte, s string) bool {
	s = s[:2*len(dst)]
	for i := range len(s) {
		if c := s[i]; c < '0' || c > '9' && c < 'a' || c > 'f' {
			return false
		}
	}
	_, err := hex.Decode(dst, []byte(s))
	return err == nil
}

// Traceparent returns c as the header of that name, "" for the zero Context.
func (c Context) Traceparent() string {
	if !c.sc.IsValid() {
		return ""
	}
	trace, span := c.sc.TraceID(), c.sc.SpanID()
	b := make([]byte, 0, length)
	b = append(b, "00-"...)
	b = hex.AppendEncode(b, trace[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, span[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, []byte{byte(c.sc.TraceFlags() & known)})
	return string(b)
}

// Tracestate returns what vendors have said of the trace, "" if nothing.
func (c Context) Tracestate() string { return c.sc.TraceState().String() }
