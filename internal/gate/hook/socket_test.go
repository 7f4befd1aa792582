package hook

import (
	"fmt"
	"slices"
	"testing"

	"sluice/internal/infer"
	"sluice/internal/wasm"
	"sluice/internal/wasm/httpwasm"
)

// TestAHandshakeIsNoModules holds that no module changes what a WebSocket is
// opened with: a worker without the client's key cannot answer as the client must
// have it, and would seem to be the one that is wrong. The subprotocols are a
// module's to change.
func TestAHandshakeIsNoModules(t *testing.T) {
	protected := []string{"Sec-WebSocket-Key", "sec-websocket-version", "SEC-WEBSOCKET-EXTENSIONS", "Sec-WebSocket-Accept"}
	const protocols = "Sec-WebSocket-Protocol"
	all := append(slices.Clone(protected), protocols)
	removes := func(n string) wasm.Action { return wasm.Action{Kind: wasm.Modify, Remove: []string{n}} }
	fields := func(n string) []wasm.Field { return []wasm.Field{{Name: n, Value: "new"}} }
	edits := func(op httpwasm.Op, n string) []httpwasm.Edit {
		return []httpwasm.Edit{{Op: op, Name: n, Value: "new"}}
	}
	for _, tt := range []struct {
		name, want string // of the subprotocols
		action     func(n string) wasm.Action
	}{
		{"remove", "[]", removes},
		{"set", "[new]", func(n string) wasm.Action { return wasm.Action{Kind: wasm.Modify, Set: fields(n)} }},
		{"add", "[old new]", func(n string) wasm.Action { return wasm.Action{Kind: wasm.Modify, Add: fields(n)} }},
		{"http-wasm's remove", "[]", func(n string) wasm.Action { return wasm.Action{Kind: wasm.Modify, Edits: edits(httpwasm.Remove, n)} }},
		{"http-wasm's set", "[new]", func(n string) wasm.Action { return wasm.Action{Kind: wasm.Modify, Edits: edits(httpwasm.Set, n)} }},
		{"http-wasm's add", "[old new]", func(n string) wasm.Action { return wasm.Action{Kind: wasm.Modify, Edits: edits(httpwasm.Add, n)} }},
	} {
		for _, name := range all {
			r := &infer.Request{Method: "GET", Path: "/v1/realtime", Endpoint: infer.Realtime, Model: "m"}
			for _, n := range all {
				r.Header.AddString(n, "old")
			}
			v := &visit{g: &gate{Options: Options{Look: lookAt}}, client: infer.NewReply(new(client)), action: tt.action(name)}
			if err := v.change(r); err != nil {
				t.Errorf("%s of %s: %v", tt.name, name, err)
			}
			for _, n := range all {
				var got []string
				for b := range r.Header.Values(n) {
					got = append(got, string(b))
				}
				want := "[old]"
				if n == name && n == protocols {
					want = tt.want
				}
				if fmt.Sprint(got) != want {
					t.Errorf("%s of %s: the worker gets %s: %q, want %s", tt.name, name, n, got, want)
				}
			}
		}
	}
}

// TestAnAnswersHandshakeIsNoModules: what a module says of an answer that is not
// there yet does not join what the worker proves.
func TestAnAnswersHandshakeIsNoModules(t *testing.T) {
	c := new(client)
	v := &visit{client: infer.NewReply(c), action: wasm.Action{Kind: wasm.Modify, Answer: []httpwasm.Edit{
		{Op: httpwasm.Set, Name: "Sec-WebSocket-Accept", Value: "x"}, {Op: httpwasm.Add, Name: "sec-websocket-extensions", Value: "x"}, {Op: httpwasm.Set, Name: "X-Early", Value: "1"},
	}}}
	v.early(v.client.Header())
	if got := c.got("Sec-WebSocket-Accept", "Sec-WebSocket-Extensions", "X-Early"); got != "0 X-Early=1 " {
		t.Errorf("the client gets %s", got)
	}
}
