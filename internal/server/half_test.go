package server

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"net"
	"runtime"
	"testing"
	"time"
)

// late is a client's socket that sends nothing after the first words of a
// handshake until it is let go.
type late struct {
	*net.TCPConn
	begun bool
	held  *bytes.Buffer // nil if nothing is held
}

func (l *late) Write(p []byte) (int, error) {
	if !l.begun || l.held == nil {
		l.begun = true
		return l.TCPConn.Write(p)
	}
	return l.held.Write(p)
}

// letGo sends what was held, and the end of this half with it.
func (l *late) letGo(t *testing.T) {
	t.Helper()
	cork(l.TCPConn, true)
	b := l.held.Bytes()
	l.held = nil
	_ = l.SetDeadline(time.Now().Add(patience)) // tls.Conn.CloseWrite has ended all writes
	if _, err := l.TCPConn.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := l.CloseWrite(); err != nil {
		t.Fatal(err)
	}
}

// secured connects to s by TLS of at most version.
func secured(t *testing.T, s *frontend, version uint16, hold bool) (*talker, *late) {
	t.Helper()
	nc, err := net.Dial("tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(patience))
	under := &late{TCPConn: nc.(*net.TCPConn)}
	if hold {
		under.held = new(bytes.Buffer)
	}
	c := tls.Client(under, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}, MaxVersion: version})
	if err := c.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &talker{c, t, bufio.NewReader(c)}, under
}

// half says that c will ask no more, to TLS and to the kernel.
func (c *talker) half() {
	c.t.Helper()
	if err := c.Conn.(*tls.Conn).CloseWrite(); err != nil {
		c.t.Fatal(err)
	}
	if err := c.Conn.(*tls.Conn).NetConn().(*late).CloseWrite(); err != nil {
		c.t.Fatal(err)
	}
}

// TestHalfClosedOverTLS holds that a client which has only said that it will ask
// no more gets its whole answer over TLS 1.3, too, whenever it said so.
func TestHalfClosedOverTLS(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("half a connection counts as none")
	}
	for _, ph := range phases {
		for _, when := range []string{"with the handshake", "with the request", "later"} {
			t.Run(ph.name+", "+when, func(t *testing.T) {
				t.Parallel()
				p := newPaused()
				s := roads[2].on(t, short(), NewMux([]Route{{"GET", "/a", 0, p.handler(ph.h)}, {"POST", "/a", 0, p.handler(ph.h)}}))
				c, under := secured(t, s, tls.VersionTLS13, when == "with the handshake")
				c.say("%s", ph.say)
				switch when {
				case "with the handshake":
					if err := c.Conn.(*tls.Conn).CloseWrite(); err != nil {
						t.Fatal(err)
					}
					under.letGo(t)
					<-p.there
				case "with the request":
					c.half()
					<-p.there
				default:
					<-p.there
					c.half()
				}
				p.finishes(t, c, ph.rest)
			})
		}
	}
}

// TestHalfClosedThenGone holds that a client which has left entirely, and not
// only ended its half, is heard of as soon over TLS as without.
func TestHalfClosedThenGone(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS13, tls.VersionTLS12} {
		for _, ph := range phases {
			t.Run(tls.VersionName(version)+", "+ph.name, func(t *testing.T) {
				t.Parallel()
				p := newPaused()
				s := roads[2].on(t, short(), NewMux([]Route{{"GET", "/a", 0, p.handler(ph.h)}, {"POST", "/a", 0, p.handler(ph.h)}, {"GET", "/b", 0, told}}))
				c, _ := secured(t, s, version, false)
				// What it has not read would make a reset of its leaving.
				c.say("GET /b HTTP/1.1\r\nHost: x\r\n\r\n")
				if status, _, _ := c.hear("GET"); status != 200 {
					t.Fatalf("got %d", status)
				}
				c.say("%s", ph.say)
				<-p.there
				c.wait(ph.first)
				p.heard(t, func() { c.Close() })
			})
		}
	}
}

// TestHalfClosedBeforeTLS13 holds that a client of TLS 1.2 which ends its half
// has left: that is what its good-bye says.
func TestHalfClosedBeforeTLS13(t *testing.T) {
	for _, when := range []string{"with the request", "later"} {
		t.Run(when, func(t *testing.T) {
			p := newPaused()
			s := roads[2].on(t, short(), NewMux([]Route{{"GET", "/a", 0, p.handler(phases[0].h)}}))
			c, _ := secured(t, s, tls.VersionTLS12, false)
			c.say(get)
			if when == "later" {
				<-p.there
			}
			p.heard(t, c.half)
		})
	}
}
