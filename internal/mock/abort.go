package mock

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
)

// errAborted is why the context of a request that /abort_request named ended.
var errAborted = errors.New("the request was aborted")

// aborts finds running requests by their ids. It holds no more than run.
type aborts struct {
	mu   sync.Mutex
	runs map[*call]context.CancelCauseFunc // guarded by mu
}

// enter makes c one that can be aborted, until the function that it returns is
// called.
func (as *aborts) enter(c *call) (leave func()) {
	ctx, cancel := context.WithCancelCause(c.ctx)
	c.ctx = ctx
	as.mu.Lock()
	defer as.mu.Unlock()
	if as.runs == nil {
		as.runs = map[*call]context.CancelCauseFunc{}
	}
	as.runs[c] = cancel
	return func() {
		as.mu.Lock()
		delete(as.runs, c)
		as.mu.Unlock()
		cancel(nil)
	}
}

// abort ends the requests of the given id, or all.
func (as *aborts) abort(id string, all bool) {
	as.mu.Lock()
	defer as.mu.Unlock()
	for c, cancel := range as.runs {
		if all || id != "" && (c.id == id || c.rid == id) {
			cancel(errAborted)
		}
	}
}

// maxAdminBody bounds what the calls that steer an engine read.
const maxAdminBody = 1 << 20

// readSmall reads a short JSON body into v; none is as {}.
func readSmall(w http.ResponseWriter, r *http.Request, v any) *refusal {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAdminBody))
	if err != nil {
		return refuse("", "the body could not be read: %v", err)
	}
	if len(b) == 0 {
		return nil
	}
	if err := json.Unmarshal(b, v); err != nil {
		return refuse("", "invalid JSON body: %v", err)
	}
	return nil
}

func (e *Engine) abort(w http.ResponseWriter, r *http.Request) {
	var v struct {
		RID string `json:"rid"`
		All bool   `json:"abort_all"`
	}
	if f := readSmall(w, r, &v); f != nil {
		e.refuse(w, false, f)
		return
	}
	e.aborts.abort(v.RID, v.All)
	w.WriteHeader(http.StatusOK)
}

// sayAborted ends an answer that was aborted.
func (e *Engine) sayAborted(c *call) {
	if !c.begun {
		e.refuse(c.w, c.ep.anthropic, refuse("", "The request was aborted."))
		return
	}
	// A client that left at the same moment misses nothing.
	_, _ = io.WriteString(c.w, `data: {"error":{"object":"error","message":"The request was aborted.","type":"BadRequestError","param":null,"code":400}}`+"\n\n"+doneEvent)
}
