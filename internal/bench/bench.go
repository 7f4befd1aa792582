// Package bench puts a server of inference under load and measures what its
// clients would see: the time to the first token, the gaps between tokens, the
// whole answer, and every way in which an answer can fail.
//
// There are two kinds of load. A closed loop keeps a number of requests
// running: each worker sends its next request when the last one is answered, so
// a slow server is asked less often. It finds out how much a server can do. An
// open loop begins requests at planned times, whatever became of those before,
// as independent users do; latency counts from the planned time, so a server
// that stalls for a second shows that second in every request that was due
// meanwhile. It finds out how a server feels at a given rate. What could not be
// begun because too many requests were running is counted as shed.
//
// Measured is what is planned after the warm-up. Distributions hold whole
// answers that came well, those too that ended after the last request had been
// sent. Rates count what fell into the measured time: a request that was partly
// outside counts for the part inside, so neither a slow start nor a long last
// answer bends them.
//
// The one idea of the code: a caller makes one request and returns an answer, a
// plain value; everything that is counted follows from answers, in one place,
// the recorder.
package bench

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/secret"
	"sluice/internal/kit/tracefile"
)

// world is what a run has to do with outside: tests put another one in its place.
type world struct {
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
	nap  func(time.Duration)

	notes io.Writer // nil for none
}

// Run sends the load that cfg describes and returns what came of it. progress,
// if not nil, is a terminal on which one line is kept up to date; it is blank
// again in the end. notes, if not nil, is told in lines, before anything is sent,
// what of a trace is left out.
//
// When ctx is done, Run cuts the requests that run and returns what was
// measured so far, with Interrupted set. An error means that nothing was sent:
// cfg is wrong, the trace cannot be read, or the process not be measured.
func Run(ctx context.Context, cfg Config, progress, notes io.Writer) (*Result, error) {
	d := net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	return run(ctx, cfg, progress, world{dial: d.DialContext, nap: nap, notes: notes})
}

func run(ctx context.Context, cfg Config, progress io.Writer, w world) (*Result, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	p := &prompts{seed: cfg.Seed, tokens: cfg.PromptTokens, shared: cfg.SharedPrefix, prefixes: uint64(cfg.Prefixes), output: cfg.OutputTokens}
	if cfg.Trace != "" {
		t, err := tracefile.Load(cfg.Trace)
		if err != nil {
			return nil, err
		}
		if t.Sessions != nil {
			return nil, fmt.Errorf("trace %s holds sessions, which can be simulated (sluice replay) and not be sent; want requests with a timestamp", cfg.Trace)
		}
		if t.Damage.Lines > 0 && w.notes != nil {
			fmt.Fprintf(w.notes, "sluice bench: trace %s: %v\n", cfg.Trace, t.Damage)
		}
		p.rows, p.block = t.Rows, cmp.Or(cfg.TraceBlock, t.BlockTokens)
	}
	var pl *player
	if cfg.Sessions != "" {
		s, err := loadScript(cfg.Sessions)
		if err != nil {
			return nil, err
		}
		pl = newPlayer(cfg, s)
	}
	var proc *process
	if cfg.PID != 0 {
		var err error
		if proc, err = openProcess(cfg.PID); err != nil {
			return nil, err
		}
	}
	e, _ := endpointNamed(cfg.Endpoint)
	url, err := targetURL(cfg.URL, e)
	if err != nil {
		return nil, err
	}
	tr := transport(cfg, w)
	defer tr.CloseIdleConnections()
	shape := answerShape
	if e == infer.Generate {
		shape = generateShape
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)

	start := time.Now()
	from := start.Add(cfg.Warmup)
	var until time.Time
	if cfg.Duration > 0 {
		until = from.Add(cfg.Duration)
	}
	l := &load{
		cfg: cfg, prompts: p, player: pl, body: newTemplate(cfg, e), rec: newRecorder(from, until), nap: w.nap,
		start: start, until: until, stop: stop,
		client: &client{tr: tr, url: url, header: requestHeader(cfg, e), shape: shape, stream: cfg.Stream, timeout: cfg.Timeout, hide: hider(cfg)},
	}
	m := newMeter(from, until, proc)
	var wg sync.WaitGroup
	wg.Go(m.run)
	if progress != nil {
		wg.Go(func() { showProgress(progress, l, m.end) })
	}
	l.run(ctx)
	if ctx.Err() != nil && !errors.Is(context.Cause(ctx), errMaxErrors) {
		l.end(stoppedByCancel)
	}
	close(m.end)
	wg.Wait()
	return newResult(cfg, shownURL(url), l, m), nil
}

// transport returns one that keeps every connection, asks no proxy, and takes
// bodies as they come.
func transport(cfg Config, w world) *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := w.dial(ctx, network, addr)
			if err != nil {
				return nil, &dialError{err}
			}
			return c, nil
		},
		TLSClientConfig:        &tls.Config{InsecureSkipVerify: cfg.Insecure},
		TLSHandshakeTimeout:    30 * time.Second,
		MaxIdleConnsPerHost:    maxConcurrency,
		MaxConnsPerHost:        cfg.Connections,
		DisableKeepAlives:      cfg.NoKeepalive,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 256 << 10,
		WriteBufferSize:        16 << 10,
		ReadBufferSize:         16 << 10,
	}
}

// hider returns a function that masks the secrets of cfg in a text: servers like
// to repeat a key that they refuse.
func hider(cfg Config) func(string) string {
	var words []string
	if !cfg.APIKey.Empty() {
		words = append(words, cfg.APIKey.Reveal())
	}
	for _, h := range cfg.Headers {
		_, value, err := splitHeader(h)
		if err != nil {
			continue
		}
		words = append(words, value)
		if _, token, ok := strings.Cut(value, " "); ok {
			words = append(words, strings.TrimSpace(token)) // without Bearer
		}
	}
	words = slices.DeleteFunc(words, func(w string) bool { return len(w) < 4 }) // too short to be a secret, or to be told from other text
	return func(s string) string {
		for _, w := range words {
			s = strings.ReplaceAll(s, w, secret.Mask)
		}
		return s
	}
}

// mode says in a word what kind of load cfg is.
func (c Config) mode() string {
	switch {
	case c.Concurrency > 0:
		return "closed"
	case c.Rate > 0:
		return "open"
	default:
		return "trace"
	}
}

// describe says in words what kind of load cfg is.
func (c Config) describe() string {
	what := ""
	if c.Sessions != "" {
		what = " sessions"
	}
	switch c.mode() {
	case "closed":
		return fmt.Sprintf("closed loop, %s%s at once", grouped(int64(c.Concurrency)), what)
	case "open":
		return fmt.Sprintf("open loop, %s%s/s, %s arrivals", trimFloat(c.Rate), what, c.Arrival)
	default:
		return fmt.Sprintf("trace times, %s× speed", trimFloat(c.TraceSpeed))
	}
}
