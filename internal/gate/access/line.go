package access

import (
	"context"
	"log/slog"
	"time"
	"unicode/utf8"

	"sluice/internal/infer"
)

// maxValue is how many bytes of what a client says are logged.
const maxValue = 256

// probes are asked every few seconds by machines, and a gateway that is not
// ready says so in its metrics; a line for each would bury the others.
var probes = map[string]bool{"/health": true, "/liveness": true, "/readiness": true}

// A line is what the log says of a request beside what it was.
type line struct {
	result
	took time.Duration
	err  error
}

// write logs a request: what was asked, what became of it, and what it took.
// Header fields, the query and bodies are never in it.
func (g *gate) write(ctx context.Context, r *infer.Request, w *infer.Reply, wire *wire, l line) {
	level := slog.LevelInfo
	switch {
	case probes[r.Route]:
		level = slog.LevelDebug
	case l.status >= 500 || l.code == "stream_error":
		level = slog.LevelWarn
	}
	if g.cfg.NoAccessLog || !g.log.Enabled(ctx, level) {
		return
	}
	var space [20]slog.Attr
	attrs := append(space[:0],
		slog.String("id", r.ID),
		slog.String("method", cut(r.Method)),
		slog.String("path", cut(r.Path)),
		slog.Int("status", l.status),
		slog.Float64("duration_ms", milliseconds(l.took)),
		slog.Int("bytes_in", int(r.Size)),
		slog.Int64("bytes_out", wire.sent),
		slog.String("remote", r.Remote.Unmap().String()),
	)
	if l.code != "" {
		attrs = append(attrs, slog.String("error", l.code))
	}
	if l.err != nil {
		if cause := infer.AsError(l.err).Err; cause != nil {
			attrs = append(attrs, slog.String("cause", cut(cause.Error())))
		}
	}
	if r.Endpoint != infer.Local {
		s := &w.Served
		attrs = append(attrs,
			slog.String("model", cut(r.Model)),
			slog.Bool("stream", r.Stream),
			slog.String("worker", s.Worker),
			slog.Int("tries", s.Tries),
			slog.Float64("ttft_ms", milliseconds(s.FirstByte)),
			slog.Int64("input_tokens", s.Tokens.Input),
			slog.Int64("cached_tokens", s.Tokens.Cached),
			slog.Int64("output_tokens", s.Tokens.Output),
		)
	}
	// Past log.LogAttrs, which would look up this line's place in the source.
	record := slog.NewRecord(r.Received.Add(l.took), level, "request", 0)
	record.AddAttrs(attrs...)
	_ = g.log.Handler().Handle(ctx, record) // nobody is left to tell
}

// milliseconds returns d to the microsecond.
func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

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
