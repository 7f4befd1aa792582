package server

import "sluice/internal/infer"

// Look sets what routing needs of r's body, for who has changed it, and refuses
// what no worker could answer.
func Look(r *infer.Request) error {
	r.Model, r.Stream, r.ModelAt, r.ModelEnd = "", false, 0, 0
	r.TextAt, r.Extract = [3]infer.Span{}, nil
	r.DropText()
	if !looked(r.Endpoint) {
		return nil
	}
	return look(r, false)
}

// looked reports whether requests of e have a body that is looked into.
func looked(e infer.Endpoint) bool { return e != infer.Local && e != infer.Realtime }
