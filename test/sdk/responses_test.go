package sdk

import (
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/responses"
	"github.com/openai/openai-go/v3/shared"
)

var responsesChecks = []check{
	{"responses/unary", responseUnary},
	{"responses/stream", responseStream},
	{"responses/function call", responseCall},
	{"responses/reasoning", responseReasoning},
	{"responses/what is not there", responseUnknown},
}

// wanting is a response to one text.
func wanting(text string) responses.ResponseNewParams {
	return responses.ResponseNewParams{Model: model, Input: responses.ResponseNewParamsInputUnion{OfString: openai.String(text)}}
}

func responded(t *testing.T, f *fleet, p responses.ResponseNewParams) *responses.Response {
	t.Helper()
	r, err := f.openai.Responses.New(within(t), p)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// told streams a response, holds its events to their order and returns the
// complete response, the events' names and the deltas of each name joined.
func told(t *testing.T, f *fleet, p responses.ResponseNewParams) (last responses.Response, names []string, deltas map[string]string) {
	t.Helper()
	s := f.openai.Responses.NewStreaming(within(t), p)
	deltas = map[string]string{}
	for n := int64(0); s.Next(); n++ {
		e := s.Current()
		if e.SequenceNumber != n {
			t.Errorf("event %d says it is %d: %s", n, e.SequenceNumber, e.RawJSON())
		}
		names = append(names, e.Type)
		if strings.HasSuffix(e.Type, ".delta") {
			deltas[e.Type] += e.Delta
		}
		if e.Response.ID != "" {
			last = e.Response
		}
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	if len(names) < 3 || names[0] != "response.created" {
		t.Fatalf("got the events %q", names)
	}
	return last, names, deltas
}

func responseUnary(t *testing.T, f *fleet) {
	r := responded(t, f, wanting("what is a response"))
	if r.Status != "completed" || r.OutputText() == "" || r.Model != model || r.ID == "" {
		t.Errorf("got %s", r.RawJSON())
	}
	if u := r.Usage; u.InputTokens == 0 || u.OutputTokens == 0 || u.TotalTokens != u.InputTokens+u.OutputTokens {
		t.Errorf("the usage does not add up: %s", u.RawJSON())
	}
	p := wanting("what is a response")
	p.MaxOutputTokens = openai.Int(4)
	if r := responded(t, f, p); r.Status != "incomplete" || r.IncompleteDetails.Reason != "max_output_tokens" || r.Usage.OutputTokens != 4 {
		t.Errorf("max_output_tokens 4: got %s", r.RawJSON())
	}
}

func responseStream(t *testing.T, f *fleet) {
	want := responded(t, f, wanting("what is an event"))
	last, names, deltas := told(t, f, wanting("what is an event"))
	if end := names[len(names)-1]; end != "response.completed" || last.Status != "completed" {
		t.Errorf("the stream ended with %s, as %s", end, last.Status)
	}
	if got := deltas["response.output_text.delta"]; got != want.OutputText() || last.OutputText() != got {
		t.Errorf("streamed %q, at its end %q, whole %q", got, last.OutputText(), want.OutputText())
	}
	if last.Usage.OutputTokens != want.Usage.OutputTokens {
		t.Errorf("streamed usage %s, whole %s", last.Usage.RawJSON(), want.Usage.RawJSON())
	}
}

func responseCall(t *testing.T, f *fleet) {
	p := wanting("how is the weather [tool]")
	p.Tools = []responses.ToolUnionParam{responses.ToolParamOfFunction("get_weather", weather, true)}
	call := func(r responses.Response) responses.ResponseOutputItemUnion {
		t.Helper()
		if len(r.Output) != 1 || r.Output[0].Type != "function_call" {
			t.Fatalf("got %s, want one call", r.RawJSON())
		}
		return r.Output[0]
	}
	whole := call(*responded(t, f, p)).AsFunctionCall()
	wantWeather(t, whole.Arguments)
	last, _, deltas := told(t, f, p)
	streamed := call(last).AsFunctionCall()
	if got := deltas["response.function_call_arguments.delta"]; got != whole.Arguments || streamed.Arguments != got || streamed.CallID != whole.CallID {
		t.Errorf("streamed %q, at its end %s, whole %s", got, streamed.RawJSON(), whole.RawJSON())
	}
	p.Input = responses.ResponseNewParamsInputUnion{OfInputItemList: responses.ResponseInputParam{
		responses.ResponseInputItemParamOfMessage("how is the weather [tool]", responses.EasyInputMessageRoleUser),
		responses.ResponseInputItemParamOfFunctionCall(whole.Arguments, whole.CallID, whole.Name),
		{OfFunctionCallOutput: &responses.ResponseInputItemFunctionCallOutputParam{
			CallID: openai.String(whole.CallID),
			Output: responses.ResponseInputItemFunctionCallOutputOutputUnionParam{OfString: openai.String("clear")},
		}},
	}}
	if r := responded(t, f, p); r.OutputText() == "" {
		t.Errorf("after the function's output: got %s, want words", r.RawJSON())
	}
}

func responseReasoning(t *testing.T, f *fleet) {
	p := wanting("why is that")
	p.Reasoning.Effort = shared.ReasoningEffortHigh
	r := responded(t, f, p)
	if len(r.Output) != 2 || r.Output[0].Type != "reasoning" || r.Usage.OutputTokensDetails.ReasoningTokens == 0 {
		t.Fatalf("got %s, want thoughts and words", r.RawJSON())
	}
	_, _, deltas := told(t, f, p)
	item := r.Output[0].AsReasoning()
	if got := deltas["response.reasoning_text.delta"]; len(item.Content) != 1 || got != item.Content[0].Text || got == "" {
		t.Errorf("streamed the thought %q, whole %s", got, item.RawJSON())
	}
}

func responseUnknown(t *testing.T, f *fleet) {
	p := wanting("go on")
	p.PreviousResponseID = openai.String("resp_nobody")
	_, err := f.openai.Responses.New(within(t), p)
	if e := openAIError(t, err); e.StatusCode != 404 {
		t.Errorf("a previous response that is not there: got %d, want the engine's 404", e.StatusCode)
	}
}
