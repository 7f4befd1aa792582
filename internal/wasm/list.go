package wasm

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/google/uuid"
)

// stateFile is the list of modules in the Registry's directory. It says which
// modules guard the door, so one that is damaged ends a start: it has a checksum
// of its own, and what a gateway would not have written is refused.
const stateFile = "modules.json"

// A kept is an entry of the list: a Spec, and the checksum of the bytes. A field
// that is added to it later must have omitzero, else lists without it are refused.
type kept struct {
	Spec
	Sum string
}

// A sealed is what the list's file has.
type sealed struct {
	Sum     string          `json:"sha256"`  // of Modules as they stand there
	Modules json.RawMessage `json:"modules"` // of each a kept
}

// sealList is the file of a list.
func sealList(l []kept) ([]byte, error) {
	modules, err := json.MarshalIndent(append([]kept{}, l...), "", "  ")
	if err != nil {
		return nil, err
	}
	b := fmt.Appendf(nil, "{\n\"sha256\": %q,\n\"modules\": %s\n}\n", Sum(modules), modules)
	if len(b) > MaxBinary { // the next start would refuse it
		return nil, fmt.Errorf("it would have %d bytes; at most %d are allowed", len(b), MaxBinary)
	}
	return b, nil
}

// openList is what sealList was given, of the file.
func openList(b []byte) ([]kept, error) {
	b = bytes.TrimSpace(b)
	if err := whole(b); err != nil {
		return nil, err
	}
	if b[0] == '[' {
		return nil, fmt.Errorf(`it has no checksum, as lists of earlier versions have none (if it is as it should be, write {"sha256":%q,"modules": before it, and } behind it)`, Sum(b))
	}
	var s sealed
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, err
	}
	if err := asWritten(b, s); err != nil {
		return nil, err
	}
	if is := Sum(s.Modules); is != s.Sum {
		return nil, fmt.Errorf("its modules have SHA-256 %s, and it says %.64q (if they were changed on purpose, write the former there)", is, s.Sum)
	}
	var entries []json.RawMessage
	if err := json.Unmarshal(s.Modules, &entries); err != nil {
		return nil, err
	}
	if entries == nil {
		return nil, errors.New("modules is null; want a list")
	}
	var l []kept
	ids := make(map[uuid.UUID]bool)
	for i, e := range entries {
		k, err := openEntry(e)
		if err == nil && ids[k.ID] {
			err = fmt.Errorf("the ID %s is of one before it", k.ID)
		}
		if err != nil {
			return nil, fmt.Errorf("module %d, %.64q: %w", i+1, k.Name, err)
		}
		ids[k.ID] = true
		l = append(l, k)
	}
	return l, nil
}

// whole holds that b is one JSON text.
func whole(b []byte) error {
	if len(bytes.Trim(b, "\x00")) == 0 {
		return errors.New("there is nothing in it")
	}
	return json.Unmarshal(b, new(json.RawMessage))
}

// openEntry reads an entry of the list.
func openEntry(b []byte) (k kept, err error) {
	if err := json.Unmarshal(b, &k); err != nil {
		return k, err
	}
	if err := asWritten(b, k); err != nil {
		return k, err
	}
	sum, err := hex.DecodeString(k.Sum)
	switch {
	case err != nil || len(sum) != sha256.Size:
		return k, fmt.Errorf("its Sum %.64q is no SHA-256", k.Sum)
	case k.ID == uuid.Nil:
		return k, errors.New("its ID is 0")
	case k.FromConfig:
		return k, errors.New("it is FromConfig, and the list has none of the configuration's")
	}
	return k, nil
}

// asWritten holds that v, which was read from b, would be written as b is, but for
// blanks and the order of fields. So no field is missing, unknown or null that has
// a meaning.
func asWritten(b []byte, v any) error {
	written, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var is, want any
	if err := errors.Join(json.Unmarshal(b, &is), json.Unmarshal(written, &want)); err != nil {
		return err
	}
	return differs("", is, want)
}

// differs tells the first field by which is differs from want. It does not tell
// values, of which one may be a secret.
func differs(field string, is, want any) error {
	a, aok := is.(map[string]any)
	b, bok := want.(map[string]any)
	switch {
	case !aok || !bok:
		if reflect.DeepEqual(is, want) {
			return nil
		}
		if is == nil {
			return fmt.Errorf("%s is null", cmp.Or(field, "it"))
		}
		return fmt.Errorf("%s is not as it would be written", cmp.Or(field, "it"))
	case field != "":
		field += "."
	}
	for _, key := range slices.Sorted(maps.Keys(b)) {
		if _, there := a[key]; !there {
			return fmt.Errorf("%s%s is missing", field, key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(a)) {
		if _, there := b[key]; !there {
			return fmt.Errorf("unknown field %.64q", field+key)
		}
		if err := differs(field+key, a[key], b[key]); err != nil {
			return err
		}
	}
	return nil
}
