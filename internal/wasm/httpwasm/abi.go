package httpwasm

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"

	"github.com/tetratelabs/wazero/api"

	"sluice/internal/infer"
)

// hostModule is what a guest imports the functions of the ABI from.
const hostModule = "http_handler"

// abi is those functions.
var abi = map[string]function{
	"enable_features":      {"i>i", enableFeatures},
	"get_config":           {"ii>i", func(x *Exchange, mem api.Memory, st []uint64) error { return x.give(mem, st, x.Host.Config()) }},
	"log_enabled":          {"i>i", logEnabled},
	"log":                  {"iii>", writeLog},
	"get_method":           {"ii>i", getMethod},
	"set_method":           {"ii>", setMethod},
	"get_uri":              {"ii>i", getURI},
	"set_uri":              {"ii>", setURI},
	"get_protocol_version": {"ii>i", getProtocol},
	"get_source_addr":      {"ii>i", getSource},
	"get_header_names":     {"iii>I", getNames},
	"get_header_values":    {"iiiii>I", getValues},
	"set_header_value":     {"iiiii>", func(x *Exchange, mem api.Memory, st []uint64) error { return change(x, mem, st, Set) }},
	"add_header_value":     {"iiiii>", func(x *Exchange, mem api.Memory, st []uint64) error { return change(x, mem, st, Add) }},
	"remove_header":        {"iii>", func(x *Exchange, mem api.Memory, st []uint64) error { return change(x, mem, st, Remove) }},
	"read_body":            {"iii>I", readBody},
	"write_body":           {"iii>", writeBody},
	"get_status_code":      {">i", getStatus},
	"set_status_code":      {"i>", setStatus},
}

// perField is how much work it is to compare a header's name with another, beside
// bytes that are copied.
const perField = 8

// toFind is how much work it is at most to compare a name with another one.
func toFind(name []byte) int { return perField + len(name) }

// workPiece is how many bytes are copied at once.
const workPiece = 64 << 10

// move copies all of from. It is work for each piece.
func (x *Exchange) move(to, from []byte) {
	for len(from) > workPiece {
		copy(to, from[:workPiece])
		to, from = to[workPiece:], from[workPiece:]
		x.Host.Works(workPiece)
	}
	copy(to, from)
	x.Host.Works(len(from))
}

// take returns n bytes of the guest's memory at an address, which are good until
// it runs.
func take(mem api.Memory, at, n uint64) ([]byte, error) {
	b, ok := mem.Read(uint32(at), uint32(n))
	if !ok {
		return nil, fmt.Errorf("%d bytes at %#x are outside of its memory", uint32(n), uint32(at))
	}
	return b, nil
}

// give writes v to the buffer that the first two arguments name, unless it is
// longer, and returns its length.
func (x *Exchange) give(mem api.Memory, st []uint64, v []byte) error {
	if n := uint64(len(v)); n > 0 && n <= uint64(uint32(st[1])) {
		b, err := take(mem, st[0], n)
		if err != nil {
			return err
		}
		x.move(b, v)
	}
	st[0] = uint64(uint32(len(v)))
	return nil
}

// enableFeatures enables what there is of what is asked for, and returns all
// that is enabled.
func enableFeatures(x *Exchange, _ api.Memory, st []uint64) error {
	f := Features(st[0]) & offered
	switch x.at {
	case outside:
		x.Started |= f
		st[0] = uint64(x.Started)
	case requests:
		x.now |= f
		st[0] = uint64(x.now)
	default: // too late to have any effect
		st[0] = uint64(x.now)
	}
	return nil
}

func logEnabled(x *Exchange, _ api.Memory, st []uint64) error {
	logs := x.Host.Logs(int32(st[0]))
	st[0] = 0
	if logs {
		st[0] = 1
	}
	return nil
}

func writeLog(x *Exchange, mem api.Memory, st []uint64) error {
	msg, err := take(mem, st[1], st[2])
	if level := int32(st[0]); err == nil && x.Host.Logs(level) {
		x.Host.Log(level, msg)
	}
	return err
}

func getMethod(x *Exchange, mem api.Memory, st []uint64) error {
	if err := x.inRequest(); err != nil {
		return err
	}
	m := x.in.Method
	if x.out != nil && x.out.Method != "" {
		m = x.out.Method
	}
	x.room = append(x.room[:0], m...)
	return x.give(mem, st, x.room)
}

func setMethod(x *Exchange, mem api.Memory, st []uint64) error {
	if err := x.beforeNext("method"); err != nil {
		return err
	}
	m, err := take(mem, st[0], st[1])
	if err != nil {
		return err
	}
	return x.setMethod(m)
}

func getURI(x *Exchange, mem api.Memory, st []uint64) error {
	if err := x.inRequest(); err != nil {
		return err
	}
	return x.give(mem, st, x.target())
}

func setURI(x *Exchange, mem api.Memory, st []uint64) error {
	if err := x.beforeNext("URI"); err != nil {
		return err
	}
	uri, err := take(mem, st[0], st[1])
	if err != nil {
		return err
	}
	return x.setURI(uri)
}

func getProtocol(x *Exchange, mem api.Memory, st []uint64) error {
	if err := x.inRequest(); err != nil {
		return err
	}
	x.room = append(x.room[:0], x.in.Proto...)
	return x.give(mem, st, x.room)
}

func getSource(x *Exchange, mem api.Memory, st []uint64) error {
	if err := x.inRequest(); err != nil {
		return err
	}
	x.room = x.room[:0]
	if x.in.Client != (netip.AddrPort{}) {
		x.room = x.in.Client.AppendTo(x.room)
	}
	return x.give(mem, st, x.room)
}

// headerOf is the header that a call reads, nil for one without fields.
func (x *Exchange) headerOf(k kind) (*infer.Header, error) {
	if err := x.inRequest(); err != nil {
		return nil, err
	}
	switch k {
	case ofRequest, ofAnswer:
		return x.header[k].get(), nil
	case requestTrailers, answerTrailers:
		return nil, nil
	}
	return nil, unknownKind(k)
}

// getNames writes the names of a header in lower case, each once and ended by a
// NUL, and returns how many there are and how long all are.
func getNames(x *Exchange, mem api.Memory, st []uint64) error {
	h, err := x.headerOf(kind(uint32(st[0])))
	if err != nil {
		return err
	}
	all, count := x.room[:0], uint64(0)
	if h != nil {
		fields := h.Fields()
	next:
		for i := range fields {
			x.Host.Works(i * toFind(fields[i].Name))
			for k := range fields[:i] {
				if len(fields[k].Name) == len(fields[i].Name) && bytes.EqualFold(fields[k].Name, fields[i].Name) {
					continue next
				}
			}
			for _, c := range fields[i].Name {
				if 'A' <= c && c <= 'Z' {
					c += 'a' - 'A'
				}
				all = append(all, c)
			}
			all = append(all, 0)
			count++
		}
	}
	x.room = all
	x.Host.Works(len(all))
	if err := x.give(mem, st[1:], all); err != nil {
		return err
	}
	st[0] = count<<32 | st[1]
	return nil
}

var errNoName = errors.New("a header's name is empty")

// getValues writes the values of the fields of one name, as getNames does.
func getValues(x *Exchange, mem api.Memory, st []uint64) error {
	h, err := x.headerOf(kind(uint32(st[0])))
	if err != nil {
		return err
	}
	name, err := take(mem, st[1], st[2])
	switch {
	case err != nil:
		return err
	case len(name) == 0:
		return errNoName
	}
	all, count := x.room[:0], uint64(0)
	if h != nil {
		x.Host.Works(len(h.Fields()) * toFind(name))
		for _, f := range h.Fields() {
			if len(f.Name) == len(name) && bytes.EqualFold(f.Name, name) {
				all = append(append(all, f.Value...), 0)
				count++
			}
		}
	}
	x.room = all
	x.Host.Works(len(all))
	if err := x.give(mem, st[3:], all); err != nil {
		return err
	}
	st[0] = count<<32 | st[3]
	return nil
}

// change changes a header.
func change(x *Exchange, mem api.Memory, st []uint64, op Op) error {
	k := kind(uint32(st[0]))
	if err := x.mutable(k); err != nil {
		return err
	}
	name, err := take(mem, st[1], st[2])
	if err != nil {
		return err
	}
	var value []byte
	if op != Remove {
		if value, err = take(mem, st[3], st[4]); err != nil {
			return err
		}
	}
	if len(name) == 0 {
		return errNoName
	}
	return x.edit(k, op, name, value)
}

// eof is what readBody returns beside the length when nothing is left.
const eof = 1 << 32

// readBody reads on in a body.
func readBody(x *Exchange, mem api.Memory, st []uint64) error {
	k := kind(uint32(st[0]))
	body, err := x.body(k)
	switch {
	case err != nil:
		return err
	case uint32(st[2]) == 0:
		return errors.New("it reads a body into a buffer of no bytes")
	}
	rest := body[min(x.read[k], len(body)):]
	n := min(uint64(len(rest)), uint64(uint32(st[2])))
	to, err := take(mem, st[1], n)
	if err != nil {
		return err
	}
	x.move(to, rest[:n])
	x.read[k] += int(n)
	st[0] = n
	if int(n) == len(rest) {
		st[0] |= eof
	}
	return nil
}

// writeBody writes on to a body.
func writeBody(x *Exchange, mem api.Memory, st []uint64) error {
	k := kind(uint32(st[0]))
	var err error
	switch k {
	case ofRequest:
		err = x.beforeNext("request's body")
	case ofAnswer:
		err = x.answerable("body")
	default:
		err = unknownKind(k)
	}
	if err != nil {
		return err
	}
	b, err := take(mem, st[1], st[2])
	if err != nil {
		return err
	}
	return x.write(k, b)
}

func getStatus(x *Exchange, _ api.Memory, st []uint64) error {
	st[0] = uint64(x.status())
	return x.inRequest()
}

func setStatus(x *Exchange, _ api.Memory, st []uint64) error {
	if err := x.answerable("status"); err != nil {
		return err
	}
	return x.setStatus(uint32(st[0]))
}
