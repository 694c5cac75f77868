//! Text of strangers on a page of the forge: prompts, names of files, commands, what agents say.
//! It is read there as it is, and does nothing.
//!
//! A forge acts on what it finds in a text: it tells people that are mentioned, closes issues, links
//! commits, skips pipelines. Code in Markdown hides a text only from the page. Gitea makes title and
//! body of a pull request the message of the commit that squashes it, and searches messages of
//! commits as plain text: what stands in a code block closes an issue then. So [`inert`] breaks each
//! such word up with a character that nobody sees, and the Markdown comes on top of that.

/// Takes no room and is a part of no word: U+2060 WORD JOINER.
const JOINER: char = '\u{2060}';

/// Stands for a character that is not shown: U+FFFD REPLACEMENT CHARACTER.
const UNSHOWN: char = '\u{fffd}';

/// The longest run of backticks that is left whole, so that what encloses it stays short.
const MOST_TICKS: usize = 20;

/// The shortest name of a commit that a forge links has one character more.
const SHORT_OF_COMMIT: usize = 6;

/// What begins the words in brackets that skip pipelines: `[skip ci]`, `[no ci]`, `[ci skip]`, ….
const SKIPPING: [&str; 4] = ["skip", "ci", "no ci", "actions"];

/// The text, in which no forge finds anything to act on. Mentions, references to issues and commits,
/// URLs and the words that skip pipelines are broken up; control characters, and those that
/// change the direction of text or hide it, are replaced. Lines end with `\n`.
///
/// The result of the result is the same.
pub fn inert(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    // Whether a word in ASCII goes on, and how long the run of backticks is.
    let (mut within_word, mut ticks) = (false, 0);
    while let Some(c) = rest.chars().next() {
        if is_of_word(c) && !within_word {
            let end = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            if is_of_commit(name) {
                push_broken(&mut out, name);
                (rest, within_word, ticks) = (after, true, 0);
                continue;
            }
        }
        rest = &rest[c.len_utf8()..];
        within_word = is_of_word(c);
        ticks = if c == '`' { ticks + 1 } else { 0 };
        match c {
            '\r' => {
                if !rest.starts_with('\n') {
                    out.push('\n');
                }
                continue;
            }
            '`' if ticks > MOST_TICKS => {
                out.push(JOINER);
                ticks = 1;
            }
            '.' if ends_with_www(&out) => out.push(JOINER),
            _ => {}
        }
        out.push(if is_shown(c) { c } else { UNSHOWN });
        let next = rest.chars().next();
        let acts = match c {
            '@' => next.is_some_and(|c| is_of_word(c) || c == '-'),
            '#' | '!' => next.is_some_and(|c| c.is_ascii_digit()),
            ':' => rest.starts_with("//"),
            '[' => SKIPPING.iter().any(|word| begins_with(rest, word)),
            _ => false,
        };
        if acts {
            out.push(JOINER);
        }
    }
    out
}

/// The text in one line of at most so many characters; what is cut off is shown by `…`.
pub fn one_line(text: &str, most: usize) -> String {
    let text = inert(text);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(most) {
        None => line,
        Some(_) => {
            let end = line.char_indices().nth(most.saturating_sub(1)).map_or(0, |(at, _)| at);
            format!("{}…", cut(&line, end).trim_end())
        }
    }
}

/// The text in one line, as code within a line of Markdown.
pub fn inline_code(text: &str, most: usize) -> String {
    let line = one_line(text, most);
    if line.is_empty() {
        return "(empty)".to_owned();
    }
    let ticks = "`".repeat(longest_run(&line) + 1);
    let at_edge = line.starts_with('`') || line.ends_with('`');
    let blank = if at_edge { " " } else { "" };
    format!("{ticks}{blank}{line}{blank}{ticks}")
}

/// The text as a block of code in Markdown, with at most so many bytes of it.
pub fn code_block(text: &str, most_bytes: usize) -> String {
    let text = inert(text);
    let text = text.trim_end();
    let shown = if text.len() > most_bytes { cut(text, most_bytes) } else { text };
    let fence = "`".repeat(longest_run(shown).max(2) + 1);
    let left = text.len() - shown.len();
    let note = if left > 0 { format!("\n… ({left} more bytes)") } else { String::new() };
    format!("{fence}text\n{shown}{note}\n{fence}")
}

/// The beginning of a text that is inert, which is inert too: a word whose beginning looks like the
/// name of a commit is cut shorter.
fn cut(text: &str, end: usize) -> &str {
    let shown = &text[..text.floor_char_boundary(end)];
    let word = shown.len() - shown.trim_end_matches(is_of_word).len();
    let name = &shown[shown.len() - word..];
    match is_of_commit(name) {
        true => &shown[..shown.len() - word + SHORT_OF_COMMIT],
        false => shown,
    }
}

/// Whether a word may be the name of a commit.
fn is_of_commit(word: &str) -> bool {
    word.len() > SHORT_OF_COMMIT && word.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Writes the name of a commit in pieces of which none is one.
fn push_broken(out: &mut String, name: &str) {
    for (at, c) in name.char_indices() {
        if at > 0 && at % SHORT_OF_COMMIT == 0 {
            out.push(JOINER);
        }
        out.push(c);
    }
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn ends_with_www(text: &str) -> bool {
    text.as_bytes().last_chunk::<3>().is_some_and(|end| end.eq_ignore_ascii_case(b"www"))
}

fn begins_with(text: &str, word: &str) -> bool {
    let beginning = text.as_bytes().get(..word.len());
    beginning.is_some_and(|beginning| beginning.eq_ignore_ascii_case(word.as_bytes()))
}

/// Whether people see a character for what it is.
fn is_shown(c: char) -> bool {
    let hidden = matches!(c,
        // What changes the direction of text.
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        // Ends of lines that not every program knows.
        | '\u{2028}' | '\u{2029}'
        // What takes no room, but for the joiners that scripts and emoji need.
        | '\u{ad}' | '\u{200b}' | '\u{feff}' | '\u{180e}' | '\u{2061}'..='\u{2065}'
        | '\u{206a}'..='\u{206f}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    matches!(c, '\n' | '\t') || !(c.is_control() || hidden)
}

fn longest_run(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_forge_acts_on_is_broken_up_and_reads_the_same() {
        for (text, expected) in [
            ("ask @ann, @acme/team and a@b.example", "ask @~ann, @~acme/team and a@~b.example"),
            ("closes #1, fixes a/b#3: resolves !12", "closes #~1, fixes a/b#~3: resolves !~12"),
            ("see https://git.example/a/b/issues/4", "see https:~//git.example/a/b/issues/4"),
            ("at www.example.com or WWW.x", "at www~.example.com or WWW~.x"),
            ("[skip ci] [CI SKIP] [No CI] [x]", "[~skip ci] [~CI SKIP] [~No CI] [x]"),
            ("1234567 abcdef0123456 DEADBEEF", "123456~7 abcdef~012345~6 DEADBE~EF"),
            ("<!-- x --> ![a](b)", "<!-- x --> ![a](b)"),
        ] {
            let expected = expected.replace('~', "\u{2060}");
            assert_eq!(inert(text), expected);
            assert_eq!(inert(text).replace('\u{2060}', ""), text);
        }
    }

    #[test]
    fn what_no_forge_acts_on_stays_as_it_is() {
        for text in [
            "",
            "plain words, \"quoted\", 日本語 and 🦀 in\nlines\twith tabs",
            "# a heading, a lonely @ and a != b",
            "feedback 123456 0x1234567 abcdef_1 effects-faced",
            "ww.x www http:/x a:b [link]",
            "e\u{301}, \u{915}\u{94d}\u{200d}\u{937} and 👩\u{200d}🚀",
        ] {
            assert_eq!(inert(text), text);
        }
    }

    #[test]
    fn what_is_not_seen_is_replaced_and_lines_end_in_one_way() {
        assert_eq!(inert("a\r\nb\rc\nd"), "a\nb\nc\nd");
        assert_eq!(inert("\r```\r\n"), "\n```\n");
        for hidden in
            "\0\u{7}\u{1b}\u{7f}\u{85}\u{202e}\u{2066}\u{200f}\u{feff}\u{200b}\u{e0041}".chars()
        {
            assert_eq!(inert(&format!("a{hidden}b")), "a\u{fffd}b", "{hidden:?}");
        }
    }

    #[test]
    fn a_line_is_cut_where_a_character_ends_and_says_so() {
        assert_eq!(one_line("  a \n\n b\tc ", 5), "a b c");
        assert_eq!(one_line("a b c", 4), "a b…");
        assert_eq!(one_line("ääää", 3), "ää…");
        assert_eq!(one_line("ääää", 4), "ääää");
        assert_eq!(one_line("ab", 1), "…");
        assert_eq!(one_line("x deadbeefci", 11), "x deadbe…", "no name of a commit is left");
        assert_eq!(one_line(" \u{a0}\n", 9), "");
    }

    #[test]
    fn code_within_a_line_ends_where_the_text_does() {
        for (text, expected) in [
            ("a b", "`a b`"),
            ("a`b", "``a`b``"),
            ("`a``", "``` `a`` ```"),
            ("a\n\n- b", "`a - b`"),
            ("", "(empty)"),
            ("\n", "(empty)"),
        ] {
            assert_eq!(inline_code(text, 50), expected);
        }
    }

    #[test]
    fn a_block_of_code_ends_where_the_text_does_and_says_what_is_left_out() {
        assert_eq!(code_block("a\n", 10), "```text\na\n```");
        assert_eq!(code_block("a\n```\nb", 10), "````text\na\n```\nb\n````");
        assert_eq!(code_block("aäb", 2), "```text\na\n… (3 more bytes)\n```");
        assert_eq!(code_block("", 2), "```text\n\n```");
        let long = code_block(&"`".repeat(1000), 5000);
        assert!(long.starts_with(&format!("{}text\n", "`".repeat(MOST_TICKS + 1))), "{long}");
        assert!(!long.contains(&"`".repeat(MOST_TICKS + 2)), "{long}");
    }
}
