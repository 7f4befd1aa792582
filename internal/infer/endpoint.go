package infer

// An Endpoint says which API call a Request makes.
type Endpoint uint8

// Local is every call that the gateway answers itself; the others are relayed
// to workers.
const (
	Local Endpoint = iota
	Chat
	Completions
	Responses
	Messages
	CountTokens
	Embeddings
	Classify
	Rerank
	Generate
	Realtime

	NumEndpoints = iota // to size tables by endpoint
)

// A Dialect is the family of APIs whose error shapes a client expects.
type Dialect uint8

// SGLang's own calls answer errors as OpenAI's do.
const (
	OpenAI Dialect = iota
	Anthropic
)

var endpointTable = [NumEndpoints]struct {
	path     string // as it is asked of workers
	label    string // as metrics name it
	idPrefix string // of generated request ids
	dialect  Dialect
}{
	Local:       {"", "", "req-", OpenAI},
	Chat:        {"/v1/chat/completions", "chat", "chatcmpl-", OpenAI},
	Completions: {"/v1/completions", "completions", "cmpl-", OpenAI},
	Responses:   {"/v1/responses", "responses", "resp-", OpenAI},
	Messages:    {"/v1/messages", "messages", "msg_", Anthropic},
	CountTokens: {"/v1/messages/count_tokens", "count_tokens", "req-", Anthropic},
	Embeddings:  {"/v1/embeddings", "embeddings", "req-", OpenAI},
	Classify:    {"/v1/classify", "classify", "req-", OpenAI},
	Rerank:      {"/v1/rerank", "rerank", "req-", OpenAI},
	Generate:    {"/generate", "generate", "gnt-", OpenAI},
	Realtime:    {"/v1/realtime", "realtime", "req-", OpenAI},
}

// Path is the path that workers serve e under.
func (e Endpoint) Path() string { return endpointTable[e].path }

// Label is e's name in metrics and logs.
func (e Endpoint) Label() string { return endpointTable[e].label }

// IDPrefix begins the request ids that the gateway makes for e.
func (e Endpoint) IDPrefix() string { return endpointTable[e].idPrefix }

// Dialect says in which shape e's clients expect errors.
func (e Endpoint) Dialect() Dialect { return endpointTable[e].dialect }

// Endpoints returns all that are relayed to workers.
func Endpoints() []Endpoint {
	es := make([]Endpoint, 0, NumEndpoints-1)
	for e := Chat; e < NumEndpoints; e++ {
		es = append(es, e)
	}
	return es
}
