//go:build cgo

// Package oracle asks another engine, wasmtime, what a WebAssembly module does,
// and holds that ours does the same. It is a module of its own because wasmtime
// is a large library in C: `make wasm-oracle` runs it.
package oracle

/*
#include <stdlib.h>
#include "component.h"
*/
import "C"

import (
	"errors"
	"runtime"
	"unsafe"
)

// A field is a header line.
type field struct{ name, value string }

// A request is what a guest is given.
type request struct {
	method, path, query, id string
	headers                 []field
	body                    string
	now                     uint64
}

// A component is one that wasmtime has compiled. The library itself comes with
// the module wasmtime-go, which the tests import.
type component struct{ c *C.oracle }

func newComponent(binary []byte) (*component, error) {
	var msg *C.char
	c := C.oracle_new((*C.uchar)(unsafe.Pointer(&binary[0])), C.size_t(len(binary)), &msg)
	if c == nil {
		return nil, taken(msg)
	}
	o := &component{c}
	runtime.AddCleanup(o, func(c *C.oracle) { C.oracle_delete(c) }, c)
	return o, nil
}

// taken makes a text of C's an error.
func taken(msg *C.char) error {
	defer C.free(unsafe.Pointer(msg))
	return errors.New(C.GoString(msg))
}

// call calls the function name of an interface, in an instance of its own, and
// returns what it returned, as oracle_call writes it.
func (o *component) call(iface, name string, r *request) (string, error) {
	texts := []string{r.method, r.path, r.query, r.body, r.id}
	for _, h := range r.headers {
		texts = append(texts, h.name, h.value)
	}
	var all []byte
	sizes := make([]C.size_t, len(texts))
	for i, t := range texts {
		all = append(all, t...)
		sizes[i] = C.size_t(len(t))
	}
	all = append(all, 0) // so that there is a first
	ci, cn := C.CString(iface), C.CString(name)
	defer C.free(unsafe.Pointer(ci))
	defer C.free(unsafe.Pointer(cn))
	var msg *C.char
	out := C.oracle_call(o.c, ci, cn, (*C.uchar)(unsafe.Pointer(&all[0])), &sizes[0], C.size_t(len(r.headers)), C.uint64_t(r.now), &msg)
	runtime.KeepAlive(o)
	if out == nil {
		return "", taken(msg)
	}
	defer C.free(unsafe.Pointer(out))
	return C.GoString(out), nil
}
