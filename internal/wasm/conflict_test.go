package wasm

import (
	"errors"
	"strings"
	"testing"
)

// TestUpdatesThatMeet: of two that give a module other bytes at once one is made,
// and the other is told to try again, which then does.
func TestUpdatesThatMeet(t *testing.T) {
	for _, tt := range []struct {
		name  string
		other byte // the version that the other update gives
		limit bool // and other limits
	}{
		{"other bytes", 2, false},
		{"other limits", 1, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRegistry(t, "")
			a := mustAdd(t, r, specOf("a"), version(t, 1))
			met := false
			slow := func(s *Spec) { // is asked for the change, and the other is made meanwhile
				s.Order = 7
				if met {
					return
				}
				met = true
				if _, err := r.Update(t.Context(), a.ID, func(s *Spec) {
					if tt.limit {
						s.Settings.Instances = 9
					}
				}, version(t, tt.other)); err != nil {
					t.Fatal(err)
				}
			}
			_, err := r.Update(t.Context(), a.ID, slow, version(t, 3))
			if _, is := errors.AsType[*ConflictError](err); !is || !strings.Contains(err.Error(), "try again") {
				t.Errorf("got %v, want that it be tried again", err)
			}
			now := r.Find(a.ID)
			if now.Sum != Sum(version(t, tt.other)) || now.Order == 7 || tt.limit != (now.Settings.Instances == 9) {
				t.Errorf("the other's update is lost: %+v", now.Spec)
			}
			if now, err = r.Update(t.Context(), a.ID, slow, version(t, 3)); err != nil || now.Sum != Sum(version(t, 3)) || now.Order != 7 {
				t.Errorf("tried again: %v", err)
			}
		})
	}
	r := newRegistry(t, "")
	if err := r.reserve("a sum", false); err != nil {
		t.Fatal(err)
	}
	err := r.reserve("a sum", false)
	if _, is := errors.AsType[*ConflictError](err); !is {
		t.Errorf("of bytes that are being registered: %v", err)
	}
}
