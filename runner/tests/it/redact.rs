//! No secret gets through, in whatever form.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rdev_domain::secret::Secret;
use rdev_runner::redact::Redactor;
use serde_json::json;

const SECRET: &str = "sk-ant/Zm9v+\"quoted\"?~>";

fn redactor() -> Redactor {
    Redactor::new([Secret::new(SECRET)])
}

#[test]
fn a_secret_is_replaced_everywhere() {
    let text = format!("{SECRET} a {SECRET}{SECRET}");
    assert_eq!(redactor().redact(&text), "[secret] a [secret][secret]");
    assert_eq!(redactor().redact("nothing here"), "nothing here");
}

#[test]
fn a_secret_within_longer_base64_is_found_at_every_place() {
    let pieces = |text: &str| -> Vec<String> {
        let inner = &text[4..text.len() - 4];
        (0..inner.len() - 12).map(|at| inner[at..at + 12].to_owned()).collect()
    };
    for before in ["", "x", "xy", "xyz", "user:"] {
        for after in ["", "1", "22", "333"] {
            let plain = format!("{before}{SECRET}{after}");
            for encoded in [STANDARD.encode(&plain), URL_SAFE_NO_PAD.encode(&plain)] {
                let clean = redactor().redact(&format!("Basic {encoded};")).into_owned();
                assert!(clean.contains("[secret]"), "{before:?} {after:?}: {clean}");
                let alone = STANDARD.encode(SECRET);
                for piece in pieces(&alone) {
                    assert!(!clean.contains(&piece), "{before:?} {after:?}: {clean}");
                }
            }
        }
    }
}

#[test]
fn a_secret_in_an_address_or_in_json_text_is_found() {
    let in_url = "https://u:sk-ant%2FZm9v%2B%22quoted%22%3F~%3E@host/";
    assert_eq!(redactor().redact(in_url), "https://u:[secret]@host/");
    assert_eq!(redactor().redact("sk-ant%2fZm9v%2b%22quoted%22%3f~%3e"), "[secret]");
    let line = json!({"key": SECRET}).to_string();
    assert_eq!(redactor().redact(&line), r#"{"key":"[secret]"}"#);
}

#[test]
fn json_values_are_cleaned_in_depth_and_in_their_keys() {
    let mut value = json!({"a": [SECRET, {"b": format!("x {SECRET}")}], SECRET: 1, "n": 5});
    redactor().redact_json(&mut value);
    assert_eq!(value, json!({"a": ["[secret]", {"b": "x [secret]"}], "[secret]": 1, "n": 5}));
}

#[test]
fn a_secret_that_contains_another_is_replaced_whole_and_short_ones_stay() {
    let secrets = ["abcdef", "abcdefghij", "abc", " padded-secret\n"].map(Secret::new);
    let redactor = Redactor::new(secrets);
    assert_eq!(
        redactor.redact("abcdefghij abcdef abc padded-secret"),
        "[secret] [secret] abc [secret]"
    );
}

#[test]
fn of_secrets_that_overlap_no_part_remains() {
    let redactor = Redactor::new(["abcdefgh", "ghijklmnop", "nopqrstu"].map(Secret::new));
    assert_eq!(redactor.redact("<abcdefghijklmnopqrstu>"), "<[secret]>");
    assert_eq!(redactor.redact("<ghijklmnopqrstu>"), "<[secret]>");
    assert_eq!(redactor.redact("<abcdefgh><nopqrstu>"), "<[secret]><[secret]>");
    assert_eq!(redactor.redact("abcdefghabcdefgh"), "[secret][secret]", "adjacent secrets");
    assert_eq!(Redactor::new([Secret::new("ababab")]).redact("xababababx"), "x[secret]x");
}

#[test]
fn secrets_that_are_added_later_are_found_beside_the_first_ones() {
    let redactor = Redactor::default();
    assert_eq!(redactor.redact("first-one second-one"), "first-one second-one");
    redactor.add([Secret::new("first-one")]);
    redactor.add([Secret::new("second-one")]);
    assert_eq!(redactor.redact("first-one second-one"), "[secret] [secret]");
}

#[test]
fn text_around_a_secret_stays_whatever_its_characters_are() {
    let redactor = Redactor::new([Secret::new("pässwörd")]);
    assert_eq!(redactor.redact("…é pässwörd é…"), "…é [secret] é…");
}

#[test]
fn the_debug_form_of_a_redactor_contains_no_secret() {
    assert!(!format!("{:?}", redactor()).contains("sk-ant"));
}
