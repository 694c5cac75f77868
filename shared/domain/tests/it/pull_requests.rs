//! What a pull request says: by examples, and of whatever strangers write.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use rdev_domain::foreign_text::{code_block, inert, inline_code, one_line};
use rdev_domain::pull_request::{Description, MAX_BODY_BYTES, MAX_TITLE_CHARS, title};
use rdev_domain::result::{
    AgentRun, BuildResult, ChangeStatus, FileChange, Outcome, Usage, VerifyRun, Warning,
};
use rdev_domain::spec::AgentName;

use super::sample::{result, task};

const PAGE: &str = "https://rdev.example.com/projects/site/builds/1";

fn full() -> BuildResult {
    BuildResult {
        files_changed: vec![
            FileChange {
                path: "src/a`b.rs".to_owned(),
                status: ChangeStatus::Added,
                additions: 12,
                deletions: 0,
            },
            FileChange {
                path: "@types/node.d.ts".to_owned(),
                status: ChangeStatus::Modified,
                additions: 1,
                deletions: 2,
            },
        ],
        files_changed_total: 1003,
        agent: Some(AgentRun {
            provider: AgentName::ClaudeCode,
            version: Some("2.0".to_owned()),
            model: Some("a-model".to_owned()),
            session_id: None,
        }),
        durations_ms: BTreeMap::new(),
        summary: "I fixed #7, @ann.".to_owned(),
        verify: vec![VerifyRun {
            command: "cargo test".to_owned(),
            exit_code: Some(0),
            duration_ms: 1234,
            passed: true,
        }],
        warnings: vec![Warning { code: "push_not_atomic".to_owned(), message: "so".to_owned() }],
        ..result(Outcome::Delivered)
    }
}

fn body_of(prompt: &str, result: &BuildResult) -> String {
    let usage = Usage {
        input_tokens: 10,
        output_tokens: 2,
        cache_tokens: 3,
        cost_usd: Some(0.5),
        turns: 4,
    };
    let now = super::sample::NOW;
    let (task, page) = (task(7, now).id, Some(PAGE));
    Description { task, attempt: 2, page, prompt, result, usage }.body()
}

#[test]
fn a_body_tells_what_was_asked_made_and_spent() {
    let task = task(7, super::sample::NOW).id;
    let expected = format!(
        "Made by [build {task}](<{PAGE}>).

- Agent: `claude-code`, version `2.0`, model `a-model`
- Used: 10 tokens in, 2 out, 3 cached, 4 turns, 0.5000 USD
- Attempt: 2

**Verified**

- `cargo test`: passed, exit status 0, 1.2 s

**Changed files**: 1003

- ``src/a`b.rs`` +12 −0 (new)
- `@~types/node.d.ts` +1 −2
- and 1001 more

**Warnings**

- `push_not_atomic`: `so`

<details><summary>The prompt</summary>

````text
Make it blue, @~ann

```
closes #~1
```
````

</details>

<details><summary>What the agent said last</summary>

```text
I fixed #~7, @~ann.
```

</details>

Task {task}, attempt 2"
    );
    let body = body_of("Make it blue, @ann\n\n```\ncloses #1\n```\n", &full());
    assert_eq!(body, expected.replace('~', "\u{2060}"));
}

#[test]
fn a_body_says_what_there_is_not() {
    let bare = result(Outcome::Delivered);
    let now = super::sample::NOW;
    let (usage, task) = (Usage::default(), task(7, now).id);
    let about = Description { task, attempt: 1, page: None, prompt: "x", result: &bare, usage };
    let body = about.body();
    assert!(body.starts_with(&format!("Made by build {task}.\n")), "{body}");
    for said in ["none ran in this attempt", "cost not known", "no command ran", "files**: 0"] {
        assert!(body.contains(said), "{said}: {body}");
    }
    assert!(!body.contains("Warnings") && !body.contains("said last"), "{body}");
    let odd = Description { page: Some("https://x/>\n\n# y"), ..about };
    assert_eq!(odd.body(), body, "an address that is none is not shown");
    let killed =
        VerifyRun { command: "x".to_owned(), exit_code: None, duration_ms: 999, passed: false };
    let result = BuildResult { verify: vec![killed], ..bare.clone() };
    let body = Description { result: &result, ..about }.body();
    assert!(body.contains("- `x`: failed, ended by a signal, 999 ms"), "{body}");
}

#[test]
fn a_title_is_the_first_line_that_says_something() {
    for (text, expected) in [
        ("Make it blue", "Make it blue"),
        ("\n \n# Make it blue ##\n\nPlease.", "Make it blue"),
        ("---\n```rust\n> - ## Why\n", "Why"),
        ("<!-- hidden -->\r* one\r* two", "one"),
        ("#hashtag", "#hashtag"),
        ("-rf is an option", "-rf is an option"),
        ("Fix #12 for @ann", "Fix #~12 for @~ann"),
        ("WIP: it", "W~IP: it"),
        ("[wip] it", "[~wip] it"),
        ("Draft: it", "D~raft: it"),
        ("w\u{131}p: it", "w~\u{131}p: it"),
        ("[skip ci] it", "[~skip ci] it"),
        ("a\tb\u{7}c", "a b\u{fffd}c"),
        ("", "Build T"),
        ("# \n***\n", "Build T"),
    ] {
        assert_eq!(title(text, "Build T"), expected.replace('~', "\u{2060}"), "{text:?}");
    }
    let long = title(&"ä".repeat(73), "T");
    assert_eq!((long.chars().count(), long.ends_with("ä…")), (72, true));
    assert_eq!(title(&"ä".repeat(72), "T"), "ä".repeat(72));
    assert!(title(&format!("WIP:{}", "x".repeat(68)), "T").chars().count() <= 72);
}

#[test]
fn a_body_has_a_limit_whatever_is_in_it() {
    let most = |text: &str| {
        let file = FileChange {
            path: text.to_owned(),
            status: ChangeStatus::Renamed,
            additions: 999_999,
            deletions: 999_999,
        };
        let run = VerifyRun {
            command: text.to_owned(),
            exit_code: Some(-999_999),
            duration_ms: 999_999_999,
            passed: false,
        };
        let warning = Warning { code: text.to_owned(), message: text.to_owned() };
        BuildResult {
            files_changed: vec![file; 1000],
            files_changed_total: 999_999,
            agent: Some(AgentRun {
                provider: AgentName::ClaudeCode,
                version: Some(text.to_owned()),
                model: Some(text.to_owned()),
                session_id: None,
            }),
            summary: text.to_owned(),
            verify: vec![run; 20],
            warnings: vec![warning; 100],
            ..result(Outcome::Delivered)
        }
    };
    for piece in ["x", "🦀", "@a", "`", "` ", "#1\n", "```\n", "abcdef0 ", "<", "\u{202e}"] {
        let body = body_of(&piece.repeat(20_000), &most(&piece.repeat(7_000)));
        assert!(body.len() <= MAX_BODY_BYTES, "{piece:?}: {}", body.len());
        assert_eq!(active(&body), None, "{piece:?}");
        assert_eq!(stray(&body), None, "{piece:?}");
        assert!(body.contains("more bytes)\n`"), "{piece:?}: what is left out is told");
    }
}

/// What a forge acts on in a text that it takes for no Markdown, but for the link to the page.
fn active(text: &str) -> Option<String> {
    let text = text.replacen(PAGE, "", 1);
    let chars: Vec<char> = text.chars().collect();
    let word = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    for (at, pair) in chars.windows(2).enumerate() {
        let found = match pair {
            ['@', next] => word(next) || *next == '-',
            ['#' | '!', next] => next.is_ascii_digit(),
            _ => false,
        };
        if found {
            return Some(chars[at..].iter().take(20).collect());
        }
    }
    let lower = text.to_lowercase();
    for skips in ["[skip ci]", "[ci skip]", "[no ci]", "[skip actions]", "[actions skip]"] {
        if lower.contains(skips) {
            return Some(skips.to_owned());
        }
    }
    for link in ["://", "www."] {
        if lower.contains(link) {
            return Some(link.to_owned());
        }
    }
    let mut words = text.split(|c| !word(&c));
    let commit = words.find(|word| word.len() >= 7 && word.bytes().all(|b| b.is_ascii_hexdigit()));
    commit.map(str::to_owned)
}

/// A line of Markdown that is not the body's own, or has more than code of strangers.
fn stray(body: &str) -> Option<String> {
    let mut fence: Option<usize> = None;
    for line in body.split('\n') {
        let ticks = line.len() - line.trim_start_matches('`').len();
        match fence {
            Some(open) if ticks >= open && line.trim_end().len() == ticks => fence = None,
            Some(_) => {}
            None if ticks >= 3 => fence = Some(ticks),
            None if line.starts_with("- ") => {
                let rest = without_code(line);
                if rest.contains(['`', '<', '>', '[', ']', '@', '#', '&', '|', '\\', '*']) {
                    return Some(line.to_owned());
                }
            }
            None => {
                let own = ["", "</details>", "<details><summary>The prompt</summary>"];
                let begins = ["Made by ", "**", "Task ", "<details><summary>What the agent"];
                if !own.contains(&line) && !begins.iter().any(|begin| line.starts_with(begin)) {
                    return Some(line.to_owned());
                }
            }
        }
    }
    fence.map(|open| format!("a fence of {open} is open at the end"))
}

/// A line without its code, as CommonMark finds it.
fn without_code(line: &str) -> String {
    let (mut rest, mut out) = (line, String::new());
    while let Some(at) = rest.find('`') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let ticks = rest.len() - rest.trim_start_matches('`').len();
        let mut from = ticks;
        loop {
            let Some(next) = rest[from..].find('`') else {
                out.push_str(rest);
                return out;
            };
            let begin = from + next;
            let run = rest[begin..].len() - rest[begin..].trim_start_matches('`').len();
            from = begin + run;
            if run == ticks {
                break;
            }
        }
        rest = &rest[from..];
    }
    out.push_str(rest);
    out
}

/// Text as strangers write it to see what happens.
fn hostile() -> impl Strategy<Value = String> {
    let pieces = vec![
        "@",
        "ann",
        "/",
        "team",
        "#",
        "1",
        "!",
        "closes ",
        "fixes: ",
        "o/r",
        "https:",
        "//",
        "www",
        ".",
        "[",
        "]",
        "skip ci",
        "no ci",
        "ci skip",
        "(",
        ")",
        "`",
        "``",
        "```",
        "~~~",
        "<!--",
        "-->",
        "<details>",
        "</details>",
        "<img src=x>",
        "\n",
        "\r",
        "\r\n",
        "\n\n",
        " ",
        "\t",
        "abcdef0",
        "123",
        "deadbeef",
        "WIP:",
        "wip",
        "-",
        "> ",
        "# ",
        "|",
        "\\",
        "&amp;",
        "\u{0}",
        "\u{202e}",
        "\u{2060}",
        "\u{2028}",
        "\u{85}",
        "ä",
        "🦀",
        "_",
        "*",
        "Rdev-Lineage: x",
    ];
    let piece = prop_oneof![
        8 => proptest::sample::select(pieces).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn whatever_is_written_does_nothing(text in hostile()) {
        let once = inert(&text);
        prop_assert_eq!(active(&once), None);
        prop_assert_eq!(&inert(&once), &once);
        for shown in [one_line(&text, 30), inline_code(&text, 30), code_block(&text, 50)] {
            prop_assert_eq!(active(&shown), None);
        }
        prop_assert!(!once.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\t')));
    }

    #[test]
    fn whatever_is_asked_has_a_title(text in hostile()) {
        let title = title(&text, "Build T");
        prop_assert!((1..=MAX_TITLE_CHARS).contains(&title.chars().count()), "{title:?}");
        prop_assert!(!title.contains(char::is_control) && title.trim() == title, "{title:?}");
        prop_assert_eq!(active(&title), None);
        let upper = title.to_uppercase();
        prop_assert!(!upper.starts_with("WIP:") && !upper.starts_with("[WIP]"), "{title:?}");
    }

    #[test]
    fn whatever_is_asked_and_answered_stays_in_its_place(
        texts in (hostile(), hostile(), hostile(), hostile(), hostile()),
    ) {
        let (prompt, summary, path, command, message) = texts;
        let mut result = full();
        result.summary = summary;
        result.files_changed[0].path = path;
        result.verify[0].command = command;
        result.warnings[0].message = message;
        let body = body_of(&prompt, &result);
        prop_assert_eq!(active(&body), None);
        prop_assert_eq!(stray(&body), None);
        prop_assert!(body.len() <= MAX_BODY_BYTES);
        // Nobody else writes the trailers, should this be a commit's message.
        let last = body.rsplit("\n\n").next().unwrap_or_default();
        prop_assert!(last.starts_with("Task ") && last.lines().count() == 1, "{last:?}");
    }
}
