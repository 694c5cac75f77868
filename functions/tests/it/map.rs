//! `AGENTS.md`: what rdev can do and where it is, held to what is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rdev_functions::endpoints::openapi_json;
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The rows of the tables with five columns: what, endpoint, command, file, doc.
fn rows() -> Vec<[String; 5]> {
    let text = fs::read_to_string(root().join("AGENTS.md")).expect("a file");
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.contains("---"));
    let cells = |line: &str| -> Vec<String> {
        let inner = line.trim_start_matches('|').trim_end().trim_end_matches('|');
        inner.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let rows = rows.filter_map(|line| <[String; 5]>::try_from(cells(line)).ok());
    rows.filter(|row| row[1] != "endpoint").collect()
}

/// What stands between backquotes.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn the_map_has_exactly_the_operations_of_the_api() {
    let document: Value = serde_json::from_str(openapi_json()).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    let known: BTreeSet<String> = paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().expect("operations").keys();
            methods.map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    let rows = rows();
    let shown = rows.iter().flat_map(|row| quoted(&row[1]).map(str::to_owned));
    // `git_url` is a field.
    let shown: BTreeSet<String> = shown.filter(|text| text.contains(' ')).collect();
    assert!(rows.len() > 30, "{}", rows.len());
    assert_eq!(shown.symmetric_difference(&known).collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn every_file_and_page_of_the_map_exists() {
    for [what, _, _, files, pages] in rows() {
        for file in quoted(&files) {
            let places = [root().join(file), root().join("functions/src").join(file)];
            assert!(places.iter().any(|place| place.exists()), "{what}: {file}");
        }
        let links = pages.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let links: Vec<&str> = links.collect();
        assert!(!links.is_empty(), "{what} has a page");
        for link in links {
            assert!(root().join(link).is_file(), "{what}: {link}");
        }
    }
}

#[test]
fn every_operation_is_in_a_file_that_the_map_names() {
    for [_, operations, _, files, _] in rows() {
        let files = quoted(&files).filter(|file| file.ends_with(".rs"));
        let sources = files.map(|file| root().join("functions/src").join(file));
        let sources: String = sources.filter_map(|path| fs::read_to_string(path).ok()).collect();
        for operation in quoted(&operations).filter(|text| text.contains(' ')) {
            let (method, path) = operation.split_once(' ').expect("a method and a path");
            let line = format!("{}, path = \"{path}\"", method.to_lowercase());
            assert!(sources.contains(&line), "{operation}");
        }
    }
}

#[test]
fn every_command_of_the_map_exists() {
    let folder = root().join("cli/src/args");
    let files = fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("a file").path());
    let files = files.chain([root().join("cli/src/args.rs")]);
    let source: String = files.map(|file| fs::read_to_string(file).expect("a file")).collect();
    let words = |name: &str| {
        // As clap makes the words of a command out of the names of its variants.
        let mut parts = name.split('-').map(|part| part[..1].to_uppercase() + &part[1..]);
        parts.by_ref().collect::<String>()
    };
    for [what, _, commands, ..] in rows() {
        for command in quoted(&commands) {
            for word in command.split(' ').filter(|word| !word.starts_with('-')) {
                let name = words(word);
                let there =
                    [",", "(", " {"].iter().any(|end| source.contains(&format!("    {name}{end}")));
                assert!(there, "{what}: {command}");
            }
        }
    }
}

/// `a/b.rs` and `a/b/` in backquotes are paths, from the root or from the crate under whose
/// heading they stand.
#[test]
fn every_path_in_the_architecture_exists() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("a file");
    let mut room = root();
    let mut found = 0;
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            let places =
                [root().join(heading).join("src"), root().join("shared").join(heading).join("src")];
            room = places.into_iter().find(|place| place.exists()).unwrap_or_else(root);
        }
        for path in quoted(line).filter(|word| {
            !word.contains([' ', '<', '{', ':', '='])
                && (word.ends_with(".rs") || (word.ends_with('/') && word.len() > 1))
        }) {
            // A folder of the data folder, and no part of the tree.
            if path == "unpushed/" {
                continue;
            }
            found += 1;
            let places =
                [root().join(path), room.join(path), root().join("functions/src").join(path)];
            assert!(places.iter().any(|place| place.exists()), "{path}: {line}");
        }
    }
    assert!(found > 60, "{found}");
}
