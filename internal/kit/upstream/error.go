package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"

	"sluice/internal/kit/h1"
	"sluice/internal/kit/sock"
)

// An Error says why an exchange failed. What a Sink returns is not made one,
// unless it is an *h1.Error: it is returned as it is. So is what a Source
// returns that fails by itself.
//
// Unwrap leads to an *h1.Error if the worker broke the rules, to the context's
// cause if nobody wants the answer any more, and to context.DeadlineExceeded
// if the context's deadline has passed.
type Error struct {
	Op       string // what was being done: "wait" (for a free connection), "dial", "send", "answer" (its head), "body" (of the answer)
	Reused   bool   // the connection had served another request
	Received bool   // some of an answer has come, interim ones included
	Timeout  bool   // time was up: the context's, or one of the Exchange's
	Err      error
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(opText[e.Op])
	if e.Reused {
		b.WriteString(" on a used connection")
	}
	b.WriteString(": ")
	b.WriteString(e.Err.Error())
	return b.String()
}

var opText = map[string]string{
	"wait":   "waiting for a connection to the worker",
	"dial":   "connecting to the worker",
	"send":   "sending to the worker",
	"answer": "waiting for the worker's answer",
	"body":   "reading the worker's answer",
}

// Unwrap returns e.Err.
func (e *Error) Unwrap() error { return e.Err }

// The rules that only who knows the connection can see broken.
var (
	errUnsolicited = &h1.Error{Status: 502, Reason: "bytes behind an answer that may be an earlier request's", Section: "9112 §6.3"}
	errInterims    = &h1.Error{Status: 502, Reason: "too many informational answers", Section: "9110 §15.2"}
	errNoAnswer    = &h1.Error{Status: 502, Reason: "connection ended within the status line", Section: "9112 §4"}
	errSwitched    = &h1.Error{Status: 502, Reason: "protocol switched unasked", Section: "9110 §15.2.2"}
)

var errLeft = errors.New("BUG: a sink left bytes of a body")

// over returns why ctx is done, or that somebody said so who knows before it.
func over(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return context.Canceled
}

// fault makes an Error of what ended x's Receive.
func (x *Exchange) fault(ctx context.Context, err error) error {
	switch {
	case x.sourceErr() != nil:
		return x.sourceErr()
	case x.sinkErr != nil:
		return x.sinkErr
	}
	e := &Error{Op: "answer", Reused: x.c.used, Received: x.received, Err: err}
	switch {
	case x.stage == inBody:
		e.Op = "body"
	case x.sendErr != nil, x.unsent:
		e.Op = "send"
		if x.sendErr != nil && !x.received {
			e.Err = x.sendErr
		}
	}
	switch {
	case x.c.s.Interrupted():
		e.Err = over(ctx)
		e.Timeout = errors.Is(e.Err, context.DeadlineExceeded)
	case errors.Is(e.Err, sock.ErrExpired):
		e.Timeout = true
		if x.total != 0 && x.c.h.client.watch.Now() >= x.total {
			e.Err = context.DeadlineExceeded
		}
	case e.Err == io.EOF && x.received:
		e.Err = io.ErrUnexpectedEOF
	}
	return e
}

// unmade makes an Error of a connection that did not come to be.
func unmade(ctx context.Context, op string, err error) error {
	e := &Error{Op: op, Err: err}
	if ctx.Err() != nil {
		e.Err = over(ctx)
	}
	var t net.Error
	e.Timeout = errors.As(e.Err, &t) && t.Timeout()
	return e
}
