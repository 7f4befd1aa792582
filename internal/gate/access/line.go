package access

import (
	"log/slog"
	"time"
	"unicode/utf8"

	"sluice/internal/infer"
)

// maxValue is how many bytes of what a client says are logged.
const maxValue = 256

// A line is what the log says of a request beside what it was.
type line struct {
	result
	took time.Duration
	err  error
}

// level says how much a line matters.
func (l *line) level(route string) slog.Level {
	switch route {
	case "/health", "/liveness", "/readiness":
		// Machines ask for these every few seconds, and a gateway that is not
		// ready says so in its metrics; a line for each would bury the others.
		return slog.LevelDebug
	}
	if l.status >= 500 || l.code == "stream_error" {
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// write logs a request: what was asked, what became of it, and what it took.
// Header fields, the query and bodies are never in it.
func (g *gate) write(r *infer.Request, w *infer.Reply, wire *wire, l line) {
	level := l.level(r.Route)
	if g.cfg.NoAccessLog || !g.Lines.Enabled(level) {
		return
	}
	e := g.Lines.Begin(r.Received.Add(l.took), level, "request")
	e.Str("id", r.ID)
	e.Str("method", cut(r.Method))
	e.Str("path", cut(r.Path))
	e.Int("status", int64(l.status))
	e.Millis("duration_ms", l.took)
	e.Int("bytes_in", r.Size+w.Served.TunnelIn)
	e.Int("bytes_out", wire.sent+w.Served.TunnelOut)
	if r.Unix {
		e.Str("remote", "unix")
	} else {
		e.Addr("remote", r.Remote.Unmap())
	}
	if r.Tenant != "" {
		e.Str("tenant", r.Tenant)
	}
	if l.code != "" {
		e.Str("error", l.code)
	}
	if l.err != nil {
		if cause := infer.AsError(l.err).Err; cause != nil {
			e.Str("cause", cut(cause.Error()))
		}
	}
	if r.Endpoint != infer.Local {
		s := &w.Served
		e.Str("model", cut(r.Model))
		e.Bool("stream", r.Stream)
		e.Str("worker", s.Worker)
		e.Int("tries", int64(s.Tries))
		e.Millis("ttft_ms", s.FirstByte)
		e.Int("input_tokens", s.Tokens.Input)
		e.Int("cached_tokens", s.Tokens.Cached)
		e.Int("output_tokens", s.Tokens.Output)
		if s.Module != "" {
			e.Str("module", s.Module)
		}
	}
	e.End()
}

// cut returns at most maxValue bytes of s, and no torn rune.
func cut(s string) string {
	if len(s) <= maxValue {
		return s
	}
	n := maxValue
	for n > maxValue-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
