//! OpenAI's responses.

use serde_json::{Value, json};

use super::script::{Stop, Turn};
use super::tools::{Kind, Tool, Tools};
use super::{Chunk, id};

pub(super) fn tools(body: &Value) -> Tools {
    let mut tools = Tools::default();
    add(&mut tools, &body["tools"], None);
    for item in body["input"].as_array().into_iter().flatten() {
        // Newer codex puts its tools there.
        if item["type"] == "additional_tools" {
            add(&mut tools, &item["tools"], None);
        }
    }
    tools
}

fn add(tools: &mut Tools, list: &Value, namespace: Option<&str>) {
    for tool in list.as_array().into_iter().flatten() {
        let kind = match tool["type"].as_str() {
            Some("namespace") => {
                add(tools, &tool["tools"], tool["name"].as_str());
                continue;
            }
            Some("function") => Kind::Function(tool["parameters"].clone()),
            Some("custom") => Kind::Custom,
            _ => Kind::Hosted,
        };
        let name = tool["name"].as_str().or(tool["type"].as_str()).unwrap_or_default();
        tools.add(name, Tool { kind, namespace: namespace.map(str::to_owned) });
    }
}

/// For each item of the conversation: whether it is the model's.
pub(super) fn by_model(body: &Value) -> Vec<bool> {
    let items = body["input"].as_array().into_iter().flatten();
    let mine = items.map(|item| match item["type"].as_str() {
        Some("function_call" | "custom_tool_call" | "local_shell_call" | "reasoning") => true,
        Some("message") | None => item["role"] == "assistant",
        Some(_) => false,
    });
    mine.collect()
}

pub(super) fn whole(turn: &Turn, model: &str, tools: &Tools) -> Value {
    finished(turn, response(model), items(turn, tools))
}

pub(super) fn stream(turn: &Turn, model: &str, tools: &Tools) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut number = 0;
    let mut send = |kind: &str, mut data: Value, opening| {
        data["type"] = json!(kind);
        data["sequence_number"] = json!(number);
        number += 1;
        chunks.push(Chunk::of(Some(kind), &data, opening));
    };
    let response = response(model);
    send("response.created", json!({"response": response}), true);
    send("response.in_progress", json!({"response": response}), true);
    let items = items(turn, tools);
    for (index, item) in items.iter().enumerate() {
        let place = json!({"item_id": item["id"], "output_index": index});
        let with = |key: &str, value: Value| {
            let mut data = place.clone();
            data[key] = value;
            data
        };
        let (empty, kind) = match item["type"].as_str() {
            Some("message") => ("content", "output_text"),
            Some("function_call") => ("arguments", "function_call_arguments"),
            _ => ("input", "custom_tool_call_input"),
        };
        let mut begun = item.clone();
        begun["status"] = json!("in_progress");
        begun[empty] = if empty == "content" { json!([]) } else { json!("") };
        send("response.output_item.added", with("item", begun), false);
        if empty == "content" {
            let text = item["content"][0]["text"].clone();
            let mut part =
                with("part", json!({"type": "output_text", "text": "", "annotations": []}));
            part["content_index"] = json!(0);
            send("response.content_part.added", part.clone(), false);
            for (what, key) in [("delta", "delta"), ("done", "text")] {
                let mut data = with(key, text.clone());
                data["content_index"] = json!(0);
                data["logprobs"] = json!([]);
                send(&format!("response.{kind}.{what}"), data, false);
            }
            part["part"] = item["content"][0].clone();
            send("response.content_part.done", part, false);
        } else {
            send(&format!("response.{kind}.delta"), with("delta", item[empty].clone()), false);
            send(&format!("response.{kind}.done"), with(empty, item[empty].clone()), false);
        }
        send("response.output_item.done", with("item", item.clone()), false);
    }
    let last = if turn.stop == Stop::Length { "response.incomplete" } else { "response.completed" };
    send(last, json!({"response": finished(turn, response, items)}), false);
    chunks
}

fn response(model: &str) -> Value {
    json!({
        "id": id("resp"),
        "object": "response",
        "created_at": 0,
        "model": model,
        "status": "in_progress",
        "output": [],
        "usage": null,
        "error": null,
        "incomplete_details": null,
    })
}

fn finished(turn: &Turn, mut response: Value, items: Vec<Value>) -> Value {
    response["status"] = json!("completed");
    if turn.stop == Stop::Length {
        response["status"] = json!("incomplete");
        response["incomplete_details"] = json!({"reason": "max_output_tokens"});
    }
    response["output"] = items.into();
    response["usage"] = json!({
        "input_tokens": turn.usage.input,
        "input_tokens_details": {"cached_tokens": turn.usage.cached},
        "output_tokens": turn.usage.output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": turn.usage.input + turn.usage.output,
    });
    response
}

fn items(turn: &Turn, tools: &Tools) -> Vec<Value> {
    let text = turn.text.iter().map(|text| {
        let content = json!([{"type": "output_text", "text": text, "annotations": []}]);
        json!({"type": "message", "id": id("msg"), "role": "assistant", "status": "completed", "content": content})
    });
    let call = turn.call.iter().map(|(name, input)| {
        let tool = tools.get(name);
        let mut item = if tool.is_some_and(|tool| matches!(tool.kind, Kind::Custom)) {
            json!({"type": "custom_tool_call", "id": id("ctc"), "input": input})
        } else {
            json!({"type": "function_call", "id": id("fc"), "arguments": input.to_string()})
        };
        item["call_id"] = json!(id("call"));
        item["name"] = json!(name);
        item["status"] = json!("completed");
        if let Some(namespace) = tool.and_then(|tool| tool.namespace.as_ref()) {
            item["namespace"] = json!(namespace);
        }
        item
    });
    text.chain(call).collect()
}
