package wasm

import (
	"strings"
	"testing"
)

// TestWhatIsNoTextComesAsText: a guest relies on it that strings are UTF-8, and one
// that logs what it is given would break off where a client sends something else.
// Bodies come as they are.
func TestWhatIsNoTextComesAsText(t *testing.T) {
	m := loadFile(t, "testdata/every.wasm", DefaultSettings())
	c := &Call{Model: "m\xff\xfe", Store: NewStore()}
	defer c.Release()
	r := request(250)
	r.Query = "request=tell&error=-&x=\xf0\x9f"
	var a Action
	if err := m.OnRequest(t.Context(), c, r, &a); err != nil {
		t.Fatal(err)
	}
	if got := string(c.State); got != "request=tell&error=-&x=\uFFFD" {
		t.Errorf("the query is %q", got)
	}
	if len(a.Set) != 2 || a.Set[0].Value != "m\uFFFD" {
		t.Errorf("the model is %q", a.Set)
	}
	c.State = append(c.State[:0], "error=-"...)
	if err := m.OnError(t.Context(), c, &Failure{Status: 404, Code: "c\xff", Message: "no model m\xff"}); err != nil {
		t.Error(err)
	}
	c.State = append(c.State[:0], "chunk=replace"...)
	var chunk ChunkAction
	if err := m.OnChunk(t.Context(), c, []byte("data: \xff\n\n"), &chunk); err != nil || string(chunk.Data) != "[data: \xff\n\n]" {
		t.Errorf("an event is %q (%v)", chunk.Data, err)
	}
}

// TestAddressesAreAligned: the host writes what it returns to no address that its
// type cannot have (CanonicalABI.md, store).
func TestAddressesAreAligned(t *testing.T) {
	m := toilers(t, nil)["component"]
	c := &Call{Store: NewStore()}
	defer c.Release()
	err := m.OnRequest(t.Context(), c, asked("u"), new(Action))
	if err == nil || !strings.Contains(err.Error(), "trap: an address that is not aligned to 4: 0x202") {
		t.Errorf("got %v", err)
	}
}
