package mock

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// admin answers the calls that steer a simulation.
func (e *Engine) admin(w http.ResponseWriter, r *http.Request) {
	switch r.Method + " " + r.URL.Path {
	case "GET /mock/state":
		e.state(w, r)
	case "GET /mock/fault":
		sendJSON(w, http.StatusOK, object{"faults": e.faults.list(time.Now())})
	case "POST /mock/fault":
		e.addFault(w, r)
	case "DELETE /mock/fault":
		e.faults.clear()
		sendJSON(w, http.StatusOK, object{"faults": []rule{}})
	case "POST /mock/kill":
		e.killAsked(w, r)
	case "POST /mock/health":
		e.setHealth(w, r)
	case "POST /mock/models":
		e.setModels(w, r)
	default:
		e.notFound(w)
	}
}

// state says everything there is to know. With ?id= it says how often that id
// came, with ?ids=all it names every id that is remembered.
func (e *Engine) state(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if id := q.Get("id"); id != "" {
		sendJSON(w, http.StatusOK, e.Times(id))
		return
	}
	known, forgotten, ids := e.seen.list(q.Get("ids") == "all")
	key := "repeated"
	if q.Get("ids") == "all" {
		key = "all"
	}
	sendJSON(w, http.StatusOK, object{
		"engine": e.cfg.Engine, "index": e.index, "addr": e.Addr(), "ready": e.isReady(), "models": *e.models.Load(),
		"health": e.health.Load().now(time.Now()), "counts": e.Seen(), "load": e.sched.Load().load(), "faults": e.faults.list(time.Now()),
		"ids": object{"known": known, "forgotten": forgotten, key: ids},
	})
}

func (e *Engine) addFault(w http.ResponseWriter, r *http.Request) {
	v := struct {
		Spec      string   `json:"spec"`
		Rate      *float64 `json:"rate"`
		Count     int      `json:"count"`
		Seconds   float64  `json:"seconds"`
		Endpoints []string `json:"endpoints"`
	}{}
	if f := readSmall(w, r, &v); f != nil {
		e.refuse(w, false, f)
		return
	}
	fault, err := ParseFault(v.Spec)
	rate := 1.0
	if v.Rate != nil {
		rate = *v.Rate
	}
	var f *refusal
	switch {
	case err != nil:
		f = refuse("spec", "%v", err)
	case !(rate >= 0 && rate <= 1):
		f = refuse("rate", "rate %v is not between 0 and 1", rate)
	case v.Count < 0:
		f = refuse("count", "count %d is negative", v.Count)
	case !(v.Seconds >= 0 && v.Seconds <= maxFaultWait.Seconds()):
		f = refuse("seconds", "seconds %v is not between 0 and %v", v.Seconds, maxFaultWait.Seconds())
	case slices.ContainsFunc(v.Endpoints, func(p string) bool { return inferences[p] == nil }):
		f = refuse("endpoints", "endpoints %q are not all paths that infer", v.Endpoints)
	}
	if f != nil {
		e.refuse(w, false, f)
		return
	}
	added := rule{Spec: v.Spec, Rate: rate, Left: v.Count, Endpoints: v.Endpoints, kinds: []Fault{fault}}
	if v.Seconds > 0 {
		added.Until = time.Now().Add(time.Duration(v.Seconds * float64(time.Second)))
	}
	if err := e.faults.add(added); err != nil {
		e.refuse(w, false, &refusal{status: http.StatusConflict, msg: err.Error()})
		return
	}
	sendJSON(w, http.StatusOK, object{"faults": e.faults.list(time.Now())})
}

// killAsked kills e, and answers when that is done.
func (e *Engine) killAsked(w http.ResponseWriter, r *http.Request) {
	seconds := 0.0
	if s := r.URL.Query().Get("seconds"); s != "" {
		v, err := strconv.ParseFloat(s, 64)
		if err != nil || !(v >= 0 && v <= maxFaultWait.Seconds()) {
			e.refuse(w, false, refuse("seconds", "seconds %q is not between 0 and %v", s, maxFaultWait.Seconds()))
			return
		}
		seconds = v
	}
	c, ok := r.Context().Value(connKey{}).(*conn)
	if !ok {
		e.refuse(w, false, refuse("", "the engine is not on a network"))
		return
	}
	answer, err := json.Marshal(object{"killed": e.Addr(), "seconds": seconds})
	if err != nil {
		panic("BUG: an answer that is not JSON: " + err.Error())
	}
	c.kind.Store(true)
	nc, _, err := http.NewResponseController(w).Hijack() // for the answer comes when all connections are gone
	if err != nil {
		e.refuse(w, false, refuse("", "the engine's connection cannot be had: %v", err))
		return
	}
	e.killFor(time.Duration(seconds*float64(time.Second)), func() {
		// A caller that left misses nothing.
		_, _ = fmt.Fprintf(nc, "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(answer), answer)
		_ = nc.Close()
	})
}

func (e *Engine) setHealth(w http.ResponseWriter, r *http.Request) {
	h := healthAnswer{Status: http.StatusServiceUnavailable, Since: time.Now()}
	if f := readSmall(w, r, &h); f != nil {
		e.refuse(w, false, f)
		return
	}
	h.Since = time.Now()
	if h.Status < 200 || h.Status > 599 {
		e.refuse(w, false, refuse("status", "status %d is not between 200 and 599", h.Status))
		return
	}
	if h.Flap != "" {
		d, err := time.ParseDuration(h.Flap)
		if err != nil || d <= 0 {
			e.refuse(w, false, refuse("flap", "flap %q is not a duration such as 500ms", h.Flap))
			return
		}
		h.flap = d
	}
	e.health.Store(&h)
	sendJSON(w, http.StatusOK, h)
}

func (e *Engine) setModels(w http.ResponseWriter, r *http.Request) {
	var v struct {
		Models []string `json:"models"`
	}
	if f := readSmall(w, r, &v); f != nil {
		e.refuse(w, false, f)
		return
	}
	if len(v.Models) == 0 || slices.Contains(v.Models, "") {
		e.refuse(w, false, refuse("models", "models must name at least one model, and no name may be empty"))
		return
	}
	e.models.Store(&v.Models)
	sendJSON(w, http.StatusOK, v)
}
