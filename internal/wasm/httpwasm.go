package wasm

import (
	"context"
	"errors"
	"fmt"

	"github.com/tetratelabs/wazero"

	"sluice/internal/wasm/component"
	"sluice/internal/wasm/core"
	"sluice/internal/wasm/httpwasm"
)

// An http-wasm module is run as a component is: it is a code with one part,
// whose hooks are the two functions of its ABI. What differs is that an instance
// is lent to a request until handle_response has been called, or the Call is
// released.

// An Edit is a change of a header, as http-wasm modules make them.
type Edit = httpwasm.Edit

// heldFor is by how much more instances an http-wasm module may have than
// Settings say: they are held while an answer is waited for.
const heldFor = 16

// httpHooks are the hooks of an http-wasm module. The answer of one that has not
// asked to have it before it is sent is over when it sees it.
func httpHooks() (hooks [NumHooks]*component.Func) {
	export := func(name string) *component.Item { return &component.Item{Kind: core.Func, Name: name} }
	o := component.Options{Memory: &component.Item{Kind: core.Memory, Name: httpwasm.Memory}}
	request := &component.Func{Name: httpwasm.HandleRequest, Core: export(httpwasm.HandleRequest), Options: o}
	response := &component.Func{Name: httpwasm.HandleResponse, Core: export(httpwasm.HandleResponse), Options: o}
	hooks[OnRequest], hooks[OnResponse], hooks[OnEnd] = request, response, response
	return hooks
}

// compileHTTP checks, rewrites and compiles an http-wasm module.
func compileHTTP(ctx context.Context, m *core.Module, limits Limits, cache wazero.CompilationCache) (c *code, err error) {
	if err := httpwasm.Check(m); err != nil {
		return nil, err
	}
	if err := checkCode(m); err != nil {
		return nil, err
	}
	made := &code{plan: new(component.Plan), world: httpwasm.World, hooks: httpHooks(), limits: limits, http: true}
	links, err := made.importHTTP(m)
	if err != nil {
		return nil, err
	}
	out, err := core.Rewrite(m, core.Options{Links: links, Stack: limits.Stack, Pages: limits.MemoryPages})
	if err != nil {
		return nil, err
	}
	made.frozen = out.Frozen
	made.rt = newRuntime(ctx, limits, cache)
	defer func() {
		if err != nil { // c is nil then
			made.close(ctx)
		}
	}()
	compiled, err := compileCore(ctx, made.rt, m, out)
	if err != nil {
		return nil, fmt.Errorf("compiling it: %w", err)
	}
	made.parts = []part{{compiled: compiled, rewrite: out, name: partName(0)}}
	if err := made.hostFunctions(ctx); err != nil {
		return nil, err
	}
	return made, nil
}

// importHTTP makes the host's functions that m imports, each once.
func (c *code) importHTTP(m *core.Module) ([]core.Link, error) {
	links := make([]core.Link, len(m.Imports))
	slots := make(map[[2]string]int)
	for i := range m.Imports {
		im := &m.Imports[i]
		f, err := httpwasm.Import(im)
		if err != nil {
			return nil, err
		}
		key := [2]string{im.Module, im.Name}
		slot, known := slots[key]
		if !known {
			slot = len(c.builtins)
			slots[key] = slot
			c.builtins = append(c.builtins, &component.Builtin{Type: im.Type})
			c.hosts = append(c.hosts, hostFunc{name: im.Module + "#" + im.Name, f: func(in *instance, st []uint64) {
				if in.word.Load()&stateOf != running {
					panic(errLate)
				}
				switch err := f(in.http, in.mods[0].Memory(), st); {
				case err == nil:
				case in.call == nil:
					panic(err) // initialize looks at it
				default:
					trap("%v", err)
				}
			}})
		}
		links[i] = core.Link{Module: hostModule, Name: slotName(slot)}
	}
	return links, nil
}

// errLate ends a call that was stopped and calls the host: what the host does is
// no fuel, so a guest that does nothing else would see late that it is to end.
var errLate = errors.New("it did not end in time")

// initialize calls what the guest exports to be called first.
func (in *instance) initialize() error {
	for _, name := range httpwasm.Starts {
		f := in.mods[0].ExportedFunction(name)
		if f == nil {
			continue
		}
		err := f.CallWithStack(in.ctx, nil)
		exit, ended := errors.AsType[*httpwasm.ExitError](err)
		switch {
		case err == nil:
		case ended && exit.Status == 0: // a command that has done what it had to
			in.rearm()
		case ended:
			return fmt.Errorf("starting it: %w; it wrote %q", exit, in.out.Text)
		default:
			return fmt.Errorf("starting it: %w; it wrote %q", in.fault(err), in.out.Text)
		}
	}
	in.out.reset()
	return nil
}

// surroundings are what an instance of an http-wasm module has around it.
type surroundings struct{ in *instance }

// maxLines is how many lines a guest may write to the log in one call.
const maxLines = 64

// Config implements httpwasm.Host.
func (s surroundings) Config() []byte { return s.in.code.config }

// Logs implements httpwasm.Host. What a guest says while it starts goes where its
// standard streams go.
func (s surroundings) Logs(level int32) bool {
	if level < -1 || level > 2 {
		return false
	}
	c := s.in.call
	return c == nil || c.listens(s.in.ctx, levels[level+1])
}

// Log implements httpwasm.Host.
func (s surroundings) Log(level int32, msg []byte) {
	in := s.in
	if in.call == nil {
		in.out.write(msg)
		return
	}
	if in.lines++; in.lines > maxLines {
		in.out.Lost += min(len(msg), mostOutput)
		return
	}
	in.spend(mostOutput)
	in.call.say(in.ctx, levels[level+1], string(msg[:min(len(msg), mostOutput)]))
}

// Works implements httpwasm.Host.
func (s surroundings) Works(n int) { s.in.spend(n) }

// Print implements httpwasm.Host.
func (s surroundings) Print(b []byte) { s.in.out.write(b) }

// handleRequest calls the guest for r. If the request goes on, the instance is
// the Call's until it is released, or used for another request.
func (m *Module) handleRequest(in *instance, r *Request, a *Action) error {
	a.reset()
	x := in.http
	x.Begin(&httpwasm.Request{
		Method: r.Method, Path: r.Path, Query: r.Query, Proto: r.Proto, Client: r.Client, Header: r.Header, Body: r.Body, Answer: r.Answer, MaxBody: in.mostBody(),
	}, &a.changes)
	in.lines = 0
	in.out.reset()
	err := in.exports[OnRequest].call.CallWithStack(in.ctx, in.stack[:])
	if err != nil {
		x.End()
		a.reset()
		return m.leave(in, in.fault(err))
	}
	next := in.stack[0]
	ch := &a.changes
	a.Edits, a.Answer = ch.Request, ch.Answer
	if uint32(next) == 0 {
		a.Kind, a.Status, a.Body, a.HasBody = Reject, ch.Status, ch.AnswerBody, true
		if a.Status == 0 {
			a.Status = 200
		}
		x.End()
		return m.leave(in, nil)
	}
	if ch.Any() {
		a.Kind, a.Method, a.URI, a.Body, a.HasBody, a.Begin = Modify, ch.Method, ch.URI, ch.Body, ch.HasBody, ch.AnswerBody
	}
	x.Wait()
	return m.hold(in, uint32(next>>32))
}

// hold keeps the instance with its Call.
func (m *Module) hold(in *instance, ctx uint32) error {
	if in.end() {
		in.begin(0)
		in.http.End()
		return m.leave(in, failed(errTimeout, "it did not end in time"))
	}
	c := in.call
	c.Out.take(&in.out)
	in.out.reset()
	in.call = nil
	c.held, c.holder, c.context = in, m, ctx
	return nil
}

// resume takes the instance that c holds, nil for none, for its call at h.
func (m *Module) resume(c *Call, h Hook) *instance {
	in := c.held
	if in != nil {
		c.held, c.holder = nil, nil
		in.call, in.lines, c.hook = c, 0, h
		in.out.reset()
		in.bound(c.limit(m))
		in.begin(m.engine.now.Load())
	}
	return in
}

// Release gives back what c holds of a module: an instance whose request is over
// before all has been told to it. It must be called at the end of every request.
func (c *Call) Release() {
	in, m := c.held, c.holder
	if in == nil {
		return
	}
	c.held, c.holder = nil, nil
	in.http.End()
	m.giveBack(in, nil)
	m.left()
}

// Wants reports whether the guest is to be called at a hook that it has, in the
// request that c is of: an http-wasm module sees the answers of requests that it
// let go on, when it has them before they are sent or else after that.
func (m *Module) Wants(h Hook, c *Call) bool {
	if !m.code.http {
		return true
	}
	switch h {
	case OnRequest:
		return true
	case OnResponse:
		return c.held != nil && c.held.http.Buffers()
	}
	return c.held != nil
}

// Whole reports whether it is an http-wasm module: one that wants an answer wants
// it as a whole, also if it streams.
func (m *Module) Whole() bool { return m.code.http }

// handleResponse calls the guest for an answer that it may change.
func (m *Module) handleResponse(c *Call, r *Response, a *Action) error {
	a.reset()
	in := m.resume(c, OnResponse)
	if in == nil {
		return nil
	}
	in.http.Answered(&httpwasm.Response{Status: r.Status, Header: r.Header, Body: r.Body, MaxBody: in.mostBody()}, &a.changes)
	if err := m.tell(in, c.context, false); err != nil {
		a.reset()
		return err
	}
	ch := &a.changes
	if ch.Status != 0 || len(ch.Answer) > 0 || ch.HasAnswerBody {
		a.Kind, a.Status, a.Edits, a.Body, a.HasBody = Modify, ch.Status, ch.Answer, ch.AnswerBody, ch.HasAnswerBody
	}
	return nil
}

// handleEnd calls the guest for an answer that has been sent, or an error.
func (m *Module) handleEnd(c *Call, s *Summary) error {
	in := m.resume(c, OnEnd)
	if in == nil {
		return nil
	}
	in.http.Sent(&httpwasm.Response{Status: s.Status, Header: s.Header})
	return m.tell(in, c.context, s.Failed)
}

// tell calls handle_response, and gives the instance back.
func (m *Module) tell(in *instance, ctx uint32, failed bool) error {
	in.stack[0], in.stack[1] = uint64(ctx), 0
	if failed {
		in.stack[1] = 1
	}
	err := in.exports[OnResponse].call.CallWithStack(in.ctx, in.stack[:])
	in.http.End()
	if err != nil {
		err = in.fault(err)
	}
	return m.leave(in, err)
}
