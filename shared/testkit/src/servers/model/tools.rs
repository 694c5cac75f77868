//! Which of the tools that an agent offers writes a file, or runs a command, and how.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// Tools on offer, by name.
#[derive(Debug, Default)]
pub(super) struct Tools(BTreeMap<String, Tool>);

#[derive(Debug, Clone)]
pub(super) struct Tool {
    pub(super) kind: Kind,
    /// A group of tools that it is in.
    pub(super) namespace: Option<String>,
}

/// What a tool accepts.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// JSON by a schema.
    Function(Value),
    Custom,
    /// It runs at the provider.
    Hosted,
}

impl Tools {
    pub(super) fn add(&mut self, name: &str, tool: Tool) {
        self.0.insert(name.to_owned(), tool);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Tool> {
        self.0.get(name)
    }

    fn schema(&self, name: &str) -> Option<&Value> {
        match &self.0.get(name)?.kind {
            Kind::Function(schema) => Some(schema),
            Kind::Custom | Kind::Hosted => None,
        }
    }

    fn custom(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|tool| matches!(tool.kind, Kind::Custom))
    }

    /// A call that runs `command` in a shell.
    pub(super) fn shell(&self, command: &str) -> Option<(String, Value)> {
        let names = ["Bash", "bash", "exec_command", "shell_command", "shell"];
        for name in names {
            let Some(schema) = self.schema(name) else { continue };
            let list = schema["properties"]["command"]["type"] == "array";
            let words = if list { json!(["bash", "-lc", command]) } else { json!(command) };
            let known = json!({"command": words, "cmd": command, "description": "scripted"});
            return Some((name.to_owned(), fill(schema, &known)));
        }
        // Codex runs JavaScript that calls its tools.
        self.custom("exec").then(|| {
            let command = json!(command);
            let code = format!("const r = await tools.exec_command({{cmd: {command}}}); text(r.output ?? JSON.stringify(r));");
            ("exec".to_owned(), json!(code))
        })
    }

    /// A call that writes a file. `body` is searched for the agent's working folder.
    pub(super) fn write(&self, path: &str, content: &str, body: &Value) -> Option<(String, Value)> {
        let absolute = format!("{}/{path}", working_folder(&body.to_string()).unwrap_or_default());
        for name in ["Write", "write", "write_file"] {
            let Some(schema) = self.schema(name) else { continue };
            let known = json!({"file_path": absolute, "filePath": absolute, "path": absolute, "content": content});
            return Some((name.to_owned(), fill(schema, &known)));
        }
        let patch = patch(path, content);
        if self.custom("apply_patch") {
            return Some(("apply_patch".to_owned(), json!(patch)));
        }
        if let Some(schema) = self.schema("apply_patch") {
            let known = json!({"input": patch, "patch": patch});
            return Some(("apply_patch".to_owned(), fill(schema, &known)));
        }
        if self.custom("exec") {
            let code = format!("text(await tools.apply_patch({}));", json!(patch));
            return Some(("exec".to_owned(), json!(code)));
        }
        let quote = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
        self.shell(&format!("printf %s {} > {}", quote(content), quote(path)))
    }
}

/// The values that the schema knows, and something for what else it requires.
fn fill(schema: &Value, known: &Value) -> Value {
    let mut input = Map::new();
    let properties = &schema["properties"];
    for (name, value) in known.as_object().into_iter().flatten() {
        if !properties[name].is_null() {
            input.insert(name.clone(), value.clone());
        }
    }
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        input.entry(name).or_insert_with(|| match properties[name]["type"].as_str() {
            Some("number" | "integer") => json!(0),
            Some("boolean") => json!(false),
            Some("array") => json!([]),
            Some("object") => json!({}),
            _ => json!("scripted"),
        });
    }
    input.into()
}

fn patch(path: &str, content: &str) -> String {
    let lines: String = content.lines().map(|line| format!("+{line}\n")).collect();
    format!("*** Begin Patch\n*** Add File: {path}\n{lines}*** End Patch\n")
}

/// The folder that an agent tells its model it works in; `request` is JSON text.
fn working_folder(request: &str) -> Option<&str> {
    let marks = [
        "Primary working directory: ",
        "Working directory: ",
        "<cwd>",
        "current working directory: ",
    ];
    marks.iter().find_map(|mark| {
        let (_, after) = request.split_once(mark)?;
        let end = after.find(|c: char| c.is_whitespace() || matches!(c, '\\' | '<' | '"'))?;
        Some(&after[..end])
    })
}
