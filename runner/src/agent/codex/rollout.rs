//! Codex's session files: one JSON line per event.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The tokens of one or more answers of the model.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tokens {
    /// Sent, with the cached ones.
    pub(super) input: u64,
    /// Of these, read from the cache.
    pub(super) cached: u64,
    /// Written by the model.
    pub(super) output: u64,
}

impl Tokens {
    /// `{input_tokens, cached_input_tokens, output_tokens}`; what is missing counts as 0.
    pub(super) fn of(usage: &Value) -> Self {
        let count = |key: &str| usage[key].as_u64().unwrap_or_default();
        Self {
            input: count("input_tokens"),
            cached: count("cached_input_tokens"),
            output: count("output_tokens"),
        }
    }
}

/// The records that are added to the files below a folder.
#[derive(Debug, Default)]
pub(super) struct Rollouts {
    folder: Option<PathBuf>,
    read_to: HashMap<PathBuf, u64>,
    /// The number of answers of the model.
    pub(super) answers: u64,
    /// Their tokens.
    pub(super) used: Tokens,
}

impl Rollouts {
    /// Skips everything that exists now: it is of an earlier run.
    pub(super) fn from_now(folder: Option<PathBuf>) -> Self {
        let files = folder.iter().flat_map(|folder| files(folder, 0));
        let read_to = files.filter_map(|file| Some((fs::metadata(&file).ok()?.len(), file)));
        let read_to = read_to.map(|(length, file)| (file, length)).collect();
        Self { folder, read_to, ..Self::default() }
    }

    /// Counts the records that were added. A record that cannot be read now is read the next time.
    pub(super) fn read_new(&mut self) {
        for path in self.folder.iter().flat_map(|folder| files(folder, 0)).collect::<Vec<_>>() {
            let from = self.read_to.get(&path).copied().unwrap_or_default();
            let to = self.read_file(&path, from).unwrap_or(from);
            self.read_to.insert(path, to);
        }
    }

    fn read_file(&mut self, path: &Path, from: u64) -> std::io::Result<u64> {
        let mut file = File::open(path)?;
        if file.metadata()?.len() <= from {
            return Ok(from);
        }
        file.seek(SeekFrom::Start(from))?;
        let (mut reader, mut line, mut at) = (BufReader::new(file), Vec::new(), from);
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line)?;
            // The line is not complete yet; it is read the next time.
            if line.pop() != Some(b'\n') {
                return Ok(at);
            }
            at += read as u64;
            self.record(&line);
        }
    }

    fn record(&mut self, line: &[u8]) {
        // Most lines are long and not needed: skip them without parsing.
        let named = b"\"token_usage_record\"";
        if !line.windows(named.len()).take(200).any(|window| window == named) {
            return;
        }
        let Ok(record) = serde_json::from_slice::<Value>(line) else { return };
        if record["type"] == "token_usage_record" {
            let tokens = Tokens::of(&record["payload"]["usage"]);
            self.answers += 1;
            self.used.input += tokens.input;
            self.used.cached += tokens.cached;
            self.used.output += tokens.output;
        }
    }
}

/// `<folder>/<year>/<month>/<day>/rollout-….jsonl`.
fn files(folder: &Path, depth: u8) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let path = entry.path();
        if is_dir && depth < 3 {
            found.extend(files(&path, depth + 1));
        } else if !is_dir && path.extension().is_some_and(|extension| extension == "jsonl") {
            found.push(path);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;

    use super::*;

    #[test]
    fn only_whole_lines_that_were_added_are_counted() {
        let home = tempfile::tempdir().expect("a folder");
        let day = home.path().join("2026/11/24");
        fs::create_dir_all(&day).expect("a folder");
        let record = r#"{"type":"token_usage_record","payload":{"usage":{"input_tokens":10,"cached_input_tokens":3,"output_tokens":2}}}"#;
        let write = |name: &str, text: &str| {
            let file = OpenOptions::new().append(true).create(true).open(day.join(name));
            file.expect("a file").write_all(text.as_bytes()).expect("written");
        };
        write("rollout-a.jsonl", &format!("{record}\n"));
        let mut rollouts = Rollouts::from_now(Some(home.path().to_owned()));
        rollouts.read_new();
        assert_eq!(rollouts.answers, 0);
        write("rollout-a.jsonl", &format!("{{\"type\":\"other\"}}\n{record}\n{}", &record[..50]));
        write("rollout-b.jsonl", &format!("{record}\n"));
        rollouts.read_new();
        assert_eq!((rollouts.answers, rollouts.used.input, rollouts.used.output), (2, 20, 4));
        write("rollout-a.jsonl", &format!("{}\n", &record[50..]));
        rollouts.read_new();
        assert_eq!((rollouts.answers, rollouts.used.cached), (3, 9));
    }
}
