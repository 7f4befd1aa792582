package server

import "sluice/internal/infer"

// Look sets what routing needs of r, for who has changed it, and returns why no
// worker could answer it.
func Look(r *infer.Request) error {
	r.Model, r.Stream, r.ModelAt, r.ModelEnd = "", false, 0, 0
	r.TextAt, r.Extract = [3]infer.Span{}, nil
	r.DropText()
	if !looked(r.Endpoint) {
		return nil
	}
	if err := wantJSON(r); err != nil {
		return err
	}
	return judge(r, false, false)
}

// LookHeader is Look for who has changed the header alone.
func LookHeader(r *infer.Request) error {
	if !looked(r.Endpoint) {
		return nil
	}
	if err := wantJSON(r); err != nil {
		return err
	}
	return anthropicVersion(r)
}

// looked reports whether requests of e have a body that is looked into.
func looked(e infer.Endpoint) bool { return e != infer.Local && e != infer.Realtime }
