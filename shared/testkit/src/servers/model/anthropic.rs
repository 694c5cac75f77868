//! Anthropic's messages.

use serde_json::{Value, json};

use super::script::{Stop, Turn};
use super::tools::{Kind, Tool, Tools};
use super::{Chunk, id, pieces};

pub(super) fn tools(body: &Value) -> Tools {
    let mut tools = Tools::default();
    for tool in body["tools"].as_array().into_iter().flatten() {
        let kind = Kind::Function(tool["input_schema"].clone());
        tools.add(tool["name"].as_str().unwrap_or_default(), Tool { kind, namespace: None });
    }
    tools
}

pub(super) fn whole(turn: &Turn, model: &str) -> Value {
    let mut message = message(turn, model);
    message["content"] = blocks(turn).into();
    message["stop_reason"] = json!(reason(turn));
    message["usage"]["output_tokens"] = json!(turn.usage.output);
    message
}

pub(super) fn stream(turn: &Turn, model: &str) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut send = |data: Value, opening| {
        chunks.push(Chunk::of(data["type"].as_str(), &data, opening));
    };
    send(json!({"type": "message_start", "message": message(turn, model)}), true);
    send(json!({"type": "ping"}), true);
    for (index, mut block) in blocks(turn).into_iter().enumerate() {
        let (key, kind, text) = match block["type"].as_str() {
            Some("text") => {
                ("text", "text_delta", block["text"].as_str().unwrap_or_default().to_owned())
            }
            _ => ("partial_json", "input_json_delta", block["input"].to_string()),
        };
        if key == "text" {
            block["text"] = json!("");
        } else {
            block["input"] = json!({});
        }
        send(
            json!({"type": "content_block_start", "index": index, "content_block": block}),
            index == 0,
        );
        for piece in pieces(&text) {
            let delta = json!({"type": kind, key: piece});
            send(json!({"type": "content_block_delta", "index": index, "delta": delta}), false);
        }
        send(json!({"type": "content_block_stop", "index": index}), false);
    }
    let delta = json!({"stop_reason": reason(turn), "stop_sequence": null});
    let mut usage = usage(turn);
    usage["output_tokens"] = json!(turn.usage.output);
    send(json!({"type": "message_delta", "delta": delta, "usage": usage}), false);
    send(json!({"type": "message_stop"}), false);
    chunks
}

fn message(turn: &Turn, model: &str) -> Value {
    json!({
        "id": id("msg"),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": null,
        "stop_sequence": null,
        "usage": usage(turn),
    })
}

/// As it stands when the answer begins.
fn usage(turn: &Turn) -> Value {
    json!({
        "input_tokens": turn.usage.input,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": turn.usage.cached,
        "output_tokens": 1,
    })
}

fn blocks(turn: &Turn) -> Vec<Value> {
    let text = turn.text.iter().map(|text| json!({"type": "text", "text": text}));
    let call = turn.call.iter().map(|(name, input)| {
        json!({"type": "tool_use", "id": id("toolu"), "name": name, "input": input})
    });
    text.chain(call).collect()
}

fn reason(turn: &Turn) -> &'static str {
    match turn.stop {
        Stop::Done => "end_turn",
        Stop::Tool => "tool_use",
        Stop::Length => "max_tokens",
    }
}
