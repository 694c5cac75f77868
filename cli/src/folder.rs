//! `rdev.json` in the data folder: the server's address and the local admin key.
//!
//! Only the owner can read the file (mode 0600). When the server ends, it removes `pid` but keeps
//! the file, so that the key is the same at the next start.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use rdev_domain::secret::Secret;
use serde::{Deserialize, Serialize};

/// The file's name below the data folder.
const NAME: &str = "rdev.json";

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Local {
    /// The API's address, such as `http://127.0.0.1:7777`.
    pub(crate) url: String,
    /// A key with the scope `admin`.
    pub(crate) admin_key: Secret,
    /// The process of the server; absent when it has ended.
    #[serde(default)]
    pub(crate) pid: Option<u32>,
}

#[derive(Serialize)]
struct Written<'a> {
    url: &'a str,
    admin_key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
}

impl Local {
    /// Reads the file below `folder`; `None` if it does not exist.
    ///
    /// # Errors
    /// When the file cannot be read or does not have the format of [`Local::write`].
    pub(crate) fn read(folder: &Path) -> anyhow::Result<Option<Self>> {
        let path = folder.join(NAME);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        // The parser's message could contain a part of the key.
        match serde_json::from_str(&text) {
            Ok(local) => Ok(Some(local)),
            Err(_) => {
                anyhow::bail!("{} is damaged; remove it and start `rdev up` again", path.display())
            }
        }
    }

    /// Writes the file below `folder`, whole or not at all.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let path = folder.join(NAME);
        let context = || format!("cannot write {}", path.display());
        let written = Written { url: &self.url, admin_key: self.admin_key.expose(), pid: self.pid };
        let mut text = serde_json::to_string_pretty(&written).with_context(context)?;
        text.push('\n');
        replace(&path, text.as_bytes()).with_context(context)
    }
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension(format!("json.{}", std::process::id()));
    let written = (|| {
        // A killed process with the same id may have left a file with another mode.
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    })();
    if written.is_err() {
        drop(fs::remove_file(&fresh));
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_file_reads_back_is_readable_by_its_owner_only_and_is_replaced_as_a_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(Local::read(folder.path()).expect("no file"), None);
        let local = Local { url: "http://x".into(), admin_key: Secret::new("k"), pid: Some(7) };
        let path = folder.path().join(NAME);
        fs::write(&path, "{}").expect("an old file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("a mode");
        local.write(folder.path()).expect("written");
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        assert_eq!(Local::read(folder.path()).expect("read"), Some(local.clone()));
        let ended = Local { pid: None, ..local };
        ended.write(folder.path()).expect("written");
        assert_eq!(Local::read(folder.path()).expect("read"), Some(ended));
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }

    #[test]
    fn a_broken_file_is_refused_without_repeating_it() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(NAME), r#"{"admin_key": 1234567890}"#).expect("a file");
        let error = Local::read(folder.path()).expect_err("refused").to_string();
        assert!(error.contains(NAME) && !error.contains("1234567890"), "{error}");
    }
}
