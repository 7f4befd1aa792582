//go:build !amd64

package peek

func skips() bool { return false }

func skip(_ []byte, i int) int { return i }

func unescapeSimple(dst, src []byte) (nd, ns int) { return copyPlain(dst, src) }
