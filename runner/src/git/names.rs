//! Names and links that must not be written to a checkout.

use std::collections::HashMap;

/// The longest chain of links.
const MAX_LINKS: u32 = 40;

/// Whether some file system treats `name` (one part of a path) as `.git`: by case, as an NTFS
/// short name or stream, or with characters that HFS ignores.
pub(super) fn is_dot_git(name: &[u8]) -> bool {
    // On Windows a backslash separates as well.
    name.split(|byte| *byte == b'\\').any(|part| ntfs_dot_git(part) || hfs_dot_git(part))
}

fn ntfs_dot_git(name: &[u8]) -> bool {
    let base = name.split(|byte| *byte == b':').next().unwrap_or_default();
    let end = base.iter().rposition(|byte| !matches!(byte, b' ' | b'.')).map_or(0, |last| last + 1);
    let base = &base[..end];
    base.eq_ignore_ascii_case(b".git") || base.eq_ignore_ascii_case(b"git~1")
}

fn hfs_dot_git(name: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(name) else { return false };
    let ignored = |c: &char| matches!(*c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}');
    name.chars().filter(|c| !ignored(c)).map(|c| c.to_ascii_lowercase()).eq(".git".chars())
}

/// Why a repository's tree may not have an entry of this name; `None` when it may.
pub(super) fn bad_entry(name: &[u8]) -> Option<&'static str> {
    match name {
        b"" | b"." | b".." => Some("is not a valid file name"),
        _ if name.contains(&b'/') || name.contains(&0) => Some("is not a valid file name"),
        _ if is_dot_git(name) => Some("is git's own"),
        _ => None,
    }
}

/// Whether a link leaves the tree by its own text, wherever else links lead.
pub(super) fn leaves_by_itself(path: &[u8], target: &[u8]) -> bool {
    resolve(path, target, &HashMap::new()).is_none()
}

/// Whether following the link at `path` to `target` leaves the tree, or never
/// ends. `links` are all links of the tree, by path.
pub(super) fn leaves_tree(path: &[u8], target: &[u8], links: &HashMap<Vec<u8>, Vec<u8>>) -> bool {
    resolve(path, target, links).is_none()
}

/// Where the link leads, as a path in the tree; `None` when it leaves it.
fn resolve(path: &[u8], target: &[u8], links: &HashMap<Vec<u8>, Vec<u8>>) -> Option<Vec<u8>> {
    let mut at: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    at.pop();
    let mut to_go: Vec<&[u8]> = parts_reversed(target)?;
    let mut followed = 0;
    while let Some(part) = to_go.pop() {
        match part {
            b"" | b"." => continue,
            b".." => {
                at.pop()?;
                continue;
            }
            _ => at.push(part),
        }
        if let Some(next) = links.get(at.join(&b'/').as_slice()) {
            followed += 1;
            if followed > MAX_LINKS {
                return None;
            }
            at.pop();
            to_go.extend(parts_reversed(next)?);
        }
    }
    Some(at.join(&b'/'))
}

/// The parts of a relative path, last one first; `None` when it is absolute.
fn parts_reversed(target: &[u8]) -> Option<Vec<&[u8]>> {
    (!target.starts_with(b"/")).then(|| target.rsplit(|byte| *byte == b'/').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_dot_git_is_known() {
        for bad in [
            &b".git"[..],
            b".GIT",
            b".Git",
            b"git~1",
            b"GIT~1",
            b".git ",
            b".git.",
            b".git. .",
            b".git::$INDEX_ALLOCATION",
            b".git:x",
            b"git~1::$DATA",
            b".git\\hooks",
            b"a\\.git",
            ".g\u{200c}it".as_bytes(),
            "\u{feff}.gi\u{202e}t".as_bytes(),
        ] {
            assert!(is_dot_git(bad), "{}", String::from_utf8_lossy(bad));
        }
        for good in
            [&b".gitignore"[..], b".github", b"git", b"git~2", b"a.git", b".gi", b"", b"\xff.git"]
        {
            assert!(!is_dot_git(good), "{}", String::from_utf8_lossy(good));
        }
    }

    #[test]
    fn a_link_is_followed_through_other_links() {
        let links = HashMap::from([
            (b"a/up".to_vec(), b"..".to_vec()),
            (b"loop".to_vec(), b"loop".to_vec()),
            (b"in".to_vec(), b"a/b".to_vec()),
        ]);
        for (path, target) in
            [("x", "y"), ("a/x", "../y"), ("x", "in/../c"), ("x", "a/up/y"), ("x", ".")]
        {
            assert!(!leaves_tree(path.as_bytes(), target.as_bytes(), &links), "{path} -> {target}");
        }
        for (path, target) in [
            ("x", "/etc"),
            ("x", ".."),
            ("a/x", "../../y"),
            ("x", "a/up/../y"),
            ("x", "a/x/../../.."),
            ("x", "loop/y"),
        ] {
            assert!(leaves_tree(path.as_bytes(), target.as_bytes(), &links), "{path} -> {target}");
        }
        assert!(!leaves_by_itself(b"x", b"a/up/../y"));
    }
}
