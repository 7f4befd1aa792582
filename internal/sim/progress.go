package sim

import (
	"fmt"
	"io"
	"time"
)

const (
	progressEvery = 200 * time.Millisecond
	eraseLine     = "\r\x1b[K"
)

// showProgress keeps one line of out up to date until end is closed, and then
// blanks it. A terminal that cannot be written to is left alone.
func showProgress(out io.Writer, w *work, end <-chan struct{}) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-end:
			_, _ = io.WriteString(out, eraseLine)
			return
		case <-tick.C:
			done := min(w.done.Load(), w.total)
			if _, err := fmt.Fprintf(out, "%s%d %% of %d requests", eraseLine, done*100/max(1, w.total), w.total); err != nil {
				<-end
				return
			}
		}
	}
}
