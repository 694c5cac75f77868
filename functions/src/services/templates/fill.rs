//! Filling templates: placeholders get values, and sections whose condition is false are removed.
//!
//! `{{project}}`, `{{zone}}`, `{{registry}}`, `{{registry_host}}`, `{{description}}` and
//! `{{default_branch}}` are replaced by values. A section lies between a line with `{{#name}}` and
//! one with `{{/name}}`, which may be a comment of the file's language; sections do not nest. It
//! stays when the installation has what it is named after: `zone`, `registry`, or `deploy` for
//! both. A file that becomes empty is omitted.

use std::borrow::Cow;

use rdev_domain::Invalid;

/// The values of a template's placeholders.
#[derive(Debug, Clone)]
pub struct Values {
    /// `{{project}}`: a project's id.
    pub project: String,
    /// `{{zone}}`: a host name.
    pub zone: Option<String>,
    /// `{{registry}}`: see [`check_registry`]. Its host is `{{registry_host}}`.
    pub registry: Option<String>,
    /// `{{description}}`: any text; in JSON and Markdown only.
    pub description: String,
    /// `{{default_branch}}`: a pattern that the branch matches.
    pub default_branch: String,
}

/// Checks the registry that images are pushed to: `<host>[:<port>][/<path>]`, as
/// `registry.example.com/acme`, at most 200 bytes. The image's name is this, `/` and the project's
/// id.
///
/// # Errors
/// The rule that was broken.
pub fn check_registry(text: &str) -> Result<(), Invalid> {
    let invalid = |why: &str| Err(Invalid::new("registry", why));
    let plain = |part: &str| {
        let inner = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-');
        let end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        part.starts_with(end) && part.ends_with(end) && part.chars().all(inner)
    };
    if text.is_empty() || text.len() > 200 {
        return invalid("must have 1 to 200 bytes");
    }
    let mut parts = text.split('/');
    let place = parts.next().unwrap_or_default();
    let (host, port) = match place.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (place, None),
    };
    // Without one of these, container tools read the host as the first part of a path.
    let is_host = host == "localhost" || host.contains('.') || port.is_some();
    if !plain(host) || host.contains('_') || !is_host {
        return invalid("must begin with a host name, without https://");
    }
    if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
        return invalid("must have a port between 1 and 65535");
    }
    if !parts.all(plain) {
        return invalid("must have a path of a-z, 0-9 and inner '.', '_' and '-'");
    }
    Ok(())
}

/// A file of a template for a project; `None` when it becomes empty.
pub(super) fn filled(path: &str, content: &[u8], values: &Values) -> Option<Vec<u8>> {
    let Ok(text) = str::from_utf8(content) else { return Some(content.to_vec()) };
    let language = Language::of(path);
    let mut filled = String::with_capacity(text.len());
    let (mut shown, mut just_dropped) = (true, false);
    for line in text.split_inclusive('\n') {
        if let Some(name) = named(line, "{{#") {
            shown = has(name, values);
        } else if named(line, "{{/").is_some() {
            just_dropped = !shown;
            shown = true;
        } else if shown {
            // The blank line after a section goes with it.
            if !(just_dropped && line.trim().is_empty()) {
                fill(line, language, values, &mut filled);
            }
            just_dropped = false;
        }
    }
    let nothing = filled.trim().is_empty() && !text.trim().is_empty();
    (!nothing).then(|| filled.into_bytes())
}

/// The name after `begin` and before `}}`.
fn named<'a>(line: &'a str, begin: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(begin)?;
    rest.split_once("}}").map(|(name, _)| name)
}

fn has(section: &str, values: &Values) -> bool {
    match section {
        "zone" => values.zone.is_some(),
        "registry" => values.registry.is_some(),
        "deploy" => values.zone.is_some() && values.registry.is_some(),
        _ => false,
    }
}

/// Fills one line. Placeholders in values are not filled: a description may contain `{{zone}}`.
fn fill(line: &str, language: Language, values: &Values, filled: &mut String) {
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("{{") {
        filled.push_str(before);
        let known = after
            .split_once("}}")
            .and_then(|(name, rest)| Some((value(name, language, values)?, rest)));
        rest = if let Some((value, rest)) = known {
            filled.push_str(&value);
            rest
        } else {
            filled.push_str("{{");
            after
        };
    }
    filled.push_str(rest);
}

fn value<'a>(name: &str, language: Language, values: &'a Values) -> Option<Cow<'a, str>> {
    let registry = values.registry.as_deref();
    match name {
        "project" => Some(values.project.as_str().into()),
        "zone" => values.zone.as_deref().map(Cow::from),
        "registry" => registry.map(Cow::from),
        "registry_host" => registry.and_then(|text| text.split('/').next()).map(Cow::from),
        "description" => {
            let text = values.description.trim();
            let text = match text {
                "" => format!("The page of {}.", values.project),
                text => text.split_whitespace().collect::<Vec<_>>().join(" "),
            };
            language.escaped(&text).map(Cow::from)
        }
        "default_branch" if language == Language::Yaml => {
            Some(pattern(&values.default_branch).into())
        }
        _ => None,
    }
}

/// The branch as a glob pattern that is harmless in YAML: what would need quotes, or means
/// something in patterns or to the CI's own substitution, is one character, whichever.
fn pattern(branch: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    branch.chars().map(|c| if plain(c) { c } else { '?' }).collect()
}

/// The language of a file, which decides how text in it is escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    Json,
    Yaml,
    Markdown,
    Other,
}

impl Language {
    fn of(path: &str) -> Self {
        match path.rsplit_once('.').map(|(_, extension)| extension) {
            Some("json") => Self::Json,
            Some("yaml") => Self::Yaml,
            Some("md") => Self::Markdown,
            _ => Self::Other,
        }
    }

    /// Text that is safe in a string or in prose; `None` in languages that allow no free text.
    fn escaped(self, text: &str) -> Option<String> {
        match self {
            Self::Json => {
                let quoted = serde_json::to_string(text).expect("a text can be written as JSON");
                Some(quoted[1..quoted.len() - 1].to_owned())
            }
            Self::Markdown => {
                let mut escaped = String::with_capacity(text.len());
                for c in text.chars() {
                    if matches!(c, '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '#' | '|') {
                        escaped.push('\\');
                    }
                    escaped.push(c);
                }
                Some(escaped)
            }
            Self::Yaml | Self::Other => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(zone: Option<&str>, registry: Option<&str>) -> Values {
        Values {
            project: "bakery".to_owned(),
            zone: zone.map(str::to_owned),
            registry: registry.map(str::to_owned),
            description: "Bread & \"buns\" {{zone}}\nby <b>us</b>".to_owned(),
            default_branch: "main".to_owned(),
        }
    }

    fn text(path: &str, content: &str, values: &Values) -> Option<String> {
        let bytes = filled(path, content.as_bytes(), values)?;
        Some(String::from_utf8(bytes).expect("UTF-8"))
    }

    #[test]
    fn placeholders_in_values_are_not_filled() {
        let all = values(Some("example.com"), Some("registry.example.com:5000/acme"));
        for (path, content, expected) in [
            ("a.mjs", "x {{project}}.{{zone}} {{", "x bakery.example.com {{"),
            ("a.yaml", "{{registry}}", "registry.example.com:5000/acme"),
            ("a.yaml", "{{registry_host}}", "registry.example.com:5000"),
            ("a.json", "\"{{description}}\"", r#""Bread & \"buns\" {{zone}} by <b>us</b>""#),
            ("a.md", "{{description}}", r#"Bread & "buns" {{zone}} by \<b\>us\</b\>"#),
            ("a.mjs", "{{description}} {{default_branch}}", "{{description}} {{default_branch}}"),
            ("a.yaml", "{{description}} {{other}}", "{{description}} {{other}}"),
        ] {
            assert_eq!(text(path, content, &all).as_deref(), Some(expected), "{content}");
        }
        let blank = Values { description: " \n".to_owned(), ..all };
        let text = text("a.md", "{{description}}", &blank);
        assert_eq!(text.as_deref(), Some("The page of bakery."));
    }

    #[test]
    fn a_section_stays_when_its_condition_is_true() {
        let content = "a\n\n# {{#zone}}\nz {{zone}}\n# {{/zone}}\n\n<!-- {{#deploy}} -->\nd\n\
                       <!-- {{/deploy}} -->\n\nb\n";
        let (zone, registry) = (Some("example.com"), Some("registry.example.com"));
        for (values, expected) in [
            (values(zone, registry), "a\n\nz example.com\n\nd\n\nb\n"),
            (values(zone, None), "a\n\nz example.com\n\nb\n"),
            (values(None, registry), "a\n\nb\n"),
            (values(None, None), "a\n\nb\n"),
        ] {
            assert_eq!(text("a.md", content, &values).as_deref(), Some(expected), "{values:?}");
        }
    }

    #[test]
    fn a_file_that_becomes_empty_is_omitted() {
        let content = "# {{#registry}}\nx\n# {{/registry}}\n";
        assert_eq!(text("a.yaml", content, &values(None, None)), None);
        let there = text("a.yaml", content, &values(None, Some("registry.example.com")));
        assert_eq!(there.as_deref(), Some("x\n"));
        assert_eq!(text("a.yaml", "", &values(None, None)).as_deref(), Some(""));
        assert_eq!(
            filled("a", b"\xff{{project}}", &values(None, None)).as_deref(),
            Some(b"\xff{{project}}".as_slice())
        );
    }

    #[test]
    fn a_branch_becomes_a_pattern_that_it_matches() {
        for (branch, expected) in [
            ("main", "main"),
            ("a/b-1.x_y", "a/b-1.x_y"),
            ("a\"${b}'", "a???b??"),
            ("\u{e9}", "\u{e9}"),
        ] {
            assert_eq!(pattern(branch), expected);
        }
    }

    #[test]
    fn a_registry_is_a_host_with_a_path() {
        for good in
            ["registry.example.com", "registry.example.com/acme/web", "localhost:5000", "a:1/b_c"]
        {
            assert!(check_registry(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "acme",
            "acme/web",
            "https://registry.example.com",
            "a.b/",
            "a.b//c",
            "a.b/C",
            "a.b:0",
            "a.b:x",
            "a.b:65536",
            "a.b/c:1",
            "a.b/\"x",
            "-a.b",
            "a.b/-c",
            "a_b.c",
            "a.b/c d",
        ] {
            assert!(check_registry(bad).is_err(), "{bad}");
        }
    }
}
