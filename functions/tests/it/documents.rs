//! What is written down and what is true are the same.

use std::fs;
use std::path::{Path, PathBuf};

use http::Method;
use rdev_functions::endpoints::openapi_json;
use rdev_functions::http::problem::Code;
use serde_json::Value;

use crate::auth::OPERATIONS;
use crate::support::{Fixture, request};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_committed_openapi_document_is_that_of_the_code() {
    let path = root().join("docs/openapi.json");
    if std::env::var_os("RDEV_BLESS").is_some() {
        fs::write(&path, openapi_json()).expect("written");
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == openapi_json(),
        "docs/openapi.json is not what the code says; write it anew with\n\
         RDEV_BLESS=1 cargo test -p rdev-functions openapi"
    );
}

#[test]
fn every_reference_of_the_document_leads_somewhere() {
    let document: Value = serde_json::from_str(openapi_json()).expect("JSON");
    let mut open = vec![&document];
    let mut references = 0;
    while let Some(value) = open.pop() {
        match value {
            Value::Object(fields) => {
                if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                    let pointer = reference.strip_prefix('#').expect("within the document");
                    assert!(document.pointer(pointer).is_some(), "{reference}");
                    references += 1;
                }
                open.extend(fields.values());
            }
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
    assert!(references > 100, "{references}");
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            assert!(operation["responses"]["default"].is_object(), "{method} {path}");
            assert!(operation["summary"].is_string(), "{method} {path}");
            let expected: Vec<_> = path
                .split('/')
                .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
                .collect();
            let none = Vec::new();
            let declared: Vec<_> = operation["parameters"]
                .as_array()
                .unwrap_or(&none)
                .iter()
                .filter(|parameter| parameter["in"] == "path")
                .map(|parameter| parameter["name"].as_str().expect("a name"))
                .collect();
            assert_eq!(declared, expected, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn the_document_and_its_page_need_no_key() {
    let fixture = Fixture::new().await;
    let document = fixture.send(request(Method::GET, "/openapi.json", None, None)).await;
    assert_eq!(document.header("content-type"), "application/json");
    assert_eq!(document.json()["info"]["title"], "rdev");
    let page = fixture.send(request(Method::GET, "/docs", None, None)).await;
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let html = String::from_utf8(page.body).expect("UTF-8");
    assert!(!html.contains("http://") && !html.contains("https://"), "nothing from elsewhere");
    assert!(page.headers["content-security-policy"].to_str().expect("text").contains("'self'"));
}

#[test]
fn every_code_is_in_the_documentation_with_its_status() {
    let text = read("docs/api.md");
    for code in Code::ALL {
        let row = format!("| `{}` | {} |", code.as_str(), code.status().as_u16());
        assert!(text.contains(&row), "docs/api.md lacks the row {row}");
    }
    let rows = text.lines().filter(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        cells.len() > 3
            && cells[1].starts_with('`')
            && cells[2].parse::<u16>().is_ok_and(|n| n >= 400)
    });
    assert_eq!(rows.count(), Code::ALL.len(), "docs/api.md has codes that there are not");
}

#[test]
fn every_operation_is_in_the_documentation() {
    let text = read("docs/api.md");
    for (method, route, _) in OPERATIONS {
        let heading = format!("`{method} {route}`");
        assert!(text.contains(&heading), "docs/api.md lacks {heading}");
    }
    for route in ["/health", "/ready", "/openapi.json", "/docs"] {
        assert!(text.contains(&format!("`GET {route}`")), "docs/api.md lacks {route}");
    }
    for kind in [
        "state",
        "phase",
        "agent.text",
        "agent.tool_use",
        "agent.tool_result",
        "agent.usage",
        "log",
    ] {
        assert!(text.contains(&format!("| `{kind}` |")), "docs/api.md lacks the event {kind}");
    }
    for scope in rdev_domain::key::Scope::ALL {
        assert!(text.contains(&format!("`{scope}`")), "docs/api.md lacks the scope {scope}");
    }
}
