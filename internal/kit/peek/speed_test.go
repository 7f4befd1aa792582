package peek

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// chat is a request whose messages come first and model last, of about n bytes.
// The messages are made by text: the inside of a JSON string, of about size
// bytes.
func chat(n, size int, text func(r *rand.Rand, size int) string) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	b.WriteString(`{"messages": [{"role": "system", "content": "You are a pilot."}`)
	for b.Len() < n-size/2 {
		fmt.Fprintf(&b, `, {"role": "user", "content": "%s"}`, text(r, min(size, n-b.Len())))
	}
	b.WriteString(`], "temperature": 0.7, "max_tokens": 256, "stream": true, "model": "meta-llama/Llama-3.1-8B-Instruct"}`)
	return b.Bytes()
}

// words makes text of words, that are separated by spaces, as JSON has them.
func words(list ...string) func(*rand.Rand, int) string {
	return func(r *rand.Rand, size int) string {
		var s strings.Builder
		for s.Len() < size {
			s.WriteString(list[r.IntN(len(list))] + " ")
		}
		return s.String()
	}
}

var (
	lorem = words(strings.Fields(`lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut labore et dolore magna aliqua`)...)
	// prose has a line feed about every 80 bytes.
	prose = words(strings.Fields(`lorem ipsum dolor sit amet consectetur adipiscing elit. sed do eiusmod tempor incididunt ut labore et.\n`)...)
	// escapes is the worst of realistic English: two escapes every 25 bytes.
	escapes = words(`the`, `quick`, `brown`, `fox`, `jumps`, `over`, `lazy`, `dog`, `\"quoted\"`, `model`, `stream`, `\n`, `token`, `\u00e9\u00e9`)
	// code is a source file: tabs, quotes, line feeds.
	code = words(`\tif err := s.read(\"name\", &v); err != nil {\n\t\treturn fmt.Errorf(\"reading %s: %w\", path, err)\n\t}\n`, `\tv.total += n\n`, `\n`, `// Space is skipped.\n`, `re := \"\\\\d+\"\n`)
	cjk  = words(`敏捷的棕色狐狸`, `跳过了那只懒狗`, `，`, `而河流`, `不慌不忙。`)
	// cjkEscaped is what Python's json.dumps makes of cjk.
	cjkEscaped = words(`\u654f\u6377\u7684\u68d5\u8272\u72d0\u72f8`, `\u8df3\u8fc7\u4e86\u90a3\u53ea\u61d2\u72d7`, `\uff0c`)
)

// tools is a request with many tool schemas and few words.
func tools(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	b.WriteString(`{"messages":[{"role":"user","content":"Which?"}],"tools":[{}`)
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, `,{"type":"function","function":{"name":"tool_%d","description":"%s","strict":false,"parameters":{"type":"object","properties":{`, i, lorem(r, 20+r.IntN(60)))
		for j := range 3 + r.IntN(5) {
			fmt.Fprintf(&b, `"p%d":{"type":"array","items":{"type":["string","null"],"enum":["a","bc","def"],"minimum":%d,"default":null}},`, j, r.IntN(1000))
		}
		b.WriteString(`"at":{"type":"object","properties":{"lat":{"type":"number","maximum":90.5},"lon":{"type":"number"}}}},"required":["at","p0"]}}}`)
	}
	b.WriteString(`],"model":"m-1"}`)
	return b.Bytes()
}

// ids is a prompt of token ids.
func ids(n int, separator string) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	b.WriteString(`{"prompt":[`)
	for b.Len() < n {
		fmt.Fprintf(&b, "%d%s", r.IntN(1<<(5+r.IntN(13))), separator)
	}
	b.WriteString(`0],"model":"m-1"}`)
	return b.Bytes()
}

var sizes = []struct {
	name string
	n    int
}{{"2.4KiB", 2400}, {"100KiB", 100 << 10}, {"200KB", 200e3}, {"2MiB", 2 << 20}}

var kinds = []struct {
	name string
	make func(n int) []byte
}{
	{"lorem", func(n int) []byte { return chat(n, 4000, lorem) }},
	{"prose", func(n int) []byte { return chat(n, 4000, prose) }},
	{"escapes", func(n int) []byte { return chat(n, 4000, escapes) }},
	{"turns", func(n int) []byte { return chat(n, 200, escapes) }},
	{"code", func(n int) []byte { return chat(n, 4000, code) }},
	{"cjk", func(n int) []byte { return chat(n, 4000, cjk) }},
	{"cjk-escaped", func(n int) []byte { return chat(n, 4000, cjkEscaped) }},
	{"tools", tools},
	{"ids", func(n int) []byte { return ids(n, ",") }},
	{"ids-spaced", func(n int) []byte { return ids(n, ", ") }},
}

func BenchmarkObject(b *testing.B) {
	for _, kind := range kinds {
		for _, size := range sizes {
			body := kind.make(size.n)
			b.Run(kind.name+"/"+size.name, func(b *testing.B) {
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				var got [3]Value
				for b.Loop() {
					if err := Object(body, routing, got[:]); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkAppendText(b *testing.B) {
	for _, kind := range kinds {
		for _, size := range sizes {
			body := kind.make(size.n)
			b.Run(kind.name+"/"+size.name, func(b *testing.B) {
				keys := NewKeys("messages", "prompt")
				var got [2]Value
				if err := Object(body, keys, got[:]); err != nil {
					b.Fatal(err)
				}
				raw := body[got[0].Start:got[0].End]
				if got[0].Kind == Absent {
					raw = body[got[1].Start:got[1].End]
				}
				var dst []byte
				b.SetBytes(int64(len(raw)))
				b.ReportAllocs()
				for b.Loop() {
					dst = AppendText(dst[:0], raw)
				}
			})
		}
	}
}

func BenchmarkObjectText(b *testing.B) {
	for _, kind := range kinds {
		for _, size := range sizes {
			body := kind.make(size.n)
			b.Run(kind.name+"/"+size.name, func(b *testing.B) {
				keys := NewKeys("model", "messages", "prompt")
				var got [3]Value
				var parts [3]Part
				var dst []byte
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				for b.Loop() {
					var err error
					if dst, err = ObjectText(body, keys, got[:], 0b110, dst[:0], parts[:]); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
