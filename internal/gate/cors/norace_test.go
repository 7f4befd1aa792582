//go:build !race

package cors

const raced = false
