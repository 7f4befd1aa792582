package peek

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// chat is a request whose messages come first and model last, of about n bytes.
// Every piece of text ends with an escape, as prose with line breaks has them.
func chat(n, message int) []byte {
	const sentence = `The quick brown fox jumps over the lazy dog, and the river takes its time.\n`
	var b bytes.Buffer
	b.WriteString(`{"messages":[{"role":"system","content":"You are a pilot."}`)
	for b.Len() < n-message/2 {
		fmt.Fprintf(&b, `,{"role":"user","content":"%s"}`, strings.Repeat(sentence, max(1, message/len(sentence))))
	}
	b.WriteString(`],"temperature":0.7,"max_tokens":256,"stream":true,"model":"meta-llama/Llama-3.1-8B-Instruct"}`)
	return b.Bytes()
}

var bodies = []struct {
	name string
	body []byte
}{
	{"2.4KiB", chat(2400, 300)},
	{"100KiB", chat(100<<10, 8<<10)},
	{"2MiB", chat(2<<20, 64<<10)},
	{"100KiB-ids", []byte(`{"input_ids":[` + strings.Repeat("12345,", 17000) + `1],"model":"m"}`)},
}

func BenchmarkObject(b *testing.B) {
	for _, c := range bodies {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(c.body)))
			b.ReportAllocs()
			var got [3]Value
			for b.Loop() {
				if err := Object(c.body, routing, got[:]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendText(b *testing.B) {
	for _, c := range bodies[:3] {
		b.Run(c.name, func(b *testing.B) {
			var got [3]Value
			if err := Object(c.body, routing, got[:]); err != nil {
				b.Fatal(err)
			}
			raw := c.body[got[2].Start:got[2].End]
			var dst []byte
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				dst = AppendText(dst[:0], raw)
			}
		})
	}
}
