package infer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// StatusClientGone is what logs and metrics say of a request whose client left
// before the answer: no RFC has a code for it, nginx and the reference use 499.
const StatusClientGone = 499

// An Error is a failure that a client may read. Everything the operator needs
// and the client must not see stays in Err.
type Error struct {
	Status     int           // HTTP status
	Code       string        // stable, snake_case, for programs
	Msg        string        // one sentence, for people
	Param      string        // the body's field that is wrong, or ""
	Allow      string        // methods that would be right, with status 405
	RetryAfter time.Duration // when to ask again, whole seconds; 0 for not said
	Retry      bool          // another worker may succeed
	Answer     *Answer       // a worker's own words, relayed instead of the above
	Err        error         // cause, for the log
}

// An Answer is what a worker said that is not yet, or never, relayed.
type Answer struct {
	Status int
	Header Header
	Body   []byte // nil if it was too long to be kept: then it is not relayed
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Code + ": " + e.Msg
	}
	return fmt.Sprintf("%s: %s: %v", e.Code, e.Msg, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Stopping is the cause with which the front end ends requests that outlast the
// gateway, and what their clients are told.
var Stopping = &Error{Status: http.StatusServiceUnavailable, Code: "gateway_stopping", Msg: "The gateway is stopping.", RetryAfter: 2 * time.Second}

// Ended returns the error of a request whose ctx is done: its time is up, its
// client has left, or the gateway stops. It returns nil if ctx is not done. err
// is what that made go wrong, for the log.
func Ended(ctx context.Context, err error) *Error {
	var why *Error
	switch cause := context.Cause(ctx); {
	case cause == nil:
		return nil
	case errors.As(cause, &why):
		return why
	case errors.Is(cause, context.DeadlineExceeded):
		return &Error{Status: http.StatusGatewayTimeout, Code: "call_upstream_timeout", Msg: "No worker answered in time.", Err: err}
	}
	return &Error{Status: StatusClientGone, Code: "client_closed_request", Msg: "The client left before the answer was complete.", Err: err}
}

// AsError returns err as an *Error. A failure that nobody named is the
// gateway's own: status 500, with no detail for the client.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Status: http.StatusInternalServerError, Code: "internal_error", Msg: "The gateway failed.", Err: err}
}

// Retryable reports whether another worker may succeed where err was returned.
func Retryable(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Retry
}
