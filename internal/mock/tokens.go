package mock

import "strings"

// A token is a word as the engine sees it: its hash. Words are split at white
// space, so counts can be checked by eye.
type token uint64

const (
	fnvBasis = 14695981039346656037
	fnvPrime = 1099511628211
)

func wordToken(s string) token {
	h := uint64(fnvBasis)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * fnvPrime
	}
	return token(h)
}

// appendTokens appends the tokens of text to dst.
func appendTokens(dst []token, text string) []token {
	h, in := uint64(fnvBasis), false
	for i := range len(text) {
		switch c := text[i]; c {
		case ' ', '\t', '\n', '\r':
			if in {
				dst = append(dst, token(h))
			}
			h, in = fnvBasis, false
		default:
			h, in = (h^uint64(c))*fnvPrime, true
		}
	}
	if in {
		dst = append(dst, token(h))
	}
	return dst
}

// mix is the finalizer of splitmix64: every bit of x reaches every bit of the
// result.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// seedOf folds a prompt and a salt into what begins the answer's dice.
func seedOf(ts []token, salt uint64) uint64 {
	h := mix(salt + 0x9e3779b97f4a7c15)
	for _, t := range ts {
		h = (h ^ uint64(t)) * fnvPrime
	}
	return mix(h)
}

// chain continues the hashes of a token sequence's blocks: each hash stands
// for its block and all before it. With tail, a last block that is not full
// has a hash too.
func chain(dst []uint64, ts []token, size int, tail bool) []uint64 {
	h := uint64(fnvBasis)
	for i, t := range ts {
		h = mix(h ^ uint64(t))
		if (i+1)%size == 0 {
			dst = append(dst, h)
		}
	}
	if tail && len(ts)%size != 0 {
		// A partial block is another block than the full one it becomes.
		dst = append(dst, mix(h^0x7461696c))
	}
	return dst
}

// vocabulary is what answers are made of: plain ASCII, so that a word needs no
// escaping in JSON. spaced and ended hold the same words as they stand inside
// and at the end of a sentence.
var (
	vocabulary = strings.Fields(`a able about above again air all along also always among an and animal answer any are around as ask at away
 back be bear because bed been before began behind below best better between big bird black blue boat body book both boy bring brought build but
 by call came can car carry change city clear close cold color come could country course cover cross cut dark day deep did do dog done door down
 draw dry each early earth ease east eat end enough even ever every example eye face fact fall family far farm fast father feel few field figure
 fill find fire first fish five fly follow food foot for form found four free friend from full game gave get girl give go gold good got great
 green ground group grow had half hand hard has have he head hear heat help her here high hold home horse hot hour house how hundred idea if in
 inch interest is island it just keep kind king knew know land language large last late laugh lead learn leave left less letter life light like
 line list listen little live long look love low machine made make man many map mark may mean measure men might mile mind minute money moon more
 morning most mother mountain move much music must name near need never new next night no north note nothing notice noun now number object ocean
 of off often oh old on once one only open or order other our out over own page paper part pass pattern people perhaps person picture piece place
 plain plan plane plant play point port pose possible power press problem produce product pull put question quick rain ran reach read ready real
 record red remember rest right river road rock room round rule run said same saw say school science sea second see seem self sentence serve set
 several shape she ship short should show side simple since sing sit size slow small snow so some song soon sound south space special spell stand
 star start state stay step still stood stop story street strong study such sun sure surface table tail take talk teach tell ten test than that
 the their them then there these they thing think this those thought thousand three through time to together told too took top toward town travel
 tree true try turn two under unit until up us use usual very voice vowel wait walk want war warm was watch water way we week well went were west`)
	spaced = eachWord(" ", "")
	ended  = eachWord(" ", ".")
)

func eachWord(before, after string) []string {
	ws := make([]string, len(vocabulary))
	for i, w := range vocabulary {
		ws[i] = before + w + after
	}
	return ws
}

// A dice yields numbers that depend on nothing but how it began.
type dice uint64

func (d *dice) next() uint64 {
	*d += 0x9e3779b97f4a7c15
	return mix(uint64(*d))
}

func (d *dice) below(n int) int { return int(d.next() % uint64(n)) }

// unit yields a number from 0 to below 1.
func (d *dice) unit() float64 { return float64(d.next()>>11) / (1 << 53) }
