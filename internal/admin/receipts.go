package admin

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"sluice/internal/infer"
	"sluice/internal/route"
)

// How many receipts GET /routes/recent lists.
const (
	usualReceipts = 100
	maxReceipts   = 1000
)

// listReceipts lists the last decisions, newest first: at most n, of one model
// or worker if the query names it. A model may be named as clients may.
func (a *Admin) listReceipts(_ context.Context, r *infer.Request, w *infer.Reply) error {
	q, err := url.ParseQuery(r.Query)
	if err != nil {
		return badQuery("", "The query cannot be read.")
	}
	for name, values := range q {
		switch name {
		case "n", "model", "worker":
			if len(values) > 1 {
				return badQuery(name, name+" stands twice in the query.")
			}
		default:
			return badQuery("", fmt.Sprintf("The query has %.32q; it may have n, model and worker.", name))
		}
	}
	n := usualReceipts
	if s := q.Get("n"); s != "" {
		if n, err = strconv.Atoi(s); err != nil || n < 1 || n > maxReceipts {
			return badQuery("n", fmt.Sprintf("n is a number from 1 to %d, not %.32q.", maxReceipts, s))
		}
	}
	model, worker := q.Get("model"), q.Get("worker")
	own := a.own(model)
	note := ""
	if a.kept == 0 {
		note = "No decision is remembered: --route-receipts is 0."
	}
	return sendJSON(w, http.StatusOK, struct {
		Receipts []route.Receipt `json:"receipts"`
		Kept     int             `json:"kept"`
		Note     string          `json:"note,omitempty"`
	}{a.recent(n, func(r *route.Receipt) bool {
		return (model == "" || r.Model == model || r.Model == own) && (worker == "" || r.Worker == worker)
	}), a.kept, note})
}

func badQuery(param, msg string) error {
	return &infer.Error{Status: http.StatusBadRequest, Code: "invalid_parameter", Param: param, Msg: msg}
}
