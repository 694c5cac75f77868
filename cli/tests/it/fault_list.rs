//! The table of faults in docs/reliability.md, checked against the tests: each that it names is
//! there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What begins the section with the table.
const SECTION: &str = "## The faults, and the tests that cover them";

#[test]
fn every_test_that_the_table_of_faults_names_is_there() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let page = fs::read_to_string(root.join("docs/reliability.md")).expect("the page");
    let rows = rows(&page);
    assert!(rows.len() > 60, "{} rows", rows.len());
    let mut sources = Vec::new();
    for part in ["cli", "functions", "lab", "runner", "shared"] {
        collect(&root.join(part), &mut sources);
    }
    let tests: BTreeSet<String> = sources.iter().flat_map(|source| functions(source)).collect();
    let mut missing = Vec::new();
    for (fault, told) in rows {
        let named: Vec<&str> = told.split('`').skip(1).step_by(2).filter(is_test).collect();
        if named.is_empty() {
            missing.push(format!("{fault}: names no test"));
        }
        let gone = named.into_iter().filter(|name| !tests.contains(*name));
        missing.extend(gone.map(|name| format!("{fault}: there is no {name}")));
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// The table's rows: a fault, and what is told of its tests.
fn rows(page: &str) -> Vec<(&str, &str)> {
    let section = page.split_once(SECTION).expect("the section").1;
    let section = section.split("\n## ").next().unwrap_or_default();
    let cells = section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    // The first two lines are the head.
    cells.filter_map(|row| row.split_once(" | ")).skip(2).collect()
}

/// Names of tests are sentences; commands and files are in backticks as well.
fn is_test(name: &&str) -> bool {
    name.matches('_').count() >= 2
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The source files below a folder.
fn collect(folder: &Path, into: &mut Vec<String>) {
    let entries = fs::read_dir(folder).expect("a folder");
    let paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    for path in paths {
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            into.push(fs::read_to_string(&path).expect("a source file"));
        }
    }
}

/// The names of the functions of a source file; cases that macros make into tests are such as well.
fn functions(source: &str) -> Vec<String> {
    let begin = |line: &str| {
        let rest = line.split_once("fn ")?.1;
        let end = rest.find(['(', '<'])?;
        Some(rest[..end].to_owned())
    };
    source.lines().filter_map(begin).collect()
}
