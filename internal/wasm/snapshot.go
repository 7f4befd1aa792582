package wasm

import (
	"fmt"

	"sluice/internal/wasm/httpwasm"
)

// A snapshot is a component as it is once it has started, before its first call:
// its memories, its globals and its handles. All instances of a Module are put
// back to the same one.
type snapshot struct {
	images  []*image
	globals []uint64
	handles handleTable
	started httpwasm.Features // what an http-wasm module asked for
}

// snapshot takes what in is now.
func (in *instance) snapshot() (*snapshot, error) {
	s := &snapshot{handles: in.handles.clone()}
	if in.http != nil {
		s.started = in.http.Started
	}
	for _, g := range in.globals {
		s.globals = append(s.globals, g.Get())
	}
	for _, m := range in.grow {
		b, ok := m.Read(0, m.Size())
		if !ok {
			return nil, fmt.Errorf("a memory of %d bytes cannot be read", m.Size())
		}
		im, err := newImage(b)
		if err != nil {
			s.close()
			return nil, err
		}
		s.images = append(s.images, im)
	}
	return s, nil
}

func (s *snapshot) close() {
	for _, im := range s.images {
		im.close()
	}
}

// adopt makes in what s is, whatever it made of its own start.
func (in *instance) adopt(s *snapshot) error {
	if len(in.memories) != len(s.images) || len(in.globals) != len(s.globals) {
		return fmt.Errorf("it has %d memories and %d globals; the snapshot has %d and %d", len(in.memories), len(in.globals), len(s.images), len(s.globals))
	}
	in.snap = s
	if in.http != nil {
		in.http.Started = s.started
	}
	for i, m := range in.memories {
		if err := m.adopt(s.images[i]); err != nil {
			return err
		}
	}
	in.watches()
	return in.reset()
}

// reset puts in back to its snapshot.
func (in *instance) reset() error {
	for i, v := range in.snap.globals {
		in.globals[i].Set(v)
	}
	in.handles.restore(&in.snap.handles)
	in.out.reset()
	quiet := in.watch.take()
	for i, m := range in.memories {
		if m.grew {
			m.shrink()
			in.grow[i].Grow(1)
			m.shrunk()
		}
		if err := m.reset(quiet); err != nil {
			return err
		}
	}
	return nil
}
