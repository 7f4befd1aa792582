package mock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// An Engine is one simulated engine.
type Engine struct {
	cfg   Config // constant
	index int    // constant
	log   *slog.Logger

	faults *faults
	seen   *register
	ids    atomic.Uint64                // answers begun, for their ids
	sched  atomic.Pointer[scheduler]    // replaced by Restart: a new process has an empty cache
	models atomic.Pointer[[]string]     // never empty
	health atomic.Pointer[healthAnswer] // nil for a healthy engine
	ready  atomic.Int64                 // Unix nanoseconds from which it answers
	memo   *memo
	aborts aborts
	made   time.Time // constant; when it was created

	closing chan struct{} // closed by end
	tasks   sync.WaitGroup

	mu    sync.Mutex
	addr  string    // guarded by mu; host:port, the port never 0 after bind
	ln    *listener // guarded by mu; nil while killed
	run   *run      // guarded by mu; nil while not serving
	ended bool      // guarded by mu
}

// A run is an Engine's time between start and kill.
type run struct {
	srv    *http.Server
	cancel context.CancelCauseFunc
	crowd  crowd
}

// errKilled is why the contexts of a killed engine's requests ended.
var errKilled = errors.New("the engine was killed")

func newEngine(cfg Config, index int, log *slog.Logger) (*Engine, error) {
	fs, err := newFaults(cfg, index)
	if err != nil {
		return nil, err
	}
	e := &Engine{cfg: cfg, index: index, log: log.With("engine", index), faults: fs, seen: newRegister(), memo: newMemo(), made: time.Now(), closing: make(chan struct{})}
	models := append([]string{}, cfg.Models...)
	e.models.Store(&models)
	e.begin()
	return e, nil
}

// begin gives e the state of a new process.
func (e *Engine) begin() {
	e.sched.Store(newScheduler(e.cfg))
	e.ready.Store(time.Now().Add(e.cfg.StartupDelay).UnixNano())
}

// Handler answers as e does, without the network. Faults that need a
// connection abort the handler where there is none to take over.
func (e *Engine) Handler() http.Handler { return http.HandlerFunc(e.serve) }

// Addr returns host:port, good after Listen.
func (e *Engine) Addr() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.addr
}

// Seen returns what became of the requests so far.
func (e *Engine) Seen() Seen { return e.seen.seen() }

// Times says how often the request id came.
func (e *Engine) Times(id string) Times { return e.seen.times(id) }

// Running reports whether e listens and answers.
func (e *Engine) Running() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.run != nil
}

func (e *Engine) bind(addr string) error {
	l, err := listen(addr)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ln, e.addr = l, l.Addr().String()
	return nil
}

func (e *Engine) unbind() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ln != nil {
		_ = e.ln.Close() // nobody was answered on it
		e.ln = nil
	}
}

func (e *Engine) start() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ln == nil {
		return fmt.Errorf("starting engine %d: it does not listen", e.index)
	}
	e.startLocked()
	return nil
}

// startLocked serves on e.ln. e.mu must be held.
func (e *Engine) startLocked() {
	ctx, cancel := context.WithCancelCause(context.Background())
	r := &run{cancel: cancel}
	r.srv = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if !r.crowd.enter() {
				panic(http.ErrAbortHandler)
			}
			defer r.crowd.leave()
			e.serve(w, req)
		}),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		ErrorLog:          slog.NewLogLogger(e.log.Handler(), slog.LevelDebug),
		ReadHeaderTimeout: time.Minute,
	}
	if e.cfg.Engine == LlamaCPP {
		r.srv.IdleTimeout = llamaIdle
	}
	ln := e.ln
	e.run = r
	e.tasks.Go(func() {
		if err := r.srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			e.log.Error("engine stopped listening", "addr", ln.Addr(), "err", err)
		}
	})
	e.log.Debug("engine serves", "addr", ln.Addr())
}

// llamaIdle is how long llama.cpp keeps an idle connection, and says so.
const llamaIdle = 5 * time.Second

// connKey finds a request's connection in its context.
type connKey struct{}

// Kill takes e off the network as a crash does: its listener closes and every
// connection is reset. It returns when no request runs any more.
func (e *Engine) Kill() {
	e.mu.Lock()
	r := e.stopLocked(true)
	e.mu.Unlock()
	r.wait()
}

// stopLocked ends the present run and returns it, nil if there is none. Its
// handlers may still be on their way out. e.mu must be held.
func (e *Engine) stopLocked(reset bool) *run {
	r, ln := e.run, e.ln
	if r == nil {
		return nil
	}
	e.run, e.ln = nil, nil
	_ = ln.TCPListener.Close() // nobody else uses it
	if reset {
		ln.reset() // before any handler learns of it and ends its connection in peace
	}
	r.cancel(errKilled)
	_ = r.srv.Close() // closes the listener again, which fails
	e.log.Debug("engine stopped", "addr", e.addr)
	return r
}

// wait returns when r's handlers have ended. It must not be called by one, nor
// with the engine's mu held, because handlers take it.
func (r *run) wait() {
	if r != nil {
		r.crowd.wait()
	}
}

// Restart brings a killed engine back on its address, with an empty cache.
func (e *Engine) Restart() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.ended || e.addr == "":
		return fmt.Errorf("restarting engine %d: its fleet does not serve", e.index)
	case e.run != nil:
		return fmt.Errorf("restarting engine %d: it runs", e.index)
	}
	l, err := listen(e.addr)
	if err != nil {
		return fmt.Errorf("restarting engine %d: %w", e.index, err)
	}
	e.ln = l
	e.begin()
	e.startLocked()
	return nil
}

// killFor kills e, calls killed, and, if d is not 0, restarts e after d. It returns
// at once.
func (e *Engine) killFor(d time.Duration, killed func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		killed()
		return
	}
	e.tasks.Go(func() {
		e.Kill()
		killed()
		if d == 0 {
			return
		}
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
			// Somebody may have restarted it, or ended the fleet: both are as good.
			if err := e.Restart(); err != nil {
				e.log.Debug("engine not restarted", "err", err)
			}
		case <-e.closing:
		}
	})
}

// end stops e for good and waits for its goroutines.
func (e *Engine) end() {
	e.mu.Lock()
	if !e.ended {
		e.ended = true
		close(e.closing)
	}
	r := e.stopLocked(false)
	e.mu.Unlock()
	r.wait()
	e.unbind()
	e.tasks.Wait()
}

// A crowd counts the handlers of a run.
type crowd struct {
	mu     sync.Mutex
	n      int           // guarded by mu
	closed chan struct{} // guarded by mu; not nil once nobody may enter, closed when the last has left
}

func (c *crowd) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != nil {
		return false
	}
	c.n++
	return true
}

func (c *crowd) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n--
	if c.n == 0 && c.closed != nil {
		close(c.closed)
	}
}

// wait lets nobody in any more and returns when all have left.
func (c *crowd) wait() {
	c.mu.Lock()
	c.closed = make(chan struct{})
	if c.n == 0 {
		close(c.closed)
	}
	c.mu.Unlock()
	<-c.closed
}

// serve answers one request.
func (e *Engine) serve(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	e.sign(w.Header())
	if !e.allowed(r, path) {
		e.unauthorized(w)
		return
	}
	if strings.HasPrefix(path, "/mock/") {
		e.admin(w, r)
		return
	}
	if !e.isReady() {
		e.loading(w)
		return
	}
	if ep, ok := inferences[path]; ok {
		if r.Method != http.MethodPost {
			e.wrongMethod(w, http.MethodPost)
			return
		}
		e.infer(w, r, ep)
		return
	}
	e.inform(w, r)
}

func (e *Engine) isReady() bool { return time.Now().UnixNano() >= e.ready.Load() }

// serverNames and keepAlive are header values, shared so that a request does
// not allocate them. net/http only reads them.
var (
	serverNames = map[string][]string{SGLang: {"uvicorn"}, VLLM: {"uvicorn"}, LlamaCPP: {"llama.cpp"}}
	keepAlive   = []string{"timeout=5, max=100"}
)

// sign adds the headers that each answer of the engine has.
func (e *Engine) sign(h http.Header) {
	h["Server"] = serverNames[e.cfg.Engine]
	if e.cfg.Engine == LlamaCPP {
		h["Keep-Alive"] = keepAlive
	}
}

// allowed reports whether the request's key is right or not needed.
func (e *Engine) allowed(r *http.Request, path string) bool {
	if e.cfg.APIKey.Empty() || strings.HasPrefix(path, "/health") || path == "/ping" || path == "/metrics" {
		return true
	}
	if key := r.Header.Get("X-Api-Key"); key != "" {
		return e.cfg.APIKey.Equal([]byte(key))
	}
	scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.EqualFold(scheme, "bearer") && e.cfg.APIKey.Equal([]byte(key))
}
