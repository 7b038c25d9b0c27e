package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"calico.internal/libcalico/model"
)

// What an operation can fail with, besides the end of its context. Use [errors.Is].
var (
	// ErrNotFound says that the resource does not exist.
	ErrNotFound = errors.New("resource does not exist")
	// ErrExists says that the resource exists already.
	ErrExists = errors.New("resource already exists")
	// ErrUnreadable says that there is a value which cannot be decoded.
	ErrUnreadable = errors.New("stored value cannot be read")
	// ErrConflict says that the resource changed since the caller read it.
	ErrConflict = errors.New("update conflict")
	// ErrUnavailable says that etcd could not be reached or did not answer. A write may
	// have been done all the same.
	ErrUnavailable = errors.New("etcd is unavailable")
	// ErrUnauthorized says that etcd refuses the user.
	ErrUnauthorized = errors.New("connection is unauthorized")
	// ErrTooLarge says that a transaction is beyond etcd's limits ([MaxTxnOps], and
	// 1.5 MiB by default).
	ErrTooLarge = errors.New("transaction is too large for etcd")
	// ErrNoSpace says that etcd's database is full: it answers reads only, until somebody
	// makes room.
	ErrNoSpace = errors.New("etcd has no room left")
	// ErrInvalid says that the resource was refused before anything was sent; the
	// faults are [*model.FieldError]s.
	ErrInvalid = errors.New("resource is not valid")
	// ErrLocked says that the Ready flag of the store ([model.Ready]) is false, because
	// somebody copies it or puts it in order. This package does not look at the flag;
	// whoever writes for a user, or gives out addresses, does.
	ErrLocked = errors.New("the datastore is locked against changes (its Ready flag is false); " +
		"when whoever locked it is done, \"calicoctl datastore unlock\" opens it")
)

// ConflictError says which conditions of a transaction failed. It Is [ErrConflict],
// and also what its Errs are.
type ConflictError struct {
	// Keys are the resources whose condition failed, and Errs why: ErrExists,
	// ErrNotFound or ErrConflict, in the same order.
	Keys []model.Key
	Errs []error
}

// Error names the resources.
func (e *ConflictError) Error() string {
	texts := make([]string, len(e.Keys))
	for i, k := range e.Keys {
		texts[i] = fmt.Sprintf("%v: %v", e.Errs[i], k)
	}
	return strings.Join(texts, "; ")
}

// Unwrap lists the reasons.
func (e *ConflictError) Unwrap() []error { return append([]error{ErrConflict}, e.Errs...) }

func (e *ConflictError) add(k model.Key, err error) {
	e.Keys = append(e.Keys, k)
	e.Errs = append(e.Errs, err)
}

// IsRefusal tells whether an error of a transaction means that it was not done, for
// certain. After any other nobody knows: it may have been done all the same.
func IsRefusal(err error) bool {
	for _, refusal := range []error{ErrInvalid, ErrTooLarge, ErrNoSpace, ErrUnauthorized, ErrConflict} {
		if errors.Is(err, refusal) {
			return true
		}
	}
	if errors.Is(err, ErrUnavailable) {
		return false
	}
	switch code, _ := codeOf(err); code {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange, codes.ResourceExhausted:
		return true // as for two writes of one key
	default:
		return false
	}
}

// explained is an error of etcd in words for an operator.
type explained struct {
	text   string
	class  error
	causes []error
}

func (e *explained) Error() string   { return e.text }
func (e *explained) Unwrap() []error { return append([]error{e.class}, e.causes...) }

// explain turns an error of the client library into one that says what to do.
func (c *Client) explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return context.Cause(ctx)
	}
	where := c.where()
	code, message := codeOf(err)
	switch {
	case code == codes.PermissionDenied, code == codes.Unauthenticated, isLoginError(err):
		return &explained{
			text:  fmt.Sprintf("etcd at %s refuses %s: %s; check ETCD_USERNAME, ETCD_PASSWORD and the user's role", where, c.user(), message),
			class: ErrUnauthorized, causes: []error{err},
		}
	case errors.Is(rpctypes.Error(err), rpctypes.ErrNoSpace), strings.Contains(message, "database space exceeded"):
		return &explained{
			text: fmt.Sprintf("etcd at %s has no room for changes any more (%s); make room by \"etcdctl compact <revision>\" and \"etcdctl defrag\", "+
				"or give it more by --quota-backend-bytes, and then run \"etcdctl alarm disarm\"", where, message),
			class: ErrNoSpace, causes: []error{err},
		}
	case isTooLarge(code, message):
		return &explained{text: "etcd: " + message, class: ErrTooLarge, causes: []error{err}}
	case code == codes.DeadlineExceeded, errors.Is(err, context.DeadlineExceeded),
		code == codes.Unknown && strings.Contains(message, context.DeadlineExceeded.Error()): // etcd's own words, of a read that waited for the others
		reason := c.reason(message)
		if last := c.dials.lastError(); last != nil {
			reason = DialReason(last)
		}
		return c.unavailable(where, reason, err, context.DeadlineExceeded)
	case code == codes.Unavailable, code == codes.Canceled:
		return c.unavailable(where, c.reason(message), err)
	default:
		return fmt.Errorf("etcd: %w", err)
	}
}

func (c *Client) where() string { return strings.Join(c.cfg.Endpoints, ", ") }

func (c *Client) user() string {
	if c.cfg.Username != "" {
		return "user " + c.cfg.Username
	}
	return "a client without a user"
}

func (c *Client) unavailable(where, reason string, causes ...error) error {
	advice := "is it running, and is ETCD_ENDPOINTS right?"
	secure := strings.HasPrefix(where, "https://")
	switch {
	case strings.Contains(reason, "does not look like a TLS handshake"),
		strings.HasPrefix(reason, tlsHandshake) && !strings.Contains(reason, "tls:") && !strings.Contains(reason, "x509:"):
		// A server that does not know TLS hangs up, or answers in its own words.
		advice = "does it serve plain http there (ETCD_ENDPOINTS)?"
	case strings.Contains(reason, "x509: certificate has expired"):
		advice = "renew the certificate of etcd there, or set the clock of this host right"
	case strings.Contains(reason, "x509: certificate is "), strings.Contains(reason, "x509: cannot validate certificate for"):
		advice = "name it in ETCD_ENDPOINTS as its certificate does, or give it a certificate with this name or address"
	case strings.Contains(reason, "tls:"), strings.Contains(reason, "x509:"):
		advice = "check ETCD_CA_CERT_FILE, ETCD_CERT_FILE and ETCD_KEY_FILE"
	case strings.Contains(reason, "server preface") && !secure:
		advice = "does it serve https there (ETCD_ENDPOINTS)?"
	case secure:
		// A server that refuses the client's certificate may just hang up.
		advice = "is it running, is ETCD_ENDPOINTS right, and does it accept the certificate in ETCD_CERT_FILE?"
	}
	return &explained{
		text:  fmt.Sprintf("cannot reach etcd at %s: %s; %s", where, reason, advice),
		class: ErrUnavailable, causes: causes,
	}
}

const tlsHandshake = "TLS handshake: "

// reason shortens grpc's account of a broken connection to its cause.
func (c *Client) reason(message string) string {
	if _, cause, ok := strings.Cut(message, "authentication handshake failed: "); ok {
		return tlsHandshake + strings.TrimSuffix(cause, `"`)
	}
	if _, cause, ok := strings.Cut(message, "error reading server preface: "); ok {
		return "no HTTP/2 server preface: " + strings.TrimSuffix(cause, `"`)
	}
	if strings.Contains(message, "Error while dialing") {
		if last := c.dials.lastError(); last != nil {
			return DialReason(last)
		}
	}
	if message == "" || strings.HasPrefix(message, context.DeadlineExceeded.Error()) {
		return "no answer in time"
	}
	return steady(message)
}

// ends are the two ends of a connection in an error of package net.
var ends = regexp.MustCompile(` \S+->\S+:`)

// steady takes out of a text what is another at each attempt: the port of this side.
func steady(text string) string { return ends.ReplaceAllLiteralString(text, ":") }

// Kind says what is the matter with etcd in words that are the same at each attempt: the reason
// changes while a server goes away. What is no error of this package is its own text.
func Kind(err error) string {
	if e, ok := errors.AsType[*explained](err); ok {
		return e.class.Error()
	}
	return err.Error()
}

// DialReason says why a name could not be resolved or a connection not be opened, without what
// is another at each attempt.
func DialReason(err error) string {
	if tls, ok := errors.AsType[*handshakeError](err); ok {
		return tls.Error()
	}
	if sys, ok := errors.AsType[*os.SyscallError](err); ok {
		return sys.Err.Error()
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsTimeout {
			return "cannot resolve " + dns.Name + ": the name service does not answer"
		}
		return "cannot resolve " + dns.Name + ": " + steady(dns.Err)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Timeout() {
		return "no answer to the attempt to connect"
	}
	return steady(err.Error())
}

func codeOf(err error) (codes.Code, string) {
	if e, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		return e.Code(), e.Error()
	}
	if s, ok := status.FromError(err); ok {
		return s.Code(), s.Message()
	}
	return codes.Unknown, err.Error()
}

func isLoginError(err error) bool {
	err = rpctypes.Error(err)
	return errors.Is(err, rpctypes.ErrAuthFailed) || errors.Is(err, rpctypes.ErrUserEmpty) || errors.Is(err, rpctypes.ErrInvalidAuthToken)
}

func isTooLarge(code codes.Code, message string) bool {
	return strings.Contains(message, "too many operations in txn") || strings.Contains(message, "request is too large") ||
		code == codes.ResourceExhausted && strings.Contains(message, "larger than max")
}
