// Package version says which build this is.
package version

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// Version is the release. The Makefile sets it from the nearest tag.
var Version = "0.1.0-dev"

// String is the build as `sluice version` prints it: version, commit if known,
// Go version, platform.
func String() string {
	commit, changed := "", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				commit = " (" + s.Value[:min(12, len(s.Value))]
			case "vcs.modified":
				if s.Value == "true" {
					changed = ", changed"
				}
			}
		}
	}
	if commit != "" {
		commit += changed + ")"
	}
	return fmt.Sprintf("sluice %s%s %s %s/%s", Version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
