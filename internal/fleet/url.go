package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"

	"sluice/internal/kit/listen"
)

// maxURL bounds the length of a worker's URL.
const maxURL = 2048

// ParseURL reads a worker's URL: http or https, a host, perhaps a port and a
// path that all requests begin with; or unix:/path, for a worker that listens
// on a Unix socket, unix:@name for an abstract one. A bare host:port stands for
// http if bareOK, as on the command line. Two texts for the same worker give
// equal URLs: scheme and host are lower case, the default port and a trailing
// slash are left out. Errors are *FieldError.
func ParseURL(s string, bareOK bool) (*url.URL, error) {
	refuse := func(why string) error {
		return &FieldError{Field: "worker_url", Value: printable(s), Want: why}
	}
	if len(s) > maxURL {
		return nil, refuse(fmt.Sprintf("URL must have at most %d bytes", maxURL))
	}
	if strings.HasPrefix(s, "unix:/") || strings.HasPrefix(s, "unix:@") { // unix:80 is a host's port
		u, err := unixURL(s)
		if err != nil {
			return nil, refuse(err.Error())
		}
		return u, nil
	}
	text := s
	scheme, _, ok := strings.Cut(s, "://")
	switch {
	case !ok && bareOK:
		text = "http://" + s
	case ok && (scheme == "grpc" || scheme == "grpcs" || scheme == "ipc"):
		return nil, refuse("scheme " + scheme + ":// is not supported yet; want http:// or https://")
	case !ok || scheme != "http" && scheme != "https":
		return nil, refuse("URL must start with a lowercase http://, https://, grpc://, grpcs://, or ipc:// scheme")
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		// The error of net/url holds the text, which may hold a password.
		return nil, refuse("not a valid URL; want http://host:port, or unix: and an absolute path")
	case u.User != nil:
		return nil, refuse("URL must not hold a user or password; use api_key")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(text, "#"):
		return nil, refuse("URL must not have a query or fragment")
	case u.Hostname() == "":
		return nil, refuse("URL must name a host")
	}
	host, err := hostPort(u)
	if err != nil {
		return nil, refuse(err.Error())
	}
	prefix := strings.TrimRight(u.Path, "/")
	if prefix != "" && path.Clean(prefix) != prefix || u.RawPath != "" {
		return nil, refuse("the path must not hold //, dot segments or escaped slashes")
	}
	out := &url.URL{Scheme: u.Scheme, Host: host, Path: prefix}
	if len(out.String()) > maxURL { // escaped, it is longer
		return nil, refuse(fmt.Sprintf("URL must have at most %d bytes", maxURL))
	}
	return out, nil
}

// unixURL reads the URL of a Unix socket. Its path is taken as it stands, so
// nothing is taken that would have to be escaped, or that a host cannot hold.
func unixURL(s string) (*url.URL, error) {
	a, err := listen.ParseAddress(s)
	if err != nil {
		return nil, fmt.Errorf("URL is not of a Unix socket: %w", err)
	}
	u := &url.URL{Scheme: "unix", Path: a.Name, OmitHost: true}
	if strings.HasPrefix(a.Name, "@") {
		u = &url.URL{Scheme: "unix", Opaque: a.Name}
	} else if path.Clean(a.Name) != a.Name || a.Name == "/" {
		return nil, errors.New("the path of a Unix socket must not hold //, dot segments or a slash at its end")
	}
	for _, c := range []byte(a.Name) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte("!\"#%'()*:<>?[\\]^`{|}", c) >= 0 {
			return nil, fmt.Errorf("the path of a Unix socket must not hold %q", c)
		}
	}
	return u, nil
}

// socket returns the path of the Unix socket that u names, "" if it names none.
func socket(u *url.URL) string {
	if u.Scheme != "unix" {
		return ""
	}
	return u.Path + u.Opaque // one of them
}

// Request makes a request to w for net/http, without a body. Where w is on a
// Unix socket, the URL's host is its path, which no text is read as, and the
// transport's dialer must be Dialer's.
func (w *Worker) Request(ctx context.Context, method, path string) (*http.Request, error) {
	at := socket(w.url)
	if at == "" {
		return http.NewRequestWithContext(ctx, method, w.root+path, nil)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, nil)
	if err == nil {
		r.URL.Host = at
	}
	return r, err
}

// Dialer returns a function for http.Transport that opens connections with
// dial, to workers on Unix sockets too.
func Dialer(dial func(ctx context.Context, network, addr string) (net.Conn, error)) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if strings.HasPrefix(addr, "/") || strings.HasPrefix(addr, "@") {
			network, addr = "unix", strings.TrimSuffix(addr, ":80") // which net/http has added
		}
		return dial(ctx, network, addr)
	}
}

// hostPort returns u's host as Go dials it, without the scheme's own port.
func hostPort(u *url.URL) (string, error) {
	host := strings.ToLower(u.Hostname())
	if !utf8.ValidString(u.Hostname()) {
		return "", errors.New("the host must be UTF-8")
	}
	for _, c := range host {
		if c <= ' ' || c == 0x7f || strings.ContainsRune("\"<>\\^`{|}/?#@", c) {
			return "", fmt.Errorf("the host must not hold %q", c)
		}
	}
	if strings.Contains(host, ":") {
		ip, err := netip.ParseAddr(host)
		if err != nil {
			return "", fmt.Errorf("the host is not an IP address")
		}
		host = "[" + ip.String() + "]"
	}
	port := u.Port()
	if port == "" {
		if strings.HasSuffix(u.Host, ":") {
			return "", fmt.Errorf("a port must follow the colon")
		}
		return host, nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", fmt.Errorf("the port must be 1 to 65535")
	}
	if u.Scheme == "http" && n == 80 || u.Scheme == "https" && n == 443 {
		return host, nil
	}
	return host + ":" + strconv.FormatUint(n, 10), nil
}

// printable returns s as an error may show it: short, without control
// characters, and without a password.
func printable(s string) string {
	if at := strings.LastIndexByte(s, '@'); at >= 0 {
		from := 0
		if i := strings.Index(s, "://"); i >= 0 && i < at {
			from = i + 3
		}
		s = s[:from] + "****" + s[at:]
	}
	if len(s) > 256 {
		s = s[:256] + "…"
	}
	s = strings.ToValidUTF8(s, "\uFFFD")
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '\uFFFD'
		}
		return r
	}, s)
}
