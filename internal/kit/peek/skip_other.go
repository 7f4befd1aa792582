//go:build !amd64

package peek

func skips() bool { return false }

func skip(_ []byte, i int) int { return i }

func hasText() bool { return false }

func textAVX512(_, _ []byte) (nd, ns int) { panic("BUG: there is no AVX-512") }
