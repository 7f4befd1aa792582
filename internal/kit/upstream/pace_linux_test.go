package upstream

import (
	"context"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"sluice/internal/kit/h1"
)

// paced is a Sink that looks how its connection acknowledges what arrives.
type paced struct {
	t     *testing.T
	conn  net.Conn
	n     int
	from  int  // the first piece that counts
	later bool // it was put off, since that
	next  chan bool
}

func (p *paced) Answer(*h1.ResponseHead) error { return nil }

func (p *paced) Body(b *h1.Body, wire []byte) (n int, err error) {
	p.n++
	rc, err := p.conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return 0, err
	}
	err = rc.Control(func(fd uintptr) {
		if p.n < p.from { // the kernel may have thought of it by itself
			if err := syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1); err != nil {
				p.t.Error(err)
			}
			return
		}
		at, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK)
		p.later = p.later || at == 0
		if err != nil {
			p.t.Error(err)
		}
	})
	if err != nil {
		return 0, err
	}
	for n < len(wire) && !b.Done() {
		k, _, err := b.Next(wire[n:])
		if n += k; err != nil {
			return n, err
		}
	}
	if !b.Done() {
		p.next <- !p.later
	}
	return n, nil
}

// TestFastStreamsAreAcknowledgedTogether holds that a worker which sends many
// pieces one after another gets fewer packets back, and one that takes its time
// gets them at once.
func TestFastStreamsAreAcknowledgedTogether(t *testing.T) {
	for _, tt := range []struct {
		name  string
		pause time.Duration
		most  int // pieces
		stall int // so many pieces come, and then there is a pause
		later bool
	}{
		{"fast", 0, 100 * ackAgain, 0, true},
		{"slow", 2 * ackPace, ackFirst + 4, 0, false},
		{"fast, and waits when it is not acknowledged", 0, 4 * ackAgain, ackFirst + 1, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := &paced{t: t, from: max(ackFirst, tt.stall+ackTrial), next: make(chan bool, 1)}
			w := start(t, func(c net.Conn, _ int, _ *http.Request, _ []byte) bool {
				io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
				event := h1.AppendChunk(nil, make([]byte, 200))
				for i := range tt.most {
					time.Sleep(tt.pause)
					if i > 0 && i == tt.stall {
						time.Sleep(10 * ackStall)
					}
					c.Write(event)
					if !<-p.next {
						break
					}
				}
				io.WriteString(c, h1.LastChunk)
				return true
			})
			h := host(t, client(t, Options{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				nc, err := new(net.Dialer).DialContext(ctx, network, address)
				p.conn = nc
				return nc, err
			}}), w.url)
			x := post("{}")
			defer x.Free()
			x.Sink = p
			if err := h.Do(t.Context(), x); err != nil {
				t.Fatal(err)
			}
			if p.later != tt.later {
				t.Errorf("acknowledged together: %t after %d pieces, want %t", p.later, p.n, tt.later)
			}
			h.Close()
		})
	}
}
