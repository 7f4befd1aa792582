package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/google/uuid"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/jobs"
)

// workerInfo is a worker as the API shows it: contract §2.7, without the key.
type workerInfo struct {
	ID             fleet.ID          `json:"id"`
	ModelID        string            `json:"model_id,omitempty"`
	URL            string            `json:"url"`
	Models         []fleet.ModelCard `json:"models"`
	WorkerType     string            `json:"worker_type"`
	ConnectionMode string            `json:"connection_mode"`
	RuntimeType    string            `json:"runtime_type"`
	Labels         map[string]string `json:"labels"`
	Priority       int               `json:"priority"`
	Cost           float64           `json:"cost"`
	BootstrapPort  *int              `json:"bootstrap_port,omitempty"`
	Health         *fleet.HealthSpec `json:"health,omitempty"`
	MaxAttempts    int               `json:"max_connection_attempts"`
	DPBase         string            `json:"dp_base_url,omitempty"` // this and the next two of one rank of an engine
	DPRank         *int              `json:"dp_rank,omitempty"`
	DPSize         int               `json:"dp_size,omitempty"`
	Healthy        bool              `json:"is_healthy"`
	Status         string            `json:"status"`
	Load           int64             `json:"load"`
	HTTP2          bool              `json:"http2"`
	EngineLoad     json.RawMessage   `json:"engine_load,omitempty"`
	Job            *jobStatus        `json:"job_status,omitempty"`
}

type jobStatus struct {
	Type      string `json:"job_type"`
	URL       string `json:"worker_url"`
	Status    string `json:"status"`
	Message   string `json:"message"`
	Timestamp int64  `json:"timestamp"`
}

func (a *Admin) info(w *fleet.Worker) workerInfo {
	i := w.Info()
	out := workerInfo{
		ID: w.ID(), URL: w.Base(), Models: i.Models, WorkerType: i.Role.String(), ConnectionMode: "http",
		RuntimeType: i.Runtime, Labels: i.Labels, Priority: i.Priority, Cost: i.Cost, BootstrapPort: i.BootstrapPort,
		Health: i.Health, MaxAttempts: i.MaxAttempts, Healthy: w.Available(time.Now()), Status: w.Status().String(), Load: w.InFlight(),
	}
	if len(i.Models) > 0 {
		out.ModelID = i.Models[0].ID
	} else {
		out.Models = []fleet.ModelCard{}
	}
	if rank, ok := w.Rank(); ok {
		out.DPBase, out.DPRank = w.Root(), &rank
		out.DPSize, _ = strconv.Atoi(i.Labels["dp_size"]) // 0 if the engine does not say
	}
	if l := w.Believed(time.Now()); l != nil && json.Valid(l.Raw) {
		out.EngineLoad = l.Raw
	}
	if s, ok := a.fleet.Job(w.ID()); ok {
		out.Job = &jobStatus{s.Kind, w.Base(), string(s.State), s.Msg, s.At.Unix()}
	}
	return out
}

func (a *Admin) listWorkers(_ context.Context, r *infer.Request, w *infer.Reply) error {
	q, err := url.ParseQuery(r.Query)
	if err != nil {
		return workerError(w, http.StatusBadRequest, "BAD_REQUEST", "the query cannot be read")
	}
	list := struct {
		Workers []workerInfo `json:"workers"`
		Total   int          `json:"total"`
		Stats   struct {
			Prefill int `json:"prefill_count"`
			Decode  int `json:"decode_count"`
			Regular int `json:"regular_count"`
		} `json:"stats"`
	}{Workers: []workerInfo{}}
	for _, wk := range a.fleet.Snapshot().All {
		i := a.info(wk)
		if m := q.Get("model"); m != "" && !serves(wk, m) {
			continue
		}
		list.Workers = append(list.Workers, i)
		switch wk.Info().Role {
		case fleet.Prefill:
			list.Stats.Prefill++
		case fleet.Decode:
			list.Stats.Decode++
		default:
			list.Stats.Regular++
		}
	}
	list.Total = len(list.Workers)
	return sendJSON(w, http.StatusOK, list)
}

func serves(w *fleet.Worker, model string) bool {
	i := w.Info()
	if i.Wildcard {
		return true
	}
	for _, m := range i.ModelIDs {
		if m == model {
			return true
		}
	}
	return false
}

// accepted is the answer to a change that goes on in the background.
type accepted struct {
	Status   string   `json:"status"`
	ID       fleet.ID `json:"worker_id"`
	URL      string   `json:"url,omitempty"`
	Location string   `json:"location,omitempty"`
	Message  string   `json:"message"`
}

func (a *Admin) addWorker(_ context.Context, r *infer.Request, w *infer.Reply) error {
	spec, err := readSpec(r.Body)
	if err != nil {
		return workerError(w, http.StatusBadRequest, "BAD_REQUEST", err.Error())
	}
	id, err := a.fleet.Add(spec)
	if err != nil {
		return refuseChange(w, err)
	}
	loc := "/workers/" + string(id)
	w.Header().Set("Location", loc)
	return sendJSON(w, http.StatusAccepted, accepted{"accepted", id, spec.URL, loc, a.told("Worker addition queued for background processing", spec)})
}

// told adds to msg what of spec has no effect.
func (a *Admin) told(msg string, spec fleet.Spec) string {
	if why := a.fleet.Idle(spec); why != "" {
		return msg + "; " + why
	}
	return msg
}

func (a *Admin) getWorker(_ context.Context, r *infer.Request, w *infer.Reply) error {
	wk, ok, err := a.worker(r, w)
	if !ok {
		return err
	}
	return sendJSON(w, http.StatusOK, a.info(wk))
}

func (a *Admin) removeWorker(_ context.Context, r *infer.Request, w *infer.Reply) error {
	wk, ok, err := a.worker(r, w)
	if !ok {
		return err
	}
	if err := a.fleet.Remove(wk.ID()); err != nil {
		return refuseChange(w, err)
	}
	return sendJSON(w, http.StatusAccepted, accepted{Status: "accepted", ID: wk.ID(), Message: "Worker removal queued for background processing"})
}

func (a *Admin) replaceWorker(_ context.Context, r *infer.Request, w *infer.Reply) error {
	wk, ok, err := a.worker(r, w)
	if !ok {
		return err
	}
	spec, err := readSpec(r.Body)
	if err != nil {
		return workerError(w, http.StatusBadRequest, "BAD_REQUEST", err.Error())
	}
	if err := a.fleet.Replace(wk.ID(), spec); err != nil {
		return refuseChange(w, err)
	}
	return sendJSON(w, http.StatusAccepted, accepted{Status: "accepted", ID: wk.ID(), Message: a.told("Worker replacement queued for background processing", spec)})
}

func (a *Admin) updateWorker(_ context.Context, r *infer.Request, w *infer.Reply) error {
	wk, ok, err := a.worker(r, w)
	if !ok {
		return err
	}
	var p fleet.Patch
	if err := strictly(r.Body, &p, nulls); err != nil {
		return workerError(w, http.StatusBadRequest, "BAD_REQUEST", "the body is not a worker update: "+err.Error()+"; want priority, cost, labels, api_key or health, and PUT for the rest")
	}
	if err := a.fleet.Update(wk.ID(), p); err != nil {
		return refuseChange(w, err)
	}
	return sendJSON(w, http.StatusAccepted, accepted{Status: "accepted", ID: wk.ID(), Message: "Worker update queued for background processing"})
}

// worker returns the worker that r names. If there is none it has answered.
func (a *Admin) worker(r *infer.Request, w *infer.Reply) (wk *fleet.Worker, ok bool, err error) {
	id, err := uuid.Parse(r.Param)
	if err != nil || len(r.Param) != 36 {
		return nil, false, workerError(w, http.StatusBadRequest, "BAD_REQUEST", fmt.Sprintf("Invalid worker_id '%.64s' (expected UUID)", r.Param))
	}
	if wk, ok = a.fleet.Get(fleet.ID(id.String())); !ok {
		return nil, false, workerError(w, http.StatusNotFound, "WORKER_NOT_FOUND", fmt.Sprintf("Worker %s not found", id))
	}
	return wk, true, nil
}

// readSpec reads a body of POST or PUT. The field model_id is what older
// clients say instead of models.
func readSpec(body []byte) (fleet.Spec, error) {
	var in struct {
		fleet.Spec
		ModelID string `json:"model_id"`
	}
	if err := strictly(body, &in, unknownFields|nulls); err != nil {
		return in.Spec, fmt.Errorf("the body is not a worker: %w", err)
	}
	if in.URL == "" {
		return in.Spec, errors.New("missing field `url`")
	}
	if in.ModelID != "" && len(in.Models) == 0 {
		in.Models = []fleet.ModelCard{{ID: in.ModelID}}
	}
	if _, err := fleet.ParseURL(in.URL, false); err != nil {
		return in.Spec, err
	}
	return in.Spec, in.Validate()
}

// refuseChange answers a change that the fleet does not take.
func refuseChange(w *infer.Reply, err error) error {
	var exists *fleet.ExistsError
	switch {
	case errors.As(err, &exists):
		return workerError(w, http.StatusConflict, "WORKER_ALREADY_EXISTS", fmt.Sprintf(
			"Worker already exists at URL '%s' with ID %s. Use PUT /workers/%s to replace or PATCH /workers/%s to update.", exists.URL, exists.ID, exists.ID, exists.ID))
	case errors.Is(err, fleet.ErrUnknown):
		return workerError(w, http.StatusNotFound, "WORKER_NOT_FOUND", err.Error())
	case errors.Is(err, jobs.ErrFull), errors.Is(err, jobs.ErrStopped):
		w.Header().Set("Retry-After", "2")
		return workerError(w, http.StatusServiceUnavailable, "QUEUE_FULL", err.Error())
	}
	return workerError(w, http.StatusBadRequest, "BAD_REQUEST", err.Error())
}

// workerError answers in the shape that the workers' API has for errors.
func workerError(w *infer.Reply, status int, code, msg string) error {
	return sendJSON(w, status, struct {
		Error string `json:"error"`
		Code  string `json:"code"`
	}{msg, code})
}
