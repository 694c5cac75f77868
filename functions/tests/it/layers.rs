//! The rooms of `functions/src`: endpoints use services and `http`; services know nothing of HTTP;
//! `http` knows of services only their errors and what its documents describe.

use std::fs;
use std::path::{Path, PathBuf};

/// Every source file below `functions/src/<room>`, with its text.
fn sources(room: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(room)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a file");
                files.push((path, text));
            }
        }
    }
    assert!(files.len() > 5, "{room}: {files:?}");
    files
}

/// The lines of code, without comments, that name one of `words`.
fn lines_with(room: &str, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in sources(room) {
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            if words.iter().any(|word| line.contains(word)) {
                found.push(format!("{}: {}", path.display(), line.trim()));
            }
        }
    }
    found
}

#[test]
fn services_know_nothing_of_http() {
    let foreign = ["axum", "http::", "StatusCode", "Problem", "endpoints::", "lambda::"];
    assert_eq!(lines_with("services", &foreign), [""; 0]);
}

#[test]
fn http_knows_of_services_only_their_errors_and_its_documents() {
    assert_eq!(lines_with("http", &["endpoints::", "lambda::"]), [""; 0]);
    let mut services = lines_with("http", &["services::"]);
    services.retain(|line| {
        !line.contains("services::error::") && !line.contains("services::readiness::Checks")
    });
    assert_eq!(services, [""; 0]);
}

#[test]
fn endpoints_do_not_know_what_serves_them() {
    assert_eq!(lines_with("endpoints", &["lambda::", "middleware"]), [""; 0]);
}
