//! OpenAI's chat completions.

use serde_json::{Value, json};

use super::script::{Stop, Turn};
use super::tools::{Kind, Tool, Tools};
use super::{Chunk, id, pieces};

pub(super) fn tools(body: &Value) -> Tools {
    let mut tools = Tools::default();
    for tool in body["tools"].as_array().into_iter().flatten() {
        let function = &tool["function"];
        let kind = Kind::Function(function["parameters"].clone());
        tools.add(function["name"].as_str().unwrap_or_default(), Tool { kind, namespace: None });
    }
    tools
}

pub(super) fn whole(turn: &Turn, model: &str) -> Value {
    let mut message = json!({"role": "assistant", "content": turn.text});
    if let Some(call) = call(turn) {
        message["tool_calls"] = json!([call]);
    }
    json!({
        "id": id("chatcmpl"),
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": reason(turn)}],
        "usage": usage(turn),
    })
}

pub(super) fn stream(turn: &Turn, model: &str) -> Vec<Chunk> {
    let completion = id("chatcmpl");
    let chunk = |choices: Value| json!({"id": completion, "object": "chat.completion.chunk", "created": 0, "model": model, "choices": choices});
    let delta = |delta: Value, finish: Option<&str>| {
        chunk(json!([{"index": 0, "delta": delta, "finish_reason": finish}]))
    };
    let mut chunks =
        vec![Chunk::of(None, &delta(json!({"role": "assistant", "content": ""}), None), true)];
    let mut send = |data: &Value| chunks.push(Chunk::of(None, data, false));
    for piece in turn.text.iter().flat_map(|text| pieces(text)) {
        send(&delta(json!({"content": piece}), None));
    }
    if let Some(mut call) = call(turn) {
        let arguments = call["function"]["arguments"].take();
        call["index"] = json!(0);
        call["function"]["arguments"] = json!("");
        send(&delta(json!({"tool_calls": [call]}), None));
        for piece in pieces(arguments.as_str().unwrap_or_default()) {
            let part = json!({"index": 0, "function": {"arguments": piece}});
            send(&delta(json!({"tool_calls": [part]}), None));
        }
    }
    send(&delta(json!({}), Some(reason(turn))));
    let mut last = chunk(json!([]));
    last["usage"] = usage(turn);
    send(&last);
    chunks.push(Chunk { text: "data: [DONE]\n\n".to_owned(), opening: false });
    chunks
}

fn call(turn: &Turn) -> Option<Value> {
    let (name, input) = turn.call.as_ref()?;
    let function = json!({"name": name, "arguments": input.to_string()});
    Some(json!({"id": id("call"), "type": "function", "function": function}))
}

fn usage(turn: &Turn) -> Value {
    json!({
        "prompt_tokens": turn.usage.input,
        "completion_tokens": turn.usage.output,
        "total_tokens": turn.usage.input + turn.usage.output,
        "prompt_tokens_details": {"cached_tokens": turn.usage.cached},
        "completion_tokens_details": {"reasoning_tokens": 0},
    })
}

fn reason(turn: &Turn) -> &'static str {
    match turn.stop {
        Stop::Done => "stop",
        Stop::Tool => "tool_calls",
        Stop::Length => "length",
    }
}
