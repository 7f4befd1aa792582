// Package docs holds the documentation to the code: links lead somewhere,
// settings load, commands print what the page shows, and the pages that list
// things list all of them.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"sluice/internal/config"
	"sluice/test/program"
)

func TestMain(m *testing.M) {
	code := m.Run()
	program.Clean()
	os.Exit(code)
}

const top = "../.."

// A page is one Markdown file.
type page struct {
	path string // from the repository's root, with slashes
	text string
}

// pages returns all Markdown files of the repository.
func pages(t *testing.T) []page {
	t.Helper()
	var ps []page
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != top && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin"):
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".md":
			return nil
		}
		b, err := os.ReadFile(path)
		rel, _ := filepath.Rel(top, path)
		ps = append(ps, page{filepath.ToSlash(rel), string(b)})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(ps) == 0 {
		t.Fatal("there are no pages")
	}
	return ps
}

// A block is fenced text.
type block struct {
	kind string // the word after the fence
	text string
	line int // of the fence
}

// blocks returns p's fenced blocks in order, and p's text without them.
func (p page) blocks(t *testing.T) (bs []block, rest string) {
	t.Helper()
	var b *block
	var prose strings.Builder
	n := 0
	for line := range strings.Lines(p.text) {
		n++
		kind, fence := strings.CutPrefix(strings.TrimRight(line, "\r\n"), "```")
		switch {
		case fence && b == nil:
			b = &block{kind: kind, line: n}
		case fence:
			bs, b = append(bs, *b), nil
		case b != nil:
			b.text += line
		default:
			prose.WriteString(line)
		}
	}
	if b != nil {
		t.Errorf("%s:%d: the fence is not closed", p.path, b.line)
	}
	return bs, prose.String()
}

var (
	code   = regexp.MustCompile("`[^`\n]*`")
	linked = regexp.MustCompile(`\]\(([^)\s]+)\)`)
)

func TestLinksLeadSomewhere(t *testing.T) {
	anchors := map[string]map[string]bool{}
	all := pages(t)
	for _, p := range all {
		_, prose := p.blocks(t)
		anchors[p.path] = map[string]bool{}
		for line := range strings.Lines(prose) {
			if title := strings.TrimLeft(line, "#"); title != line {
				anchors[p.path][slug(title)] = true
			}
		}
	}
	for _, p := range all {
		_, prose := p.blocks(t)
		for _, m := range linked.FindAllStringSubmatch(code.ReplaceAllString(prose, ""), -1) {
			to, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(to, "://") || strings.HasPrefix(to, "mailto:") {
				continue
			}
			target := p.path
			if to != "" {
				target = filepath.ToSlash(filepath.Join(filepath.Dir(p.path), to))
			}
			if _, err := os.Stat(filepath.Join(top, target)); err != nil {
				t.Errorf("%s: the link %s leads nowhere", p.path, m[1])
				continue
			}
			if anchor != "" && !anchors[target][anchor] {
				t.Errorf("%s: %s has no heading for the link %s", p.path, target, m[1])
			}
		}
	}
}

// slug is a heading's anchor as GitHub and GitLab make it.
func slug(title string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(strings.TrimSpace(title)) {
		switch {
		case r == ' ':
			b.WriteByte('-')
		case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
			b.WriteRune(r)
		}
	}
	return b.String()
}

// TestSettingsLoad: a yaml block is a settings file of sluice. A file of
// another program is marked yml.
func TestSettingsLoad(t *testing.T) {
	n := 0
	for _, p := range pages(t) {
		bs, _ := p.blocks(t)
		for _, b := range bs {
			if b.kind != "yaml" {
				continue
			}
			n++
			if err := config.Check("block", func(string) ([]byte, error) { return []byte(b.text), nil }); err != nil {
				t.Errorf("%s:%d: %v", p.path, b.line, err)
			}
		}
	}
	if n == 0 {
		t.Error("no page shows a settings file")
	}
}
