package mock

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// An inference is a call that runs on the engine.
type inference struct {
	read      func(*Engine, []byte) (*ask, *refusal)
	voice     func(*answer) voice
	anthropic bool // errors have Anthropic's shape
	free      bool // answered without the scheduler
}

// inferences are all by their paths.
var inferences = map[string]*inference{
	"/v1/chat/completions":      {read: readChat, voice: newChatVoice},
	"/v1/completions":           {read: readCompletion, voice: newCompletionVoice},
	"/v1/responses":             {read: readResponses, voice: newResponsesVoice},
	"/v1/messages":              {read: readMessages, voice: newMessagesVoice, anthropic: true},
	"/v1/messages/count_tokens": {read: readCountTokens, voice: newCountVoice, anthropic: true, free: true},
	"/generate":                 {read: readGenerate, voice: newGenerateVoice},
	"/v1/embeddings":            {read: readEmbeddings, voice: newEmbeddingVoice},
	"/v1/classify":              {read: readClassify, voice: newClassVoice},
	"/v1/rerank":                {read: readRerank, voice: newRerankVoice},
	"/rerank":                   {read: readRerank, voice: newRerankVoice},
}

// A voice words one answer in its dialect. For a stream start is called once,
// when the first token is there; then piece for each token and endChoice after
// the last of each choice; then finish. whole is called instead if the answer
// is not streamed.
type voice interface {
	start(ev *events)
	piece(ev *events, choice, i int)
	endChoice(ev *events, choice int)
	finish(ev *events)
	whole(b []byte) []byte
}

// An answer is an ask that runs.
type answer struct {
	*ask
	engine  string
	model   string // as the answer names it
	cfg     *Config
	serial  uint64 // tells this engine's answers apart
	created time.Time
	job     *job
}

// id returns an id for the answer that begins with prefix.
func (a *answer) id(prefix string) string {
	return prefix + strconv.FormatUint(a.serial|1<<60, 16)
}

// usage is what an answer cost, in tokens.
type usage struct {
	prompt, cached, output, thought int
}

func (u usage) total() int { return u.prompt + u.output }

// usageOf counts all choices, made tokens of each.
func (a *answer) usageOf(made func(choice int) int) usage {
	var u usage
	for i, s := range a.job.seqs {
		u.prompt += s.prompt
		if s.made.Load() >= 0 {
			u.cached += s.cached
		}
		for c := i * a.n; c < (i+1)*a.n; c++ {
			n := made(c)
			u.output += n
			u.thought += min(n, a.plans[c].think)
		}
	}
	return u
}

// full is the usage of the complete answer.
func (a *answer) full() usage {
	return a.usageOf(func(c int) int { return len(a.plans[c].pieces) })
}

// A call is a request on its way through infer.
type call struct {
	*out
	ep   *inference
	path string
	id   string // the request's, "" if it has none
	rid  string // as the body has it
	how  outcome
}

// infer answers a call for inference.
func (e *Engine) infer(w http.ResponseWriter, r *http.Request, ep *inference) {
	flusher, ok := w.(http.Flusher)
	if !ok {
		panic("BUG: a response writer that cannot flush")
	}
	c := &call{
		out: &out{w: w, flusher: flusher, ctx: r.Context(), per: e.cfg.EventsPerWrite},
		ep:  ep, path: r.URL.Path, id: r.Header.Get("X-Request-Id"),
	}
	own, bad := fromHeader(r)
	c.fault = own
	if own == nil {
		c.fault = e.faults.draw(c.path, time.Now())
	}
	if bad == nil && c.fault != nil && c.fault.ending == endRefuse {
		e.seen.came(c.id)
		defer e.seen.ended(c.id, faulted, false)
		if c.pause(c.fault.Delay) == nil {
			_ = c.hangUp(true) // what comes of it is the client's to see
		}
		return
	}
	body, a, refused := e.readAsk(r, ep)
	if refused == nil || bad != nil {
		refused = bad
	}
	if a != nil && own == nil && a.fault != "" {
		f, err := ParseFault(a.fault)
		if err != nil {
			refused = refuse("user", "%v", err)
		}
		c.fault = &f
	}
	if a != nil {
		c.rid = a.rid
	}
	if c.id == "" {
		c.id = c.rid
	}
	e.seen.came(c.id)
	defer func() { e.seen.ended(c.id, c.how, c.begun) }()
	if e.cfg.Speed > 0 {
		defer e.aborts.enter(c)()
	}
	e.settle(c, e.answer(c, a, refused))
	buffers.Put(body)
}

// settle notes what became of c, by the error that ended it.
func (e *Engine) settle(c *call, err error) {
	var refused *refusal
	switch {
	case err == nil && c.fault != nil && c.fault.shows():
		c.how = faulted
	case err == nil:
		c.how = served
	case errors.As(err, &refused):
		c.how = invalid
		e.refuse(c.w, c.ep.anthropic, refused)
	case errors.Is(err, errQueueFull):
		c.how = queueFull
		e.refuse(c.w, c.ep.anthropic, &refusal{status: e.cfg.QueueStatus, msg: "The request queue is full."})
	case errors.Is(context.Cause(c.ctx), errKilled):
		c.how = killed
		c.drop()
	case errors.Is(context.Cause(c.ctx), errAborted):
		c.how = cancelled
		e.sayAborted(c)
	case errors.Is(err, errBroken):
		c.how = faulted
		c.drop()
	default:
		c.how = cancelled
		c.drop()
	}
}

// drop ends an answer that is not complete so that net/http does not complete
// it. It does not return if net/http serves.
func (c *call) drop() {
	if c.ctx.Value(http.ServerContextKey) != nil {
		panic(http.ErrAbortHandler)
	}
}

// fromHeader returns the fault that the request's header asks for.
func fromHeader(r *http.Request) (*Fault, *refusal) {
	spec := r.Header.Get("X-Mock-Fault")
	if spec == "" {
		return nil, nil
	}
	f, err := ParseFault(spec)
	if err != nil {
		return &Fault{}, refuse("x-mock-fault", "%v", err)
	}
	return &f, nil
}

// answer plays c's fault and answers a, or returns what refuses it.
func (e *Engine) answer(c *call, a *ask, refused *refusal) error {
	if refused == nil || c.fault != nil && c.fault.shows() {
		if err := c.before(); err != nil {
			return err
		}
		if f := c.fault; f != nil && f.Status != 0 {
			if f.RetryAfter > 0 {
				c.w.Header().Set("Retry-After", strconv.Itoa(int(f.RetryAfter/time.Second)))
			}
			e.refuse(c.w, c.ep.anthropic, &refusal{status: f.Status, msg: "simulated fault"})
			return nil
		}
	}
	if refused != nil {
		return refused
	}
	run := &answer{ask: a, engine: e.cfg.Engine, cfg: &e.cfg, model: a.model, serial: mix(e.ids.Add(1) + uint64(e.index)<<40), created: time.Now()}
	if run.model == "" {
		run.model = (*e.models.Load())[0]
	}
	return e.perform(c, run)
}

// perform takes a through the scheduler and says it.
func (e *Engine) perform(c *call, a *answer) error {
	seqs := make([]sequence, len(a.needs))
	list := make([]*sequence, len(a.needs))
	for i := range seqs {
		seqs[i].need, seqs[i].eager = a.needs[i], a.stream
		list[i] = &seqs[i]
	}
	a.job = newJob(list...)
	v := c.ep.voice(a)
	if !c.ep.free {
		d := e.sched.Load()
		switch err := d.submit(a.job); {
		case errors.Is(err, errTooLarge):
			return refuse("", "The request needs more room than the KV cache of %d tokens has.", e.cfg.KVTokens)
		case err != nil:
			return err
		}
		defer d.leave(a.job)
	}
	ev := eventPool.Get().(*events)
	defer func() {
		if cap(ev.b) <= maxPooled {
			ev.reset()
			eventPool.Put(ev)
		}
	}()
	if a.stream {
		return c.tell(a, v, ev)
	}
	for !c.ep.free && !a.job.done() {
		if err := c.await(a.job); err != nil {
			return err
		}
	}
	ev.b = v.whole(ev.b)
	return c.body(ev.b)
}

// await waits until j got on.
func (c *call) await(j *job) error {
	select {
	case <-j.wake:
		return nil
	case <-c.ctx.Done():
		return errGone
	}
}

// tell streams a as its tokens are made.
func (c *call) tell(a *answer, v voice, ev *events) error {
	told := make([]int, len(a.plans))
	open, left := false, len(a.plans)
	for {
		for i, s := range a.job.seqs {
			made := int(s.made.Load())
			if made < 0 {
				continue
			}
			if !open {
				open = true
				if err := c.open(typeSSE, -1); err != nil {
					return err
				}
				v.start(ev)
			}
			for k := i * a.n; k < (i+1)*a.n; k++ {
				n := len(a.plans[k].pieces)
				for told[k] < min(made, n) {
					v.piece(ev, k, told[k])
					told[k]++
					if len(ev.b) > flushAt {
						if err := c.events(ev); err != nil {
							return err
						}
						ev.reset()
					}
				}
				if told[k] == n {
					v.endChoice(ev, k)
					told[k]++ // past its end: not again
					left--
				}
			}
		}
		if left == 0 {
			break
		}
		if err := c.events(ev); err != nil {
			return err
		}
		ev.reset()
		if err := c.await(a.job); err != nil {
			return err
		}
	}
	v.finish(ev)
	if err := c.events(ev); err != nil {
		return err
	}
	return c.close()
}

const (
	flushAt   = 32 << 10 // bytes of events that are gathered at most
	maxPooled = 256 << 10
)

var (
	eventPool = sync.Pool{New: func() any { return new(events) }}
	buffers   = sync.Pool{New: func() any { return new([]byte) }}
)

// readAsk reads the body and what it asks. The buffer that it returns is the
// caller's to give back once the answer is sent.
func (e *Engine) readAsk(r *http.Request, ep *inference) (*[]byte, *ask, *refusal) {
	buf := buffers.Get().(*[]byte)
	tooLarge := &refusal{status: http.StatusRequestEntityTooLarge, msg: "The request body is too large."}
	if r.ContentLength > e.cfg.MaxBody {
		return buf, nil, tooLarge
	}
	body, err := readAll((*buf)[:0], io.LimitReader(r.Body, e.cfg.MaxBody+1))
	if cap(body) <= maxPooled {
		*buf = body
	}
	switch {
	case err != nil:
		return buf, nil, refuse("", "the body could not be read: %v", err)
	case int64(len(body)) > e.cfg.MaxBody:
		return buf, nil, tooLarge
	}
	if a := e.memo.get(ep, body); a != nil {
		if f := e.knows(a.model); f != nil {
			return buf, a, f
		}
		return buf, a, nil
	}
	a, refused := ep.read(e, body)
	if refused != nil {
		return buf, a, refused
	}
	if f := e.knows(a.model); f != nil {
		return buf, a, f
	}
	if f := a.prepare(e.cfg); f != nil {
		return buf, a, f
	}
	if e.cfg.Speed == 0 {
		e.memo.put(ep, body, a)
	}
	return buf, a, nil
}

// readAll appends all of r to b.
func readAll(b []byte, r io.Reader) ([]byte, error) {
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if errors.Is(err, io.EOF) {
			return b, nil
		}
		if err != nil {
			return b, err
		}
	}
}

// knows returns a refusal if the engine is one that serves only its own
// models, and this is none.
func (e *Engine) knows(model string) *refusal {
	if e.cfg.Engine != VLLM || model == "" {
		return nil
	}
	for _, m := range *e.models.Load() {
		if m == model {
			return nil
		}
	}
	return &refusal{status: http.StatusNotFound, param: "model", code: "model_not_found", msg: "The model `" + model + "` does not exist."}
}
