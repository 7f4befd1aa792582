package listen

import (
	"net"
	"runtime"
	"strings"
	"testing"
)

func TestParseAddress(t *testing.T) {
	long := "/" + strings.Repeat("x", 200)
	tests := []struct {
		in   string
		want Address // zero for an error with the words
		says string
	}{
		{in: "127.0.0.1:30000", want: Address{"tcp", "127.0.0.1:30000"}},
		{in: "[::1]:0", want: Address{"tcp", "[::1]:0"}},
		{in: "localhost:80", want: Address{"tcp", "localhost:80"}},
		{in: ":80", want: Address{"tcp", ":80"}},
		{in: "unix:/run/s.sock", want: Address{"unix", "/run/s.sock"}},
		{in: "unix:///run/s.sock", want: Address{"unix", "/run/s.sock"}},
		{in: "unix:s.sock", want: Address{"unix", "s.sock"}},
		{in: "unix:@s", want: Address{"unix", "@s"}},
		{in: "unix:/a%20b", want: Address{"unix", "/a%20b"}},
		{in: "unix://host/s.sock", says: "names a host"},
		{in: "unix:", says: "has no path"},
		{in: "unix:@", says: "has no path"},
		{in: "unix:/a\x00b", says: "zero byte"},
		{in: "unix:" + long, says: "201 bytes"},
		{in: "unix:@" + long, says: "202 bytes"},
		{in: "", says: "host:port"},
		{in: "127.0.0.1", says: "host:port"},
		{in: "127.0.0.1:http", says: `port "http"`},
		{in: "127.0.0.1:65536", says: `port "65536"`},
		{in: "127.0.0.1:", says: `port ""`},
		{in: "127.0.0.1:+80", says: `port "+80"`},
	}
	for _, tt := range tests {
		got, err := ParseAddress(tt.in)
		if tt.says != "" {
			refused(t, err, tt.says)
			continue
		}
		if err != nil || got != tt.want {
			t.Errorf("ParseAddress(%q) = %v, %v; want %v", tt.in, got, err, tt.want)
		}
	}
}

// FuzzParseAddress holds that what is understood is understood again as it
// prints, and could be a socket's name; and that what is not is told shortly.
func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"127.0.0.1:1", "unix:/a", "unix:///a", "unix:@a", "unix:////a", "unix:unix:a", "[::1%eth0]:9", strings.Repeat("\x00", 5000), ":" + strings.Repeat("\x00", 5000), "unix:/" + strings.Repeat("\x00", 5000)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			if n := len(err.Error()); n > 1200 {
				t.Errorf("an error of %d bytes", n)
			}
			return
		}
		if b, err := ParseAddress(a.String()); err != nil || a != b {
			t.Errorf("%q is %v, which prints as %q, which is %v, %v", s, a, a, b, err)
		}
		if a.Network == "unix" && len(a.Name) > a.maxName() {
			t.Errorf("%q has %d bytes", a.Name, len(a.Name))
		}
	})
}

func TestAPortIsServed(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "0.0.0.0:0", ":0"} {
		l := opened(t, addr, Options{})
		if _, ok := pass(t, l).(*net.TCPConn); !ok {
			t.Errorf("%s: the connection is not the net package's own", addr)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestAnIPv4AddressIsNoIPv6Port: 0.0.0.0 must not open the port to IPv6.
func TestAnIPv4AddressIsNoIPv6Port(t *testing.T) {
	l := opened(t, "0.0.0.0:0", Options{})
	if a := l.Addr().(*net.TCPAddr); a.IP.To4() == nil {
		t.Errorf("0.0.0.0 became %s", a)
	}
}

func TestAPortInUse(t *testing.T) {
	l := opened(t, "127.0.0.1:0", Options{})
	_, err := Open(Address{"tcp", l.Addr().String()}, Options{})
	refused(t, err, "listening on "+l.Addr().String(), "address already in use")
}

func TestAnAddressThatCannotBe(t *testing.T) {
	for _, a := range []Address{{"udp", "127.0.0.1:0"}, {"tcp", "192.0.2.1:0"}, {}} {
		if l, err := Open(a, Options{}); err == nil {
			l.Close()
			t.Errorf("%+v was opened", a)
		}
	}
}

func TestSeveralListenersOnOnePort(t *testing.T) {
	if !canReusePort {
		_, err := Open(TCP("127.0.0.1", 0), Options{ReusePort: true})
		refused(t, err, "SO_REUSEPORT")
		t.Skip("this system does not share ports out")
	}
	a := opened(t, "127.0.0.1:0", Options{ReusePort: true})
	b := opened(t, a.Addr().String(), Options{ReusePort: true})
	// Whom a connection goes to is the kernel's; all of them must go somewhere.
	got := make(chan net.Conn)
	for _, l := range []net.Listener{a, b} {
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					got <- nil
					return
				}
				got <- c
			}
		}()
	}
	for range 20 {
		c, err := net.Dial("tcp", a.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		s := <-got
		if s == nil {
			t.Fatal("a listener ended")
		}
		s.Close()
		c.Close()
	}
	a.Close()
	b.Close()
	<-got
	<-got
	// Who does not say so does not share.
	c := opened(t, "127.0.0.1:0", Options{})
	_, err := Open(Address{"tcp", c.Addr().String()}, Options{ReusePort: true})
	refused(t, err, "address already in use")
}

func TestReusePortIsOfTCP(t *testing.T) {
	_, err := Open(Address{"unix", t.TempDir() + "/s"}, Options{ReusePort: true})
	refused(t, err, "SO_REUSEPORT is for TCP ports only")
}

func TestAbstractSocketsElsewhere(t *testing.T) {
	if runtime.GOOS == "linux" {
		t.Skip("here they are known")
	}
	_, err := Open(Address{"unix", "@x"}, Options{})
	refused(t, err, "Linux only")
}
