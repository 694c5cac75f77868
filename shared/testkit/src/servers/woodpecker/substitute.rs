//! `${…}` in a definition: Woodpecker replaces it in the text, before anything is parsed.

use std::collections::BTreeMap;

/// Replaces `${NAME}`, `${NAME:from}`, `${NAME:from:length}` and `${NAME:-default}`; what is not
/// known is empty. `$$` is a `$` that is left to the shell, and so is `$NAME`.
pub(super) fn substitute(text: &str, known: &BTreeMap<String, String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let end = after.find('}').ok_or("`${` without `}`")?;
            out.push_str(&value(&after[..end], known)?);
            rest = &after[end + 1..];
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn value(inside: &str, known: &BTreeMap<String, String>) -> Result<String, String> {
    let unknown =
        || format!("this server does not know `${{{inside}}}`; write `$${{…}}` for the shell");
    let end = inside.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inside.len());
    let (name, rest) = inside.split_at(end);
    if name.is_empty() {
        return Err(unknown());
    }
    let value = known.get(name).map_or("", String::as_str);
    if rest.is_empty() {
        return Ok(value.to_owned());
    }
    let rest = rest.strip_prefix(':').ok_or_else(unknown)?;
    if let Some(default) = rest.strip_prefix(['-', '=']) {
        return Ok(if value.is_empty() { default } else { value }.to_owned());
    }
    let number = |text: &str| text.parse::<usize>().map_err(|_| unknown());
    let (from, length) = match rest.split_once(':') {
        Some((from, length)) => (number(from)?, number(length)?),
        None => (number(rest)?, usize::MAX),
    };
    Ok(value.chars().skip(from).take(length).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_braces_are_replaced_and_the_shells_own_are_left() {
        let known = BTreeMap::from([("CI_COMMIT_SHA".to_owned(), "0123456789".to_owned())]);
        let replaced = |text| substitute(text, &known);
        assert_eq!(replaced("a ${CI_COMMIT_SHA:0:4} b"), Ok("a 0123 b".to_owned()));
        assert_eq!(replaced("${CI_COMMIT_SHA:8}${NONE}|"), Ok("89|".to_owned()));
        assert_eq!(replaced("${NONE:-x}"), Ok("x".to_owned()));
        assert_eq!(replaced("$HOME $${HOME} $(id)"), Ok("$HOME ${HOME} $(id)".to_owned()));
        assert!(replaced("${CI_COMMIT_SHA##*/}").is_err());
        assert!(replaced("${CI_COMMIT_SHA").is_err());
    }
}
