package sdk

import (
	"slices"
	"testing"
)

var modelChecks = []check{
	{"models/list", modelList},
	{"models/get", modelGet},
	{"models/unknown", modelUnknown},
	{"models/another is served", modelOther},
}

func modelList(t *testing.T, f *fleet) {
	page, err := f.openai.Models.List(within(t))
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, m := range page.Data {
		ids = append(ids, m.ID)
		if m.Object != "model" || m.OwnedBy == "" {
			t.Errorf("got %s", m.RawJSON())
		}
	}
	if want := []string{model, slashy}; !slices.Equal(ids, want) {
		t.Errorf("got the models %q, want %q: two workers serve both", ids, want)
	}
}

func modelGet(t *testing.T, f *fleet) {
	for _, id := range []string{model, slashy} {
		m, err := f.openai.Models.Get(within(t), id)
		if err != nil {
			t.Fatalf("%s: %v", id, err)
		}
		if m.ID != id || m.Object != "model" {
			t.Errorf("%s: got %s", id, m.RawJSON())
		}
	}
}

func modelUnknown(t *testing.T, f *fleet) {
	_, err := f.openai.Models.Get(within(t), "nobody")
	if e := openAIError(t, err); e.StatusCode != 404 || e.Code != "model_not_found" || e.Type != "invalid_request_error" || e.Message == "" {
		t.Errorf("got %d %s", e.StatusCode, e.RawJSON())
	}
}

func modelOther(t *testing.T, f *fleet) {
	p := asking("who are you")
	p.Model = slashy
	if c := answered(t, f, p); c.Model != slashy {
		t.Errorf("asked %s, answered by %s", slashy, c.Model)
	}
}
