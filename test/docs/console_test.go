package docs

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"sluice/test/program"
)

// A command is one line of a console block, with what the page shows below it.
type command struct {
	line string
	want string // "" if nothing is shown
}

// commands splits a console block. Its first line may be a comment that says
// what runs beside it.
func (b block) commands() (beside string, cs []command) {
	for line := range strings.Lines(b.text) {
		switch {
		case strings.HasPrefix(line, "# with: ") && len(cs) == 0:
			beside = strings.TrimSpace(strings.TrimPrefix(line, "# with: "))
		case strings.HasPrefix(line, "$ "):
			cs = append(cs, command{line: line[2:]})
		case len(cs) == 0:
			return beside, nil
		case cs[len(cs)-1].want == "" && strings.HasSuffix(cs[len(cs)-1].line, "\\\n"):
			cs[len(cs)-1].line += line
		default:
			cs[len(cs)-1].want += line
		}
	}
	return beside, cs
}

// TestCommandsDoWhatPagesShow runs each console block in a folder of its own,
// in which sluice.yaml is the page's last yaml block before it, and examples is
// the repository's. Every command
// must succeed. What is shown below one must be what it prints, where … stands
// for anything in a line, and a line of … alone for any lines. Of sh blocks
// those run that only ask a demo something.
func TestCommandsDoWhatPagesShow(t *testing.T) {
	for _, p := range pages(t) {
		bs, _ := p.blocks(t)
		file := ""
		for _, b := range bs {
			if b.kind == "yaml" {
				file = b.text
			}
			beside, cs := b.commands()
			if b.kind == "sh" && strings.HasPrefix(b.text, "curl ") {
				beside, cs = "sluice demo", []command{{line: "set -e\n" + b.text}}
			} else if b.kind != "console" {
				continue
			}
			t.Run(fmt.Sprintf("%s:%d", p.path, b.line), func(t *testing.T) {
				if len(cs) == 0 {
					t.Fatal("a console block has no line that begins with $")
				}
				runBlock(t, beside, file, cs)
			})
		}
	}
}

// patience bounds one command.
const patience = time.Minute

func runBlock(t *testing.T, beside, file string, cs []command) {
	if strings.Contains(fmt.Sprint(cs), "curl") {
		if _, err := exec.LookPath("curl"); err != nil {
			t.Skip("curl is not installed")
		}
	}
	dir := t.TempDir()
	if file != "" {
		if err := os.WriteFile(filepath.Join(dir, "sluice.yaml"), []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	examples, err := filepath.Abs(filepath.Join(top, "examples"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(examples, filepath.Join(dir, "examples")); err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.Symlink(program.Binary(t), filepath.Join(bin, "sluice")); err != nil {
		t.Fatal(err)
	}
	toReal, toPage := start(t, beside)
	for _, c := range cs {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		cmd := exec.CommandContext(ctx, "sh", "-c", toReal.Replace(c.line))
		cmd.Dir, cmd.WaitDelay = dir, time.Second
		cmd.Env = append(os.Environ(), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		cancel()
		got := toPage.Replace(string(out))
		if err != nil {
			t.Fatalf("$ %s%s%v", c.line, got, err)
		}
		if c.want != "" && !matches(c.want, got) {
			t.Errorf("$ %sthe page shows:\n%s\nit prints:\n%s", c.line, c.want, got)
		}
	}
}

// start starts what runs beside a block, on free ports, and returns how the
// page's addresses and the real ones are exchanged.
func start(t *testing.T, beside string) (toReal, toPage *strings.Replacer) {
	t.Helper()
	var real, page []string // in pairs
	exchange := func(shown, url_ string) {
		u, err := url.Parse(url_)
		if err != nil {
			t.Fatal(err)
		}
		real, page = append(real, shown, u.Host), append(page, u.Host, shown)
	}
	f := strings.Fields(beside)
	if len(f) == 0 {
		return strings.NewReplacer(), strings.NewReplacer()
	}
	if len(f) < 2 || f[0] != "sluice" {
		t.Fatalf("with: %q is not a command of sluice", beside)
	}
	var engines []string
	switch f[1] {
	case "demo":
		d := program.Start(t, append([]string{"demo", "--port", "0", "--prometheus-port", "0", "--worker-port", "0"}, f[2:]...)...)
		program.Eventually(t, "the demo says what to try", func() bool { return strings.Contains(d.Output(), "Ctrl-C ends it.") })
		said := func(what string) string {
			_, s, _ := strings.Cut(d.Output(), "  "+what+" ")
			s, _, _ = strings.Cut(s, "\n")
			return strings.TrimSpace(s)
		}
		exchange("127.0.0.1:30000", said("gateway"))
		exchange("127.0.0.1:29000", said("metrics"))
		engines = strings.Fields(said("workers"))
		program.Eventually(t, "all engines are ready", func() bool {
			_, body := program.Get(t, said("gateway")+"/readiness")
			return strings.Contains(body, fmt.Sprintf(`"healthy_workers":%d,`, len(engines)))
		})
	case "mock":
		engines = program.Mock(t, 2, append([]string{"--speed", "1"}, f[2:]...)...).URLs
	default:
		t.Fatalf("with: sluice %s cannot run beside a block", f[1])
	}
	for i, e := range engines {
		exchange(fmt.Sprintf("127.0.0.1:%d", 9101+i), e)
	}
	return strings.NewReplacer(real...), strings.NewReplacer(page...)
}

// matches reports whether got is what a page shows.
func matches(want, got string) bool {
	var re strings.Builder
	re.WriteString(`^`)
	for line := range strings.Lines(strings.TrimRight(want, "\n") + "\n") {
		if strings.TrimSpace(line) == "…" {
			re.WriteString(`(?:.*\n)*`)
			continue
		}
		parts := strings.Split(strings.TrimRight(line, "\n"), "…")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		re.WriteString(strings.Join(parts, `.*`) + `[ \t]*\n`)
	}
	re.WriteString(`$`)
	return regexp.MustCompile(re.String()).MatchString(strings.TrimRight(got, "\n") + "\n")
}

func TestMatches(t *testing.T) {
	f := func(want, got string, ok bool) {
		t.Helper()
		if matches(want, got) != ok {
			t.Errorf("matches(%q, %q) = %v", want, got, !ok)
		}
	}
	f("a\n", "a\n", true)
	f("a\n", "a", true)
	f("a\n", "ab\n", false)
	f("a…c\n", "abc\n", true)
	f("a…c\n", "a\nc\n", false)
	f("a\n…\nc\n", "a\nb\nb\nc\n", true)
	f("a\n…\nc\n", "a\nc\n", true)
	f("a\n…\n", "a\n", true)
	f("a.c\n", "abc\n", false)
}
