//! The sample agent: adds the text of a prompt to the page `index.html`.
//!
//! It replaces a code agent on machines without one, so that the quickstart shows a real build. It
//! does not interpret the prompt: the text becomes the newest entry of the page's list of notes.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

/// The page that it edits, in its working folder.
const PAGE: &str = "index.html";

/// The place for notes, newest first; `templates/static` contains it.
const PLACEHOLDER: &str = "<!-- notes: newest first -->";

/// Reads the prompt from stdin, edits the page below `folder`, and reports in JSON lines.
///
/// # Errors
/// When the prompt is empty or the page cannot be read or written.
pub(crate) fn run(folder: &Path) -> anyhow::Result<()> {
    let mut prompt = String::new();
    io::stdin().read_to_string(&mut prompt).context("cannot read the prompt")?;
    let prompt = prompt.trim();
    anyhow::ensure!(!prompt.is_empty(), "the prompt on stdin is empty");
    emit(&json!({"kind": "agent.text", "text": format!("I put the request on {PAGE}.")}))?;

    let path = folder.join(PAGE);
    let input = json!({"path": PAGE});
    emit(&json!({"kind": "agent.tool_use", "tool": "edit", "id": "edit-1", "input": input}))?;
    let page = match fs::read_to_string(&path) {
        Ok(page) => page,
        Err(error) if error.kind() == io::ErrorKind::NotFound => NEW_PAGE.to_owned(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {PAGE}")),
    };
    fs::write(&path, with_note(&page, prompt)).with_context(|| format!("cannot write {PAGE}"))?;
    emit(&json!({"kind": "agent.tool_result", "id": "edit-1", "is_error": false, "output": "ok"}))?;
    emit(&json!({"kind": "result", "summary": format!("Added the request to {PAGE}.")}))?;
    Ok(())
}

/// The page of a repository that has none.
const NEW_PAGE: &str = "<!doctype html>\n<html lang=\"en\">\n<head>\n  <meta charset=\"utf-8\">\n  <title>Notes</title>\n</head>\n<body>\n</body>\n</html>\n";

fn emit(event: &Value) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{event}")?;
    stdout.flush()
}

/// The page with one more note. Earlier notes stay, so the page always changes.
fn with_note(page: &str, prompt: &str) -> String {
    let text = escaped(prompt);
    if let Some(at) = page.find(PLACEHOLDER) {
        let at = at + PLACEHOLDER.len();
        return format!("{}\n        <li>{text}</li>{}", &page[..at], &page[at..]);
    }
    let lower = page.to_ascii_lowercase();
    let end = ["</main>", "</body>", "</html>"].iter().find_map(|tag| lower.rfind(tag));
    let (before, after) = page.split_at(end.unwrap_or(page.len()));
    let gap = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    format!("{before}{gap}<p>{text}</p>\n{after}")
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\r' => {}
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = include_str!("../../templates/static/index.html");

    #[test]
    fn each_prompt_is_added_to_the_top_of_the_templates_list_even_a_repeated_one() {
        let once = with_note(TEMPLATE, "Fish & <b>chips</b>");
        let note = "<li>Fish &amp; &lt;b&gt;chips&lt;/b&gt;</li>";
        assert!(once.contains(&format!("{PLACEHOLDER}\n        {note}\n      </ol>")), "{once}");
        let twice = with_note(&once, "Fish & <b>chips</b>");
        assert_eq!(twice.matches(note).count(), 2);
        assert_eq!(twice.len() - once.len(), once.len() - TEMPLATE.len());
    }

    #[test]
    fn a_page_without_a_list_gets_a_paragraph_at_its_end() {
        assert_eq!(with_note("<BODY>x</BODY>", "hi"), "<BODY>x\n<p>hi</p>\n</BODY>");
        assert_eq!(with_note("just text", "hi"), "just text\n<p>hi</p>\n");
        assert_eq!(with_note("", "hi"), "<p>hi</p>\n");
        assert!(with_note(NEW_PAGE, "hi").contains("<body>\n<p>hi</p>\n</body>"));
    }
}
