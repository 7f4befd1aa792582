package sock

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// halving returns a Conn over TLS that is of use by half, and its other end.
func halving(t *testing.T, told Watcher) (c *Conn, far *tls.Conn) {
	t.Helper()
	near, other := tlsPair(t)
	c = watching(t).Add(near, told)
	t.Cleanup(func() { c.Close() })
	if c.Offers() || c.Offer([]byte("x")) {
		t.Error("it offers before it may")
	}
	c.KeepHalf(true)
	if !c.Offers() {
		t.Skip("nothing is offered here")
	}
	return c, other.(*tls.Conn)
}

// endHalf ends far's half, for TLS and for the kernel.
func endHalf(t *testing.T, far *tls.Conn) {
	t.Helper()
	if err := errors.Join(far.CloseWrite(), far.NetConn().(*net.TCPConn).CloseWrite()); err != nil {
		t.Fatal(err)
	}
}

// TestHalfOfTLS holds that an other end which has only ended its half is told
// apart from one that has left, by a byte that is offered to it.
func TestHalfOfTLS(t *testing.T) {
	told := make(listener, 4)
	c, far := halving(t, told)
	endHalf(t, far)
	if told.next(t) {
		t.Error("half a connection was told to be none")
	}
	if !c.Offer([]byte("x")) {
		t.Fatal("nothing was offered, although there is room")
	}
	got := make([]byte, 1)
	if _, err := io.ReadFull(far, got); err != nil || got[0] != 'x' {
		t.Errorf("the other end has %q, %v", got, err)
	}
	if err := c.Write([]byte("y"), time.Second); err != nil {
		t.Errorf("after the offer: %v", err)
	}
	if _, err := io.ReadFull(far, got); err != nil || got[0] != 'y' {
		t.Errorf("after the offer the other end has %q, %v", got, err)
	}
}

func TestAllOfTLSHasGone(t *testing.T) {
	told := make(listener, 4)
	c, far := halving(t, told)
	_ = far.Close()
	if told.next(t) {
		t.Fatal("a reset was told that nobody has sent")
	}
	c.Offer([]byte("x"))
	if !told.next(t) {
		t.Error("that it was sent to nobody was not told")
	}
}

// TestNoHalfOfTLS holds that who finds late that half a connection is of no use
// is told of one that has ended already, and of one that ends then.
func TestNoHalfOfTLS(t *testing.T) {
	for _, late := range []bool{false, true} {
		told := make(listener, 4)
		c, far := halving(t, told)
		if late {
			endHalf(t, far)
			if told.next(t) {
				t.Error("half a connection was told to be none")
			}
		}
		c.KeepHalf(false)
		if !late {
			endHalf(t, far)
		}
		if !told.next(t) {
			t.Error("the connection's end was told to be of a half")
		}
		if c.Offers() || c.Offer([]byte("x")) {
			t.Error("it still offers")
		}
	}
}

// TestOffersDoNotWait holds that nothing is offered through TLS while there is
// no room, or to a Conn whose time is up: a record cannot be sent by half.
func TestOffersDoNotWait(t *testing.T) {
	c, far := halving(t, nil)
	under := c.NetConn().(*tls.Conn).NetConn()
	for piece, n := make([]byte, 1<<20), 1; n > 0; { // until it takes no more
		var err error
		_ = under.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		if n, err = under.Write(piece); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	if n, _ := c.Unacked(); n == 0 {
		t.Fatal("the other end has taken all")
	}
	_ = under.SetWriteDeadline(time.Time{})
	if err := soon(t, "an answer to the offer", func() error {
		if c.Offer([]byte("x")) {
			return errors.New("it was sent")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	_ = far.Close()

	c, far = halving(t, nil)
	c.Hasten()
	if c.Offer([]byte("x")) {
		t.Error("it was sent when the time was up")
	}
	if err := c.Renew(); err != nil {
		t.Fatal(err)
	}
	if err := c.Write([]byte("last words"), time.Second); err != nil {
		t.Errorf("then there were no last words: %v", err)
	}
	_ = far.Close()
}
