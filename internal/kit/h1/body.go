package h1

// A Body follows one message's body, whatever its framing, and finds where the
// next message begins. Reset makes one ready. Of its three readings a body is
// given to one: Scan passes the wire's bytes on, Next shows the data in them,
// Decode copies the data out.
type Body struct {
	framing Framing
	done    bool
	left    int64 // of FramingLength
	chunks  ChunkScanner
}

// Reset makes b ready for a body. length matters for FramingLength only.
func (b *Body) Reset(f Framing, length int64, lim Limits) {
	b.framing, b.left = f, length
	b.done = f == FramingNone || f == FramingLength && length <= 0
	if f == FramingChunked {
		b.chunks.Reset(lim)
	}
}

// BetweenChunks reports whether the body has chunks, and stands before the
// first, between two, or before the last.
func (b *Body) BetweenChunks() bool {
	return b.framing == FramingChunked && b.chunks.state == chunkSize && b.chunks.digits == 0
}

// Done reports whether the body has ended.
func (b *Body) Done() bool { return b.done }

// Scan follows the body through p: n bytes of it are the body's as they stand
// on the wire, and done tells that it ends with them.
func (b *Body) Scan(p []byte) (n int, done bool, err error) {
	if b.framing == FramingChunked {
		n, b.done, err = b.chunks.Scan(p)
		return n, b.done, err
	}
	n = b.take(len(p))
	return n, b.done, nil
}

// Next is Scan up to the end of the first piece of data in p. data is a part
// of p, and empty if p[:n] holds none.
func (b *Body) Next(p []byte) (n int, data []byte, err error) {
	if b.framing == FramingChunked {
		n, data, err = b.chunks.Next(p)
		b.done = b.chunks.Done()
		return n, data, err
	}
	n = b.take(len(p))
	return n, p[:n:n], nil
}

// Decode copies the data in src to dst, and returns how many bytes were
// written and how many bytes of src were the body's. It stops when dst is
// full; framing behind the last data that fits is taken all the same, so that
// a body that fits exactly is Done. dst may begin where src does.
func (b *Body) Decode(dst, src []byte) (written, read int, err error) {
	if b.framing != FramingChunked {
		n := b.take(min(len(dst), len(src)))
		return copy(dst, src[:n]), n, nil
	}
	for read < len(src) && !b.done {
		k, data, e := b.chunks.next(src[read:], len(dst)-written)
		read += k
		written += copy(dst[written:], data)
		if e != nil {
			return written, read, e
		}
		b.done = b.chunks.Done()
		if k == 0 {
			break
		}
	}
	return written, read, nil
}

// End tells b that the connection has ended. It returns nil if the body is
// complete, as one until close then is.
func (b *Body) End() error {
	if b.framing == FramingClose {
		b.done = true
	}
	if !b.done {
		return errCut
	}
	return nil
}

// take takes up to n bytes of a body that is not chunked.
func (b *Body) take(n int) int {
	switch {
	case b.done:
		return 0
	case b.framing == FramingClose:
		return n
	}
	n = int(min(b.left, int64(n)))
	b.left -= int64(n)
	b.done = b.left == 0
	return n
}
