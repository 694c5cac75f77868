//! Bad usage, bad configuration, and what the program says about it.

use crate::rdev::{Place, write};

#[test]
fn bad_usage_ends_with_64_and_prints_no_data() {
    let place = Place::new();
    for args in [
        &[][..],
        &["nonsense"],
        &["up", "--listen", "nowhere"],
        &["backup"],
        &["restore"],
        &["project", "create"],
        &["project", "create", "../x"],
        &["project", "show", "con"],
        &["project", "list", "--limit", "0"],
        &["build", "start", "site"],
        &["build", "start", "site", "x", "--branch", "a..b"],
        &["build", "start", "site", "x", "--agent", "hal"],
        &["build", "start", "site", "x", "--git-url", "ext::sh"],
        &["build", "show"],
        &["key", "create", "ci"],
        &["key", "create", "ci", "--scope", "everything"],
        &["worker", "drain", "a/b"],
        &["quickstart", "--agent", "hal"],
        &["domain", "add"],
        &["domain", "add", "site", "www", "--type", "MX", "--target", "a.example.com"],
        &["domain", "add", "site", "www", "--type", "A"],
        &["domain", "remove", "site", "a/../b"],
        &["pipeline", "show", "site", "seven"],
        &["pipeline", "show", "site", "7", "--commit", "abc"],
        &["project", "create", "site", "--follow"],
        &["project", "create", "site", "--prompt", "x", "--git-url", "https://a.b/c"],
        &["--url", "ftp://x", "project", "list"],
    ] {
        let place = &place;
        let ran = place.run(args);
        assert_eq!((ran.status, ran.stdout.as_str()), (64, ""), "{args:?}: {}", ran.stderr);
        assert!(!ran.stderr.is_empty(), "{args:?} says nothing");
    }
    assert!(!place.data().exists(), "bad usage made the data folder");
}

#[test]
fn a_key_is_never_an_argument_and_a_url_never_holds_one() {
    let place = Place::new().with("RDEV_KEY", "rdev_x");
    assert_eq!(place.run(&["project", "list", "--key", "rdev_secret"]).status, 64);
    let ran = place.run(&["project", "list", "--url", "http://me:secret@127.0.0.1:1"]);
    assert_eq!(ran.status, 64);
    assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
}

#[test]
fn help_and_version_are_no_failure() {
    let place = Place::new();
    let help = place.run(&["--help"]);
    assert_eq!(help.status, 0);
    for command in ["up", "quickstart", "project", "build", "work", "worker", "key"] {
        assert!(help.stdout.contains(command), "{command}: {}", help.stdout);
    }
    assert!(!help.stdout.contains("sample-agent"), "{}", help.stdout);
    let version = place.run(&["--version"]);
    assert_eq!(version.status, 0);
    assert_eq!(version.stdout.trim(), concat!("rdev ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_bad_configuration_ends_with_78_and_names_the_file_and_the_key() {
    let place = Place::new();
    let file = place.data().join("rdev.toml");
    for (text, key) in [
        ("[git]\nnmae = 'secret'\n", "nmae"),
        ("[runner]\nslots = 'secret'\n", "runner.slots"),
        ("default_agent = 'secret'\n", "default_agent"),
        ("[agents.hal]\nprogram = 'secret'\n", "agents"),
        ("[git]\nname = secret\n", "TOML"),
        ("[api]\nurl_policy = 'secret'\n", "url_policy"),
    ] {
        write(&file, text);
        for args in [&["up", "--listen", "127.0.0.1:0"][..], &["quickstart"], &["project", "list"]]
        {
            let ran = place.run(args);
            assert_eq!(ran.status, 78, "{args:?} with {text:?}: {}", ran.stderr);
            let told = ran.stderr.contains(key) && ran.stderr.contains("rdev.toml");
            assert!(told, "{text:?}: {}", ran.stderr);
            assert!(!ran.stderr.contains("secret"), "{text:?}: {}", ran.stderr);
        }
    }
}

#[test]
fn a_bad_variable_ends_with_78_and_a_named_file_must_be_there() {
    let place = Place::new().with("RDEV_RUNNER__SLTOS", "2");
    let ran = place.run(&["up", "--listen", "127.0.0.1:0"]);
    assert_eq!(ran.status, 78, "{}", ran.stderr);
    assert!(ran.stderr.contains("sltos") && ran.stderr.contains("environment"), "{}", ran.stderr);

    let ran = Place::new().run(&["up", "--config", "missing.toml"]);
    assert_eq!(ran.status, 78, "{}", ran.stderr);
    assert!(ran.stderr.contains("missing.toml"), "{}", ran.stderr);
}

#[test]
fn without_a_server_the_client_says_what_to_start() {
    let place = Place::new();
    let ran = place.run(&["project", "list"]);
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains("rdev up"), "{}", ran.stderr);

    // Port 9 of loopback: nobody listens there.
    let place = Place::new().with("RDEV_URL", "http://127.0.0.1:9").with("RDEV_KEY", "rdev_x");
    let ran = place.run(&["project", "list"]);
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains("cannot reach http://127.0.0.1:9"), "{}", ran.stderr);

    let place = Place::new().with("RDEV_URL", "http://127.0.0.1:9");
    let ran = place.run(&["project", "list"]);
    assert_eq!(ran.status, 64);
    assert!(ran.stderr.contains("RDEV_KEY"), "{}", ran.stderr);
}

#[test]
fn without_a_home_the_data_folder_must_be_named() {
    let place = Place::new();
    let mut command = place.command(&["up"]);
    command.env_remove("RDEV_DATA_DIR").env("HOME", "");
    let ran = crate::rdev::ran(command.output().expect("the program starts"));
    assert_eq!(ran.status, 78, "{}", ran.stderr);
    assert!(ran.stderr.contains("--data-dir"), "{}", ran.stderr);
}
