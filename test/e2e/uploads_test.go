package e2e

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/internal/kit/bubble"
	"sluice/test/program"
)

// above is from where on bodies are not held here.
const above = 64 << 10

// uploading is a gateway before workers, which holds no bodies above that.
func uploading(t testing.TB, urls []string, flags ...string) *program.Gateway {
	t.Helper()
	return inFrontOf(t, len(urls), urls, append([]string{"--stream-body-above", fmt.Sprint(above)}, flags...)...)
}

// digest answers with how the body came, its length and its hash.
func digest(c net.Conn, r *http.Request) {
	hash := sha256.New()
	n, err := io.Copy(hash, r.Body)
	if err != nil {
		return
	}
	how := "length"
	if r.ContentLength < 0 {
		how = "chunks"
	}
	say(c, "200 OK", "application/json", fmt.Sprintf(`{"id":"%s %d %x"}`, how, n, hash.Sum(nil)))
}

// noise is n bytes that are no JSON.
func noise(n int) string {
	b := make([]byte, n)
	src := rand.NewChaCha8([32]byte{1})
	_, _ = src.Read(b)
	return string(b)
}

// speaking returns clients of both protocols.
func speaking(t testing.TB) map[string]*http.Client {
	clients := map[string]*http.Client{}
	for name, h2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		p := new(http.Protocols)
		p.SetHTTP1(!h2)
		p.SetUnencryptedHTTP2(h2)
		tr := &http.Transport{Protocols: p}
		t.Cleanup(tr.CloseIdleConnections)
		clients[name] = &http.Client{Transport: tr}
	}
	return clients
}

// TestUploadsArriveAsTheyWereSent holds that of every size and framing, over
// both protocols, and that what is held is held to be JSON.
func TestUploadsArriveAsTheyWereSent(t *testing.T) {
	t.Parallel()
	w := newTaker(t, digest)
	g := uploading(t, []string{w.URL})
	for name, c := range speaking(t) {
		for _, n := range []int{above - 1, above, above + 1, above + 4096, 1 << 20, 20<<20 + 3} {
			for _, chunked := range []bool{false, true} {
				body, want := noise(n), fmt.Sprintf("%d %x", n, sha256.Sum256([]byte(noise(n))))
				if n <= above {
					body, want = strings.Repeat(" ", n-len(`{"model":"m","messages":[1]}`))+`{"model":"m","messages":[1]}`, fmt.Sprintf("length %d ", n)
				}
				var src io.Reader = strings.NewReader(body)
				if chunked {
					src = io.MultiReader(src)
				}
				req, _ := http.NewRequestWithContext(t.Context(), "POST", g.URL+chatPath, src)
				req.Header.Set("Content-Type", "application/json")
				res, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				b, _ := io.ReadAll(res.Body)
				res.Body.Close()
				if n > above && chunked {
					want = "chunks " + want
				} else if n > above {
					want = "length " + want
				}
				if res.StatusCode != 200 || !strings.Contains(string(b), want) {
					t.Errorf("%s, %d bytes, in chunks: %v: got %d %s, want %s", name, n, chunked, res.StatusCode, b, want)
				}
			}
		}
	}
	if status, code := upload(t, g, noise(above)); status != 400 || code != "json_parse_error" {
		t.Errorf("a body that is held and no JSON got %d %s", status, code)
	}
	wantLine(t, g, "status=200", fmt.Sprint("bytes_in=", 20<<20+3), "model=m")
}

// upload sends a body and returns the answer's status, and the code of its error.
func upload(t testing.TB, g *program.Gateway, body string) (status int, code string) {
	t.Helper()
	res, err := oneShot.Post(g.URL+chatPath, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	return res.StatusCode, res.Header.Get("x-smg-error-code")
}

// TestUploadsAreReadIfTheyMustBe holds that a body is looked into, however
// large, where that is needed to know whose it is.
func TestUploadsAreReadIfTheyMustBe(t *testing.T) {
	t.Parallel()
	a, b := newRogueOf(t, "a", raw("")), newRogueOf(t, "b", func(c net.Conn, _ *http.Request) { say(c, "200 OK", "application/json", "{}") })
	g := uploading(t, []string{a.URL, b.URL})
	if status, _ := upload(t, g, `{"messages":["`+strings.Repeat("x", 3*above)+`"],"model":"b"}`); status != 200 {
		t.Errorf("got %d", status)
	}
	if status, code := upload(t, g, noise(3*above)); status != 400 || code != "json_parse_error" {
		t.Errorf("what is no JSON got %d %s", status, code)
	}
	if n := a.times(); n != 0 {
		t.Errorf("another model's worker was asked %d times", n)
	}
}

// TestUploadsNeedNoMemory holds that many large bodies at once cost next to none.
func TestUploadsNeedNoMemory(t *testing.T) {
	const many, size, most = 20, 64 << 20, 20 << 20
	w := newTaker(t, func(c net.Conn, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		say(c, "200 OK", "application/json", fmt.Sprintf(`{"n":%d}`, n))
	})
	g := uploading(t, []string{w.URL})
	upload(t, g, noise(2*above))
	before := memory(t, g, "VmRSS")
	for name, c := range speaking(t) {
		var all sync.WaitGroup
		for i := range many {
			all.Go(func() {
				src := io.LimitReader(spaces{}, size)
				req, _ := http.NewRequestWithContext(t.Context(), "POST", g.URL+chatPath, src)
				req.Header.Set("Content-Type", "application/json")
				if i%2 == 0 {
					req.ContentLength = size
				}
				res, err := c.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				defer res.Body.Close()
				if b, _ := io.ReadAll(res.Body); string(b) != fmt.Sprintf(`{"n":%d}`, size) {
					t.Errorf("got %d %s", res.StatusCode, b)
				}
			})
		}
		all.Wait()
		grown := memory(t, g, "VmHWM") - before
		t.Logf("%d bodies of %d MiB over %s at once cost %.1f MiB at most", many, size>>20, name, float64(grown)/(1<<20))
		if grown > most {
			t.Errorf("%s: memory grew by %d MiB, want %d at most", name, grown>>20, most>>20)
		}
	}
}

// spaces is a reader of nothing else.
type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// memory is what the system says of g's.
func memory(t testing.TB, g *program.Gateway, what string) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.PID()))
	if err != nil {
		t.Skip("this system does not say what memory is used")
	}
	_, rest, _ := strings.Cut(string(b), what+":")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}

// sender is a client that writes what it likes.
func sender(t testing.TB, g *program.Gateway, head string) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%s\r\n\r\n", chatPath, head)
	return c, bufio.NewReader(c)
}

// heard reads an answer: its status and the code of its error.
func heard(t testing.TB, in *bufio.Reader) (string, *http.Response) {
	t.Helper()
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	_, _ = io.Copy(io.Discard, res.Body)
	return strings.TrimSpace(fmt.Sprint(res.StatusCode, " ", res.Header.Get("x-smg-error-code"))), res
}

// TestUploadsThatFail is what becomes of uploads whose worker or client does not
// keep to the rules. Each worker is asked once at most, and together they are.
func TestUploadsThatFail(t *testing.T) {
	t.Parallel()
	const length = 100 << 20
	half := func(c net.Conn, r *http.Request) { _, _ = io.CopyN(io.Discard, r.Body, 1<<20) }
	for _, tt := range []struct {
		name   string
		worker func(c net.Conn, r *http.Request)
		head   string
		send   func(c net.Conn) // the body
		flags  []string
		want   string
	}{
		{"the worker refuses at once", func(c net.Conn, _ *http.Request) { say(c, "413 Too Large", "text/plain", "no") },
			fmt.Sprint("Content-Length: ", length), pour, nil, "413"},
		{"the worker refuses while the client waits", func(c net.Conn, r *http.Request) {
			say(c, "429 Too Many Requests", "text/plain", "no")
			_, _ = io.Copy(io.Discard, r.Body)
		}, fmt.Sprint("Content-Length: ", length), func(c net.Conn) { _, _ = io.WriteString(c, "begin") }, nil, "429"},
		{"the worker closes in the middle", half, fmt.Sprint("Content-Length: ", length), pour, nil, "502 call_upstream_connection_failed"},
		{"the worker resets in the middle", func(c net.Conn, r *http.Request) { half(c, r); _ = c.(*net.TCPConn).SetLinger(0) },
			"Transfer-Encoding: chunked", pourChunks, nil, "502 call_upstream_connection_failed"},
		{"the worker closes while the client waits", func(c net.Conn, r *http.Request) { _, _ = io.CopyN(io.Discard, r.Body, 5) },
			fmt.Sprint("Content-Length: ", length), func(c net.Conn) { _, _ = io.WriteString(c, "begin") }, nil, "502 call_upstream_connection_failed"},
		{"the request's time is up", func(_ net.Conn, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) },
			fmt.Sprint("Content-Length: ", length), func(c net.Conn) { _, _ = io.WriteString(c, "begin") }, []string{"--request-timeout-secs", "3"}, "504 call_upstream_timeout"},
		{"the client sends nothing more", func(_ net.Conn, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) },
			fmt.Sprint("Content-Length: ", length), func(c net.Conn) { _, _ = io.WriteString(c, "begin") }, []string{"--body-read-timeout-secs", "1"}, "408 request_body_timeout"},
		{"the client's chunks are none", func(_ net.Conn, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) },
			"Transfer-Encoding: chunked", func(c net.Conn) {
				fmt.Fprintf(c, "%x\r\n%s\r\nno size\r\n", 2*above, strings.Repeat("x", 2*above))
			}, nil, "400 request_body_unreadable"},
		{"the body is over the limit", func(_ net.Conn, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) },
			"Transfer-Encoding: chunked", pourChunks, []string{"--max-payload-size", "2000000"}, "413 request_body_too_large"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			// The worker hears that its request has ended in every case.
			ended := make(chan struct{}, 10)
			reply := func(c net.Conn, r *http.Request) { tt.worker(c, r); ended <- struct{}{} }
			one, two := newTaker(t, reply), newTaker(t, reply)
			g := uploading(t, []string{one.URL, two.URL}, tt.flags...)
			c, in := sender(t, g, tt.head)
			sent := make(chan struct{})
			go func() { defer close(sent); tt.send(c) }()
			got, res := heard(t, in)
			if got != tt.want || !res.Close {
				t.Errorf("got %s, closes: %v; want %s", got, res.Close, tt.want)
			}
			c.Close()
			<-sent
			select {
			case <-ended:
			case <-time.After(20 * time.Second):
				t.Error("the worker was not told")
			}
			if n := one.times() + two.times(); n != 1 {
				t.Errorf("workers were asked %d times", n)
			}
		})
	}
}

// pour writes until nobody takes more.
func pour(c net.Conn) { _, _ = io.Copy(c, io.LimitReader(spaces{}, 100<<20)) }

func pourChunks(c net.Conn) {
	piece := strings.Repeat("x", 1<<16)
	for range 1600 {
		if _, err := fmt.Fprintf(c, "10000\r\n%s\r\n", piece); err != nil {
			return
		}
	}
}

// TestTheWorkerSetsThePace holds that a client can send no more than the worker
// takes, and that all arrives when it does.
func TestTheWorkerSetsThePace(t *testing.T) {
	t.Parallel()
	const length = 100 << 20
	on := make(chan struct{})
	w := newTaker(t, func(c net.Conn, r *http.Request) {
		<-on
		n, _ := io.Copy(io.Discard, r.Body)
		say(c, "200 OK", "application/json", fmt.Sprint(n))
	})
	g := uploading(t, []string{w.URL}, "--body-read-timeout-secs", "1", "--body-min-rate", "1000000000")
	c, in := sender(t, g, fmt.Sprint("Content-Length: ", length))
	var mu sync.Mutex
	sent := 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		for sent < length {
			n, err := c.Write(make([]byte, 1<<16))
			mu.Lock()
			sent += n
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	time.Sleep(3 * time.Second) // longer than a client may be silent
	mu.Lock()
	if sent > length/2 {
		t.Errorf("%d bytes could be sent to a worker that takes none", sent)
	}
	mu.Unlock()
	close(on)
	if got, _ := heard(t, in); got != "200" {
		t.Errorf("got %s", got)
	}
	<-done
}

// TestTheClientLeavesInAnUpload holds that the worker hears of it soon: at once,
// or when it reads on.
func TestTheClientLeavesInAnUpload(t *testing.T) {
	t.Parallel()
	for _, reads := range []bool{true, false} {
		t.Run(fmt.Sprint("the worker reads: ", reads), func(t *testing.T) {
			asked, left, gone := make(chan struct{}), make(chan struct{}), make(chan struct{})
			w := newTaker(t, func(c net.Conn, r *http.Request) {
				close(asked)
				if !reads {
					<-left
					time.Sleep(20 * time.Millisecond) // what is promised
				}
				_, _ = io.Copy(io.Discard, r.Body)
				close(gone)
			})
			g := uploading(t, []string{w.URL})
			c, _ := sender(t, g, "Content-Length: 104857600")
			if reads {
				_, _ = io.WriteString(c, "begin")
			} else {
				_ = c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
				pour(c)
			}
			<-asked
			watch := bubble.Begin(t)
			c.Close()
			close(left)
			select {
			case <-gone:
				if took, awake := watch.End(); awake > soon {
					t.Errorf("the worker heard of it after %s, %s of it awake", took, awake)
				} else {
					t.Logf("the worker heard of it after %s", took.Round(10*time.Microsecond))
				}
			case <-time.After(20 * time.Second):
				t.Error("the worker never heard that the client left")
			}
			wantLine(t, g, "path="+chatPath, "status=4")
		})
	}
}
