//go:build race

package sock

const raced = true
