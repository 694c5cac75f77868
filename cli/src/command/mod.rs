//! The client commands: most of them send one request and print a part of the answer.

pub(crate) mod build;
pub(crate) mod domain;
pub(crate) mod key;
pub(crate) mod pipeline;
pub(crate) mod project;
pub(crate) mod template;
pub(crate) mod work;
pub(crate) mod worker;

use serde_json::Value;

use crate::args::values::Paging;
use crate::client::Client;
use crate::exit::Exit;
use crate::out;

/// The server, and the format of the output.
pub(crate) struct Session {
    pub(crate) client: Client,
    /// `--json`.
    pub(crate) json: bool,
}

/// A column of a list: its title and the JSON pointer of its value in an item.
type Column = (&'static str, &'static str);

impl Session {
    /// Prints an answer: as JSON, or in the format of `human`.
    fn show(&self, answer: &Value, human: impl FnOnce(&Value) -> String) -> anyhow::Result<Exit> {
        if self.json {
            out::json(answer)?;
        } else {
            out::line(human(answer))?;
        }
        Ok(Exit::Done)
    }

    /// Fetches a page of a list and prints it.
    async fn list(&self, path: &str, paging: &Paging, columns: &[Column]) -> anyhow::Result<Exit> {
        self.list_with(path, paging, &[], columns).await
    }

    /// Like [`Session::list`], with filters.
    async fn list_with(
        &self,
        path: &str,
        paging: &Paging,
        filters: &[(&'static str, String)],
        columns: &[Column],
    ) -> anyhow::Result<Exit> {
        let mut query = vec![("limit", paging.limit.to_string())];
        query.extend(paging.cursor.clone().map(|cursor| ("cursor", cursor)));
        query.extend(filters.iter().cloned());
        let answer = self.client.get(path, &query).await?;
        let exit = self.show(&answer, |answer| table(answer, columns))?;
        if let Some(cursor) = answer["next_cursor"].as_str().filter(|_| !self.json) {
            out::note(format_args!("for the next page: --cursor {}", out::clean(cursor)));
        }
        Ok(exit)
    }
}

fn table(answer: &Value, columns: &[Column]) -> String {
    let head: Vec<&str> = columns.iter().map(|(title, _)| *title).collect();
    let items = answer["items"].as_array().map_or(&[][..], Vec::as_slice);
    let row = |item: &Value| columns.iter().map(|(_, place)| one_line(item, place)).collect();
    let rows: Vec<Vec<String>> = items.iter().map(row).collect();
    out::table(&head, &rows)
}

/// Names and values, one per line; empty values are omitted.
fn fields(value: &Value, fields: &[Column]) -> String {
    let shown = fields.iter().map(|(title, place)| (title, cell(value, place)));
    let shown: Vec<_> = shown.filter(|(_, text)| !text.is_empty()).collect();
    let width = shown.iter().map(|(title, _)| title.len()).max().unwrap_or(0);
    let lines: Vec<String> =
        shown.iter().map(|(title, text)| format!("{title:<width$}  {text}")).collect();
    lines.join("\n")
}

/// A value as text, by its JSON pointer.
fn cell(value: &Value, place: &str) -> String {
    match value.pointer(place) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => out::clean(text),
        Some(Value::Array(items)) => {
            let texts = items.iter().map(|item| item.as_str().map_or(item.to_string(), out::clean));
            texts.collect::<Vec<_>>().join(", ")
        }
        Some(other) => other.to_string(),
    }
}

/// A value for a table: one line of at most 60 characters.
fn one_line(value: &Value, place: &str) -> String {
    let text = cell(value, place);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(60) {
        Some((cut, _)) => format!("{}…", &line[..cut]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_becomes_a_table_with_empty_cells_for_missing_values() {
        let answer = json!({"items": [
            {"id": "a", "n": 1, "spec": {"prompt": "one\ntwo"}, "list": ["x", "y"]},
            {"id": "bbbb", "n": null},
        ]});
        let columns = [("ID", "/id"), ("N", "/n"), ("LIST", "/list"), ("PROMPT", "/spec/prompt")];
        let expected = "ID    N  LIST  PROMPT\na     1  x, y  one two\nbbbb";
        assert_eq!(table(&answer, &columns), expected);
        assert_eq!(fields(&answer["items"][1], &[("id", "/id"), ("n", "/n")]), "id  bbbb");
    }
}
