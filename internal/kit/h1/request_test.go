package h1

import (
	"fmt"
	"strings"
	"testing"
)

// head is the beginning of rows about fields.
const head = "POST / HTTP/1.1\r\nHost: a\r\n"

// A row is what one connection sends, and what is read from it. want is in the
// words of readRequests: refusals are "!status section".
type row struct {
	section string // which rule it shows
	name    string
	in      string
	want    string
}

var requestLineRows = []row{
	{"9112 §3", "method, target, version", "GET /a?b=c HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a?b=c a"},
	{"9112 §3", "two spaces before the target", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9112 §3"},
	{"9112 §3", "two spaces before the version", "GET /  HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9112 §2.3"},
	{"9112 §3", "space after the version", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", "!400 9112 §2.3"},
	{"9112 §3", "tab for a space", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9112 §3"},
	{"9112 §3", "tab in the target", "GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9112 §3"},
	{"9112 §3", "space in the target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9112 §2.3"},
	{"9112 §3", "no target", "GET HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9112 §3"},
	{"9112 §3", "nothing but a method", "GET\r\n\r\n", "!400 9112 §3"},
	{"9112 §3", "a simple request of HTTP/0.9", "GET /\r\n", "!400 9112 §3"},
	{"9112 §3", "vertical tab for a space", "GET\v/ HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9112 §3"},
	{"9112 §3.1", "methods are tokens, and case matters", "get / HTTP/1.1\r\nHost: a\r\n\r\n", "get / a"},
	{"9112 §3.1", "a method that nobody knows", "M-SEARCH! / HTTP/1.1\r\nHost: a\r\n\r\n", "M-SEARCH! / a"},
	{"9112 §3.1", "a method that is no token", "G{T / HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9112 §3"},
	{"9112 §3.1", "no method", " / HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9112 §3.1"},
	{"9112 §3.1", "a TLS handshake is told at once", "\x16\x03\x01\x02\x00\x01", "!400 9112 §3.1"},
	{"9112 §2.2", "one empty line first is forgiven", "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / a"},
	{"9112 §2.2", "also between two requests", "GET / HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n", "GET / a | GET /b a"},
	{"9112 §2.2", "two empty lines are not", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9112 §2.2"},
	{"9112 §2.2", "nor a line feed", "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9112 §2.2"},
	{"9112 §2.2", "nor a carriage return", "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9112 §2.2"},
	{"9112 §2.2", "request line ends with a line feed", "GET / HTTP/1.1\nHost: a\r\n\r\n", "!400 9112 §2.2"},
	{"9112 §2.2", "request line ends with a carriage return", "GET / HTTP/1.1\rHost: a\r\n\r\n", "!400 9112 §2.2"},
	{"9112 §2.2", "two carriage returns", "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", "!400 9112 §2.2"},
	{"9112 §2.2", "carriage return in the target", "GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9112 §2.2"},
	{"9112 §2.3", "HTTP/1.0 closes", "GET / HTTP/1.0\r\n\r\n", "GET / close"},
	{"9110 §2.5", "a higher minor version is read as 1.1", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", "GET / a"},
	{"9110 §2.5", "and held to what 1.1 asks for", "GET / HTTP/1.9\r\n\r\n", "!400 9112 §3.2"},
	{"9110 §15.6.6", "HTTP/2.0", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "!505 9110 §15.6.6"},
	{"9110 §15.6.6", "HTTP/0.9", "GET / HTTP/0.9\r\n\r\n", "!505 9110 §15.6.6"},
	{"9112 §2.3", "the name of the protocol is in capitals", "GET / http/1.1\r\nHost: a\r\n\r\n", "!400 9112 §2.3"},
	{"9112 §2.3", "one digit each", "GET / HTTP/1.10\r\nHost: a\r\n\r\n", "!400 9112 §2.3"},
	{"9112 §2.3", "carriage return in the version", "GET / H\rTP/1.1\r\nHost: a\r\n\r\n", "!400 9112 §2.2"},
	{"9112 §2.3", "carriage return for the version", "GET / \r\r\nHost: a\r\n\r\n", "!400 9112 §2.2"},
	{"9112 §2.3", "digits below 0", "GET / HTTP/1./\r\nHost: a\r\n\r\n", "!400 9112 §2.3"},
	{"9112 §2.3", "major digits below 0", "GET / HTTP//.1\r\nHost: a\r\n\r\n", "!400 9112 §2.3"},
	{"9112 §2.3", "digits above 9", "GET / HTTP/1.:\r\nHost: a\r\n\r\n", "!400 9112 §2.3"},
	{"9112 §2.3", "major digits above 9", "GET / HTTP/:.1\r\nHost: a\r\n\r\n", "!400 9112 §2.3"},
	{"9110 §15.6.6", "HTTP/9.9", "GET / HTTP/9.9\r\nHost: a\r\n\r\n", "!505 9110 §15.6.6"},
	{"9112 §2.3", "no digits", "GET / HTTP/1.x\r\nHost: a\r\n\r\n", "!400 9112 §2.3"},
	{"9112 §2.3", "another protocol", "GET / ICAP/1.0\r\nHost: a\r\n\r\n", "!400 9112 §2.3"},
	{"9112 §2.3", "a version of two parts", "GET / HTTP/11\r\nHost: a\r\n\r\n", "!400 9112 §2.3"},

	{"9112 §3.2.1", "origin form", "GET /a/b?c?d HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a/b?c?d a"},
	{"9112 §3.2.1", "two slashes name no host", "GET //b/c HTTP/1.1\r\nHost: a\r\n\r\n", "GET //b/c a"},
	{"9112 §3.2.1", "an empty query is kept", "GET /a? HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a? a"},
	{"9112 §3.2", "a path without its slash", "GET a/b HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9112 §3.2"},
	{"9112 §3.2", "a fragment is not sent", "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9112 §3.2"},
	{"9112 §3.2", "bytes above ASCII", "GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9112 §3.2"},
	{"9112 §3.2", "NUL", "GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9112 §3.2"},
	{"9112 §3.2", "DEL", "GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9112 §3.2"},
	{"9112 §3.2", "an escape that is none", "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9112 §3.2"},
	{"9112 §3.2", "an escape whose second digit is none", "GET /%4z HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9112 §3.2"},
	{"9112 §3.2", "an escape whose first digit is none", "GET /%z4 HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9112 §3.2"},
	{"9112 §3.2", "half an escape", "GET /%4 HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9112 §3.2"},
	{"9112 §3.2", "escapes are left alone", "GET /%2e%2E/%00 HTTP/1.1\r\nHost: a\r\n\r\n", "GET /%2e%2E/%00 a"},
	{"9112 §3.2", "queries are opaque", "GET /?q=100% HTTP/1.1\r\nHost: a\r\n\r\n", "GET /?q=100% a"},
	{"9112 §3.2.2", "absolute form: the target's host wins", "GET http://b:80/p?q HTTP/1.1\r\nHost: a\r\n\r\n", "GET /p?q b:80"},
	{"9112 §3.2.2", "schemes have no case", "GET hTTps://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "GET / b"},
	{"9112 §3.2.2", "Host is asked for all the same", "GET http://b/ HTTP/1.1\r\n\r\n", "!400 9112 §3.2"},
	{"9112 §3.2.2", "and must be one", "GET http://b/ HTTP/1.1\r\nHost: b\r\nHost: a\r\n\r\n", "!400 9112 §3.2"},
	{"9112 §3.2.2", "in 1.0 it may be left out", "GET http://b/ HTTP/1.0\r\n\r\n", "GET / b close"},
	{"9110 §4.2.3", "an empty path is a slash", "GET http://b HTTP/1.1\r\nHost: b\r\n\r\n", "GET / b"},
	{"9110 §4.2.3", "also before a query", "GET http://b?q HTTP/1.1\r\nHost: b\r\n\r\n", "GET /?q b"},
	{"9110 §4.2.1", "no host", "GET http:///p HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9110 §4.2.1"},
	{"9110 §4.2.1", "only a port", "GET http://:80/p HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9110 §4.2.1"},
	{"9110 §4.2.4", "user information hides the host", "GET http://a@b/ HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9110 §4.2.4"},
	{"9110 §4.2.4", "empty user information", "GET http://@b/ HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9110 §4.2.4"},
	{"9112 §3.2.2", "nothing but a scheme", "GET http:// HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9110 §4.2.1"},
	{"9110 §4.2.1", "a backslash ends no host", "GET http://a\\b/ HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9110 §4.2.1"},
	{"9112 §3.2.2", "schemes that are not ours", "GET ftp://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9112 §3.2"},
	{"9112 §3.2.2", "a scheme without a host", "GET http:/p HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9112 §3.2"},
	{"9112 §3.2.3", "authority form", "GET b:80 HTTP/1.1\r\nHost: b\r\n\r\n", "!400 9112 §3.2"},
	{"9110 §9.3.6", "tunnels are not offered", "CONNECT b:80 HTTP/1.1\r\nHost: b:80\r\n\r\n", "!501 9110 §9.3.6"},
	{"9110 §9.3.6", "whatever the target", "CONNECT / HTTP/1.1\r\nHost: b:80\r\n\r\n", "!501 9110 §9.3.6"},
	{"9112 §3.2.4", "asterisk form", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * a"},
	{"9112 §3.2.4", "is for OPTIONS only", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9112 §3.2"},
	{"9112 §3.2.4", "and has no query", "OPTIONS *?a HTTP/1.1\r\nHost: a\r\n\r\n", "!400 9112 §3.2"},
	{"9112 §3.2.4", "an absolute target without a path means it", "OPTIONS http://b:8001 HTTP/1.1\r\nHost: b\r\n\r\n", "OPTIONS * b:8001"},
	{"9112 §3.2.4", "with a path it does not", "OPTIONS http://b/ HTTP/1.1\r\nHost: b\r\n\r\n", "OPTIONS / b"},
}

var hostRows = []row{
	{"9112 §3.2", "1.1 needs it", "GET / HTTP/1.1\r\n\r\n", "!400 9112 §3.2"},
	{"9112 §3.2", "1.0 does not", "GET / HTTP/1.0\r\n\r\n", "GET / close"},
	{"9112 §3.2", "two", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "!400 9112 §3.2"},
	{"9112 §3.2", "two that are equal", "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", "!400 9112 §3.2"},
	{"9112 §3.2", "two in 1.0", "GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", "!400 9112 §3.2"},
	{"9112 §3.2", "empty is what a target without a host asks for", "GET / HTTP/1.1\r\nHost:\r\n\r\n", "GET /"},
	{"9112 §3.2", "a list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", "!400 9112 §3.2"},
	{"9112 §3.2", "a list without spaces", "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", "!400 9112 §3.2"},
	{"9112 §3.2", "a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "!400 9112 §3.2"},
	{"9112 §3.2", "a user", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", "!400 9112 §3.2"},
	{"9112 §3.2", "a port", "GET / HTTP/1.1\r\nHost: a.b-c_d:8080\r\n\r\n", "GET / a.b-c_d:8080"},
	{"9112 §3.2", "an empty port", "GET / HTTP/1.1\r\nHost: a:\r\n\r\n", "GET / a:"},
	{"9112 §3.2", "a port that is none", "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", "!400 9112 §3.2"},
	{"9112 §3.2", "a port too high", "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", "!400 9112 §3.2"},
	{"9112 §3.2", "two ports", "GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", "!400 9112 §3.2"},
	{"9112 §3.2", "only a port", "GET / HTTP/1.1\r\nHost: :80\r\n\r\n", "!400 9112 §3.2"},
	{"9112 §3.2", "IPv6", "GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n", "GET / [2001:db8::1]:80"},
	{"9112 §3.2", "IPv6 that is none", "GET / HTTP/1.1\r\nHost: [1:2]\r\n\r\n", "!400 9112 §3.2"},
	{"9112 §3.2", "bytes above ASCII", "GET / HTTP/1.1\r\nHost: \xff\r\n\r\n", "!400 9112 §3.2"},
}

var fieldRows = []row{
	{"9112 §5", "whitespace around values is no part of them", "GET / HTTP/1.1\r\nHost: \t a \t \r\n\r\n", "GET / a"},
	{"9112 §5", "nor is it needed", "GET / HTTP/1.1\r\nHost:a\r\n\r\n", "GET / a"},
	{"9112 §5.1", "space before the colon", head + "X : y\r\n\r\n", "!400 9112 §5.1"},
	{"9112 §5.1", "tab before the colon", head + "Content-Length\t: 5\r\n\r\n", "!400 9112 §5.1"},
	{"9112 §5.1", "a line of words", head + "X y\r\n\r\n", "!400 9112 §5.1"},
	{"9110 §5.1", "no name", head + ": y\r\n\r\n", "!400 9110 §5.1"},
	{"9110 §5.1", "no colon", head + "X\r\n\r\n", "!400 9110 §5.1"},
	{"9110 §5.1", "a name that is no token", head + "X[1]: y\r\n\r\n", "!400 9110 §5.1"},
	{"9110 §5.1", "NUL in a name", head + "X\x00: y\r\n\r\n", "!400 9110 §5.1"},
	{"9110 §5.1", "a name above ASCII", head + "X\xe9: y\r\n\r\n", "!400 9110 §5.1"},
	{"9112 §5.2", "obs-fold", head + "X: y\r\n z\r\n\r\n", "!400 9112 §5.2"},
	{"9112 §5.2", "obs-fold with a tab", head + "X: y\r\n\tz\r\n\r\n", "!400 9112 §5.2"},
	{"9112 §5.2", "a line of spaces", head + "X: y\r\n \r\n\r\n", "!400 9112 §5.2"},
	{"9112 §2.2", "whitespace before the first field", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", "!400 9112 §2.2"},
	{"9110 §5.5", "NUL in a value", head + "X: a\x00b\r\n\r\n", "!400 9110 §5.5"},
	{"9110 §5.5", "NUL in a long value", head + "X: 0123456789\x000123456789\r\n\r\n", "!400 9110 §5.5"},
	{"9110 §5.5", "NUL at the end of a long value", head + "X: 0123456789012\x00\r\n\r\n", "!400 9110 §5.5"},
	{"9110 §5.5", "escape in a value", head + "X: \x1b[2J\r\n\r\n", "!400 9110 §5.5"},
	{"9110 §5.5", "DEL in a value", head + "X: 0123456\x7f\r\n\r\n", "!400 9110 §5.5"},
	{"9110 §5.5", "vertical tab in a value", head + "X: \vchunked\r\n\r\n", "!400 9110 §5.5"},
	{"9110 §5.5", "tabs are allowed", head + "X: a\tb and a long rest\r\n\r\n", "POST / a"},
	{"9110 §5.5", "bytes above ASCII are opaque", head + "X: \xff\xfe caf\xc3\xa9 \x80\r\n\r\n", "POST / a"},
	{"9110 §5.5", "a value may be empty", head + "X:\r\nY: \t\r\n\r\n", "POST / a"},
	{"9112 §2.2", "line feed alone ends no field", head + "X: y\nZ: z\r\n\r\n", "!400 9112 §2.2"},
	{"9112 §2.2", "carriage return alone ends no field", head + "X: y\rZ: z\r\n\r\n", "!400 9112 §2.2"},
	{"9112 §2.2", "carriage return first in a value", head + "X: \ry\r\n\r\n", "!400 9112 §2.2"},
	{"9112 §2.2", "two carriage returns", head + "X: y\r\r\n\r\n", "!400 9112 §2.2"},
	{"9112 §2.2", "line feed alone ends no head", head + "\n", "!400 9112 §2.2"},
	{"9112 §2.2", "two line feeds end no head", head + "X: y\n\n", "!400 9112 §2.2"},
	{"9112 §2.2", "carriage return in the empty line", head + "\r\r\n", "!400 9110 §5.1"},
	{"9110 §7.6.1", "close", head + "Connection: Close\r\n\r\n", "POST / a close"},
	{"9110 §7.6.1", "close in a list", head + "Connection: keep-alive , close\r\n\r\n", "POST / a close"},
	{"9110 §7.6.1", "close in a second field", head + "Connection: x\r\nConnection: close\r\n\r\n", "POST / a close"},
	{"9110 §7.6.1", "an option that is no token", head + "Connection: \"close\"\r\n\r\n", "!400 9110 §7.6.1"},
	{"9112 §9.3", "1.0 may keep its connection", "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "GET /"},
	{"9112 §9.3", "close wins", "GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", "GET / close"},
	{"9110 §7.8", "upgrade", head + "Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "POST / a upgrade=websocket"},
	{"9110 §7.8", "the first field says it, and a later one does not add", "GET / HTTP/1.1\r\nUpgrade: a\r\nUpgrade: b\r\nConnection: upgrade\r\nHost: a\r\n\r\n", "GET / a upgrade=a"},
	{"9110 §7.8", "not without Connection", head + "Upgrade: websocket\r\n\r\n", "POST / a"},
	{"9110 §7.8", "not in 1.0", "GET / HTTP/1.0\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", "GET / close"},
	{"9110 §10.1.1", "100-continue", head + "Expect: 100-Continue\r\nContent-Length: 1\r\n\r\nx", "POST / a expect \"x\""},
	{"9110 §10.1.1", "without a body there is nothing to wait for", head + "Expect: 100-continue\r\n\r\n", "POST / a"},
	{"9110 §10.1.1", "1.0 does not wait", "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx", "POST / close \"x\""},
	{"9110 §10.1.1", "other expectations", head + "Expect: 200-ok\r\n\r\n", "!417 9110 §10.1.1"},
	{"9110 §6.6.2", "a trailer is announced", head + "Transfer-Encoding: chunked\r\nTrailer: x-sum, x-other\r\n\r\n0\r\nX-Sum: 1\r\n\r\n", "POST / a chunked \"\""},
	{"9110 §6.6.2", "of what no trailer may have", head + "Trailer: content-length\r\n\r\n", "!400 9110 §6.6.2"},
}

var framingRows = []row{
	{"9112 §6.3", "neither length nor coding: no body", head + "\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n", "POST / a | GET /b a"},
	{"9112 §6.2", "a length", head + "Content-Length: 5\r\n\r\nhelloGET /b HTTP/1.1\r\nHost: a\r\n\r\n", "POST / a \"hello\" | GET /b a"},
	{"9112 §6.2", "no length", head + "Content-Length: 0\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n", "POST / a | GET /b a"},
	{"9112 §8", "a body that is cut", head + "Content-Length: 5\r\n\r\nhell", "POST / a \"hell\" | !400 9112 §8"},
	{"9112 §8", "chunks that are cut", head + "Transfer-Encoding: chunked\r\n\r\n5\r\nhell", "POST / a chunked \"hell\" | !400 9112 §8"},
	{"9112 §8", "chunks without the last", head + "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", "POST / a chunked \"x\" | !400 9112 §8"},
	{"9112 §6.1", "CL.TE", head + "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG", "!400 9112 §6.1"},
	{"9112 §6.1", "TE.CL", head + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n1\r\nZ\r\n0\r\n\r\n", "!400 9112 §6.1"},
	{"9112 §6.1", "a length of 0 and a coding", head + "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "!400 9112 §6.1"},
	{"9112 §6.1", "in 1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "!400 9112 §6.1"},
	{"9112 §6.1", "twice", head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "!400 9112 §6.1"},
	{"9112 §6.1", "twice, the second unknown", head + "Transfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n\r\n0\r\n\r\n", "!400 9112 §6.1"},
	{"9112 §6.1", "twice, the first unknown", head + "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "!400 9112 §6.3"},
	{"9112 §6.3", "chunked twice in a list", head + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", "!400 9112 §6.3"},
	{"9112 §6.1", "a coding before chunked", head + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "!501 9112 §6.1"},
	{"9112 §6.3", "a coding after chunked", head + "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", "!400 9112 §6.3"},
	{"9112 §6.3", "identity after chunked", head + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", "!400 9112 §6.3"},
	{"9112 §6.3", "identity before chunked", head + "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n", "!400 9112 §6.3"},
	{"9112 §6.3", "identity", head + "Transfer-Encoding: identity\r\n\r\n", "!400 9112 §6.3"},
	{"9112 §6.3", "empty", head + "Transfer-Encoding:\r\n\r\n", "!400 9112 §6.3"},
	{"9112 §6.3", "an empty element first", head + "Transfer-Encoding: , chunked\r\n\r\n0\r\n\r\n", "!400 9112 §6.3"},
	{"9112 §6.3", "an empty element last", head + "Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n", "!400 9112 §6.3"},
	{"9112 §6.3", "xchunked", head + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "!400 9112 §6.3"},
	{"9112 §6.3", "chunkedx", head + "Transfer-Encoding: chunkedx\r\n\r\n0\r\n\r\n", "!400 9112 §6.3"},
	{"9112 §6.3", "with a parameter", head + "Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", "!400 9112 §6.3"},
	{"9112 §6.3", "in quotes", head + "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", "!400 9112 §6.3"},
	{"9112 §6.3", "two words", head + "Transfer-Encoding: chunked chunked\r\n\r\n0\r\n\r\n", "!400 9112 §6.3"},
	{"9112 §7", "codings have no case", head + "Transfer-Encoding: cHuNkEd\r\n\r\n0\r\n\r\n", "POST / a chunked \"\""},
	{"9112 §5", "tabs around the coding are whitespace", head + "Transfer-Encoding:\t \tchunked\t\r\n\r\n0\r\n\r\n", "POST / a chunked \"\""},
	{"9112 §5.1", "space before the colon", head + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", "!400 9112 §5.1"},
	{"9110 §5.5", "vertical tab before the coding", head + "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n", "!400 9110 §5.5"},
	{"9110 §5.5", "NUL after the coding", head + "Transfer-Encoding: chunked\x00\r\n\r\n0\r\n\r\n", "!400 9110 §5.5"},
	{"9112 §6.3", "no-break space after the coding", head + "Transfer-Encoding: chunked\xa0\r\n\r\n0\r\n\r\n", "!400 9112 §6.3"},
	{"9112 §6.3", "in a folded line", head + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", "!400 9112 §6.3"},
	{"9112 §5.2", "continued in a folded line", head + "Transfer-Encoding: chunked\r\n , gzip\r\n\r\n0\r\n\r\n", "!400 9112 §5.2"},
	{"9112 §2.2", "behind a bare line feed", head + "X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "!400 9112 §2.2"},
	{"9112 §2.2", "behind a bare carriage return", head + "X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "!400 9112 §2.2"},
	{"9110 §5.1", "an underscore is another field", head + "Transfer_Encoding: chunked\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n", "POST / a | GET /b a"},
	{"9110 §7.6.1", "Connection cannot take framing away", head + "Connection: content-length\r\nContent-Length: 2\r\n\r\nok", "POST / a \"ok\""},

	{"9112 §6.3", "two lengths that differ", head + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nxy", "!400 9112 §6.3"},
	{"9112 §6.3", "two lengths, the first 0", head + "Content-Length: 0\r\nContent-Length: 2\r\n\r\nxy", "!400 9112 §6.3"},
	{"9112 §6.3", "two lengths that are equal", head + "Content-Length: 1\r\ncontent-length: 1\r\n\r\nx", "!400 9112 §6.3"},
	{"9110 §8.6", "a list of equal lengths", head + "Content-Length: 1, 1\r\n\r\nx", "!400 9110 §8.6"},
	{"9110 §8.6", "a list without a space", head + "Content-Length: 1,1\r\n\r\nx", "!400 9110 §8.6"},
	{"9110 §8.6", "plus", head + "Content-Length: +1\r\n\r\nx", "!400 9110 §8.6"},
	{"9110 §8.6", "minus", head + "Content-Length: -1\r\n\r\nx", "!400 9110 §8.6"},
	{"9110 §8.6", "hexadecimal", head + "Content-Length: 0x10\r\n\r\n0123456789abcdef", "!400 9110 §8.6"},
	{"9110 §8.6", "empty", head + "Content-Length:\r\n\r\n", "!400 9110 §8.6"},
	{"9110 §8.6", "two numbers", head + "Content-Length: 1 0\r\n\r\nx", "!400 9110 §8.6"},
	{"9110 §8.6", "a fraction", head + "Content-Length: 1.0\r\n\r\nx", "!400 9110 §8.6"},
	{"9110 §8.6", "underscores", head + "Content-Length: 1_0\r\n\r\nx", "!400 9110 §8.6"},
	{"9110 §8.6", "digits above ASCII", head + "Content-Length: \xd9\xa1\r\n\r\nx", "!400 9110 §8.6"},
	{"9110 §8.6", "leading zeros are digits", head + "Content-Length: 0001\r\n\r\nx", "POST / a \"x\""},
	{"9110 §8.6", "but not without end", head + "Content-Length: 00000000000000000001\r\n\r\nx", "!400 9110 §8.6"},
	{"9110 §8.6", "as large as any body", head + "Content-Length: 4611686018427387904\r\n\r\nx", "POST / a \"x\" | !400 9112 §8"},
	{"9110 §8.6", "larger than any body", head + "Content-Length: 4611686018427387905\r\n\r\nx", "!413 9110 §8.6"},
	{"9110 §8.6", "would overflow to 1", head + "Content-Length: 18446744073709551617\r\n\r\nx", "!413 9110 §8.6"},
	{"9112 §2.2", "behind a bare carriage return", head + "X: y\rContent-Length: 1\r\n\r\nx", "!400 9112 §2.2"},
}

func TestRequests(t *testing.T) {
	for _, rows := range [][]row{requestLineRows, hostRows, fieldRows, framingRows, chunkRows()} {
		for _, r := range rows {
			t.Run(r.section+"/"+r.name, func(t *testing.T) {
				for _, cut := range cuts(len(r.in)) {
					if got := readRequests(t, r.in, cut, DefaultLimits()); got != r.want {
						t.Fatalf("reading %q cut at %v:\n got %s\nwant %s", r.in, cut, got, r.want)
					}
				}
			})
		}
	}
}

// chunkRows are the rows of chunked bodies as requests, with one behind each
// that must not be taken for a part of it.
func chunkRows() []row {
	const before, after = head + "Transfer-Encoding: chunked\r\n\r\n", "GET /b HTTP/1.1\r\nHost: a\r\n\r\n"
	rows := make([]row, 0, len(chunkCases))
	for _, c := range chunkCases {
		want := fmt.Sprintf("POST / a chunked %q | %s", c.data, c.want)
		if c.want == "" {
			want = fmt.Sprintf("POST / a chunked %q | GET /b a", c.data)
		}
		rows = append(rows, row{c.section, c.name, before + c.in + after, want})
	}
	return rows
}

func TestRequestLimits(t *testing.T) {
	lim := Limits{RequestLine: 32, Head: 128, Fields: 4, Extension: 8, Extensions: 16, Trailer: 16}
	chunked := "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
	tests := []row{
		{"9112 §3", "a request line as long as may be", "GET /" + strings.Repeat("x", 32-16) + " HTTP/1.1\r\nHost: a\r\n\r\n", "GET /" + strings.Repeat("x", 16) + " a"},
		{"9112 §3", "one byte longer", "GET /" + strings.Repeat("x", 32-15) + " HTTP/1.1\r\nHost: a\r\n\r\n", "!414 9112 §3"},
		{"9112 §3", "one that never ends", "GET /" + strings.Repeat("x", 200), "!414 9112 §3"},
		{"9112 §3", "one that has all it may and no end", "GET /" + strings.Repeat("x", 32-5), "!414 9112 §3"},
		{"9112 §3", "one that may still end", "GET /" + strings.Repeat("x", 32-6), "…"},
		{"9112 §3", "the empty line before it does not count", "\r\nGET /" + strings.Repeat("x", 16) + " HTTP/1.1\r\nHost: a\r\n\r\n", "GET /" + strings.Repeat("x", 16) + " a"},
		{"9110 §5.4", "a head as long as may be", "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 128-16-9-3-4) + "\r\n\r\n", "GET / a"},
		{"9110 §5.4", "one byte longer", "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 128-16-9-3-3) + "\r\n\r\n", "!431 9110 §5.4"},
		{"9110 §5.4", "a field that never ends", "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 200), "!431 9110 §5.4"},
		{"9110 §5.4", "one that has all it may and no end", "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 128-16-9-3), "!431 9110 §5.4"},
		{"9110 §5.4", "one that may still end", "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 128-16-9-3-1), "…"},
		{"9110 §5.4", "as many fields as may be", "GET / HTTP/1.1\r\nHost: a\r\nA:\r\nB:\r\nC:\r\n\r\n", "GET / a"},
		{"9110 §5.4", "one more", "GET / HTTP/1.1\r\nHost: a\r\nA:\r\nB:\r\nC:\r\nD:\r\n\r\n", "!431 9110 §5.4"},
		{"9112 §7.1.1", "extensions as long as may be", chunked + "1;abcdefg\r\nx\r\n0;abcdefg\r\n\r\n", "POST / a chunked \"x\""},
		{"9112 §7.1.1", "one byte longer", chunked + "1;abcdefgh\r\nx\r\n0\r\n\r\n", "POST / a chunked \"\" | !400 9112 §7.1.1"},
		{"9112 §7.1.1", "in all chunks", chunked + strings.Repeat("1;abcdefg\r\nx\r\n", 3) + "0\r\n\r\n", "POST / a chunked \"xx\" | !400 9112 §7.1.1"},
		{"9112 §7.1.1", "in all chunks, as long as may be", chunked + strings.Repeat("1;abcdefg\r\nx\r\n", 2) + "1;a\r\nx\r\n0\r\n\r\n", "POST / a chunked \"xxx\""},
		{"9112 §7.1.1", "in all chunks, one byte longer", chunked + strings.Repeat("1;abcdefg\r\nx\r\n", 2) + "1;ab\r\nx\r\n0\r\n\r\n", "POST / a chunked \"xx\" | !400 9112 §7.1.1"},
		{"9112 §7.1.1", "data pays for extensions", chunked + strings.Repeat("8;abcdefg\r\n12345678\r\n", 3) + "0\r\n\r\n", "POST / a chunked \"123456781234567812345678\""},
		{"9110 §5.4", "trailers as long as may be", chunked + "0\r\nX: 45678901234\r\n\r\n", "POST / a chunked \"\""},
		{"9110 §5.4", "one byte longer", chunked + "0\r\nX: 456789012345\r\n\r\n", "POST / a chunked \"\" | !431 9110 §5.4"},
		{"9110 §5.4", "many of them", chunked + "0\r\n" + strings.Repeat("X:\r\n", 5) + "\r\n", "POST / a chunked \"\" | !431 9110 §5.4"},
	}
	for _, r := range tests {
		t.Run(r.section+"/"+r.name, func(t *testing.T) {
			for _, cut := range cuts(len(r.in)) {
				if got := readRequests(t, r.in, cut, lim); got != r.want {
					t.Fatalf("reading %q cut at %v:\n got %s\nwant %s", r.in, cut, got, r.want)
				}
			}
		})
	}

	t.Run("no limit lets a head have more fields than there is room to mark", func(t *testing.T) {
		lim := DefaultLimits()
		lim.Fields = 10 * MaxFields
		in := "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("A:\r\n", MaxFields-1)
		if got, want := readRequests(t, in+"\r\n", nil, lim), "GET / a"; got != want {
			t.Errorf("%d fields: got %s, want %s", MaxFields, got, want)
		}
		if got, want := readRequests(t, in+"A:\r\n\r\n", nil, lim), "!431 9110 §5.4"; got != want {
			t.Errorf("%d fields: got %s, want %s", MaxFields+1, got, want)
		}
	})
	t.Run("Connection has few options", func(t *testing.T) {
		in := head + "Connection: " + strings.Repeat("a,", maxOptions) + "\r\n"
		if got, want := readRequests(t, in+"\r\n", nil, DefaultLimits()), "POST / a"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got, want := readRequests(t, in+"Connection: b\r\n\r\n", nil, DefaultLimits()), "!431 9110 §5.4"; got != want {
			t.Errorf("one more: got %s, want %s", got, want)
		}
	})
}

// TestSlowHeadsAreReadOnce spoils each byte after it was given: whoever reads
// it again does not find a request, and a client that sends single bytes would
// cost the square of what it sends.
func TestSlowHeadsAreReadOnce(t *testing.T) {
	in := []byte(typicalRequest)
	buf := make([]byte, 0, len(in))
	var h RequestHead
	for i, c := range in {
		for k := range buf {
			if buf[k] != '\r' { // which a line feed is looked at for
				buf[k] = 0
			}
		}
		// The line that is not complete is read when it is.
		copy(buf[h.line:], in[h.line:i])
		for k := h.line; k < h.at; k++ {
			if in[k] == '\n' {
				t.Fatalf("a line feed at %d was searched past", k)
			}
		}
		buf = append(buf, c)
		n, err := ParseRequest(buf, &h, DefaultLimits())
		if err != nil {
			t.Fatalf("after %d bytes: %v", i+1, err)
		}
		if want := i + 1; h.at != want && n == 0 && c != '\n' {
			t.Fatalf("after %d bytes the search goes on at %d", want, h.at)
		}
		if (n > 0) != (i+1 == len(in)) {
			t.Fatalf("after %d of %d bytes: n = %d", i+1, len(in), n)
		}
	}
	if h.ContentLength != 2431 || !h.KeepAlive || len(h.Fields) != 12 {
		t.Errorf("read length %d, keep-alive %t, %d fields; want 2431, true, 12", h.ContentLength, h.KeepAlive, len(h.Fields))
	}
}

func TestWhatIsPassedOn(t *testing.T) {
	in := "GET / HTTP/1.1\r\n" +
		"Host: a\r\nConnection: close, X-Mine\r\nKeep-Alive: 1\r\nProxy-Connection: x\r\nTE: trailers\r\n" +
		"Upgrade: x\r\nTrailer: x-sum\r\nProxy-Authorization: x\r\nProxy-Authenticate: x\r\nExpect: 100-continue\r\nContent-Length: 0\r\n" +
		"x-mine: 1\r\nX-Mine-Too: 1\r\nAuthorization: b\r\nHosts: c\r\n\r\n"
	var h RequestHead
	if _, err := ParseRequest([]byte(in), &h, DefaultLimits()); err != nil {
		t.Fatal(err)
	}
	var passed []string
	for i, f := range h.Fields {
		if h.Passes(i) {
			passed = append(passed, string(f.Name))
		}
	}
	if got, want := strings.Join(passed, " "), "X-Mine-Too Authorization Hosts"; got != want {
		t.Errorf("passes %s, want %s", got, want)
	}
	for name, want := range map[string]bool{"X-MINE": true, "close": true, "X-Mine-Too": false, "x": false} {
		if got := h.Named([]byte(name)); got != want {
			t.Errorf("Named(%q) = %t, want %t", name, got, want)
		}
	}
	if got := string(h.Get("authorization")); got != "b" {
		t.Errorf("Get(authorization) = %q, want b", got)
	}
	if got := h.Get("absent"); got != nil {
		t.Errorf("Get(absent) = %q, want nil", got)
	}
}

func TestAnnouncements(t *testing.T) {
	in := "Trailer: x-sum\r\nKeep-Alive: timeout=3\r\nTrailer: x-other\r\nKeep-Alive: timeout=4\r\nTransfer-Encoding: chunked\r\n\r\n"
	var h ResponseHead
	if _, err := ParseResponse([]byte("HTTP/1.1 200 OK\r\n"+in), &h, nil, DefaultLimits()); err != nil {
		t.Fatal(err)
	}
	if string(h.Trailer) != "x-sum" || h.IdleSeconds != 3 {
		t.Errorf("Trailer is %q, timeout %d; want those of the first fields, x-sum and 3", h.Trailer, h.IdleSeconds)
	}
	in = strings.Replace(in, "Trailer: x-sum\r\n", "", 1)
	if _, err := ParseResponse([]byte("HTTP/1.1 200 OK\r\n"+in), &h, nil, DefaultLimits()); err != nil {
		t.Fatal(err)
	}
	if string(h.Trailer) != "x-other" || h.IdleSeconds != 3 {
		t.Errorf("Trailer is %q, timeout %d; want x-other and 3", h.Trailer, h.IdleSeconds)
	}
}

// TestResetForgets holds that a pooled head keeps no client's bytes alive and
// nothing of a head that was begun.
func TestResetForgets(t *testing.T) {
	var h RequestHead
	if _, err := ParseRequest([]byte(typicalRequest), &h, DefaultLimits()); err != nil {
		t.Fatal(err)
	}
	h.Reset()
	for i, f := range h.Fields[:cap(h.Fields)] {
		if f.Name != nil || f.Value != nil {
			t.Fatalf("field %d still points to %q", i, f.Name)
		}
	}
	if h.Method != nil || h.Path != nil || h.Host != nil || h.Authority != nil {
		t.Error("the head still points to the request line")
	}
	if n, err := ParseRequest([]byte("GET /begun HTTP/1.1\r\nHost: x"), &h, DefaultLimits()); n != 0 || err != nil {
		t.Fatalf("half a head: n = %d, err = %v", n, err)
	}
	h.Reset()
	in := []byte("PUT /b HTTP/1.1\r\nHost: b\r\n\r\n")
	if n, err := ParseRequest(in, &h, DefaultLimits()); n != len(in) || err != nil || string(h.Path) != "/b" {
		t.Errorf("after Reset: n = %d, err = %v, path %q", n, err, h.Path)
	}
}

func TestHosts(t *testing.T) {
	for _, tt := range []struct {
		host string
		want bool
	}{
		{"localhost", true}, {"10.0.0.1:8080", true}, {"EXAMPLE.com.", true}, {"a_b~c", true},
		{"", false}, {"a%20b", false}, {"a b", false}, {"a!b", false}, {"[", false}, {"[]", false}, {"::1", false},
		{"[::]", true}, {"[::1]:", true}, {"[::1]:443", true}, {"[::1]443", false}, {"[::1", false},
		{"[1:2:3:4:5:6:7:8]", true}, {"[1:2:3:4:5:6:7]", false}, {"[1:2:3:4:5:6:7:8:9]", false},
		{"[1::8]", true}, {"[1::3::8]", false}, {"[1:2:3:4:5:6:7::]", true}, {"[1:2:3:4:5:6:7:8::]", false}, {"[::2:3:4:5:6:7:8]", true},
		{"[:1]", false}, {"[1:]", false}, {"[:::]", false}, {"[::12345]", false}, {"[::g]", false},
		{"[::ffff:1.2.3.4]", true}, {"[::1.2.3]", false}, {"[::1.2.3.256]", false}, {"[::1.2.3.04]", false}, {"[1:2:3:4:5:6:1.2.3.4]", true},
		{"a:65535", true}, {"a:9", true}, {"a:065535", false}, {"a:-1", false}, {"a:/", false}, {"[::0.9.10.255]", true}, {"[::1.2.3.4.5]", false}, {"[::1.2.3.]", false},
		{"[::1.2.3.1000]", false}, {"[::1.2.3.0]", true}, {"[::1.2.3.00]", false}, {"[::1.2.3.:]", false}, {"[::1.2.3./]", false}, {"[]:80", false},
		{"[1:2:3:4:5:6:7:1.2.3.4]", false}, {"[1.2.3.4]", false}, {"[fe80::1%25eth0]", false}, {"[v1.a]", false}, {"[::1.2.3.4:1]", false},
	} {
		if got := isHost([]byte(tt.host)); got != tt.want {
			t.Errorf("isHost(%q) = %t, want %t", tt.host, got, tt.want)
		}
	}
}
