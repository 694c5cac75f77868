//! The dependency table of ARCHITECTURE.md, checked against `cargo metadata`
//! and, where a crate may be named in some files only, against the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

/// Adapters: what stands behind the ports.
const ADAPTERS: [&str; 3] = ["rdev-embedded", "rdev-aws", "rdev-platform"];

/// One row of the table.
struct Row {
    name: &'static str,
    /// What the crate may depend on.
    may: &'static [&'static str],
    /// What it may depend on only behind a feature that is off by default.
    behind_feature: &'static [&'static str],
    /// What it may name only in its programs, below this path.
    adapters_only_in: Option<&'static str>,
    /// What its tests may depend on besides.
    tests: &'static [&'static str],
}

const ANY: &[&str] = &[
    "rdev-domain",
    "rdev-configuration",
    "rdev-removal",
    "rdev-embedded",
    "rdev-aws",
    "rdev-platform",
    "rdev-testkit",
    "rdev-functions",
    "rdev-runner",
    "rdev",
];

const fn row(
    name: &'static str,
    may: &'static [&'static str],
    tests: &'static [&'static str],
) -> Row {
    Row { name, may, behind_feature: &[], adapters_only_in: None, tests }
}

const DOMAIN_AND_ADAPTERS: &[&str] = &["rdev-domain", "rdev-embedded", "rdev-aws", "rdev-platform"];

/// The runner's program reads its configuration itself; Lambda functions do it another way.
const RUNNERS: &[&str] = &[
    "rdev-domain",
    "rdev-configuration",
    "rdev-removal",
    "rdev-embedded",
    "rdev-aws",
    "rdev-platform",
];

/// The table, with rows for crates that are made later.
const TABLE: &[Row] = &[
    row("rdev-domain", &[], &[]),
    row("rdev-configuration", &[], &[]),
    row("rdev-removal", &[], &[]),
    row("rdev-embedded", &["rdev-domain", "rdev-removal"], &["rdev-testkit"]),
    row("rdev-aws", &["rdev-domain"], &["rdev-testkit"]),
    row("rdev-platform", &["rdev-domain"], &["rdev-testkit"]),
    row("rdev-testkit", &["rdev-domain"], &[]),
    Row {
        adapters_only_in: Some("src/bin"),
        ..row("rdev-functions", DOMAIN_AND_ADAPTERS, &["rdev-embedded", "rdev-testkit"])
    },
    Row {
        adapters_only_in: Some("src/main.rs"),
        ..row("rdev-runner", RUNNERS, &["rdev-embedded", "rdev-testkit"])
    },
    Row { behind_feature: &["rdev-aws"], ..row("rdev", ANY, ANY) },
    row("rdev-lab", ANY, ANY),
];

/// What the domain must do without: it is pure.
const IMPURE: [&str; 14] = [
    "tokio",
    "tokio-util",
    "axum",
    "hyper",
    "http",
    "reqwest",
    "rusqlite",
    "git2",
    "rustix",
    "libc",
    "tracing",
    "metrics",
    "rand",
    "tempfile",
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize, Clone)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
    features: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize, Clone)]
struct Dependency {
    name: String,
    kind: Option<String>,
    optional: bool,
    path: Option<PathBuf>,
}

fn packages() -> Vec<Package> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata = serde_json::from_slice(&output.stdout).expect("metadata");
    metadata.packages
}

/// What a package breaks of the table.
fn broken(package: &Package) -> Vec<String> {
    let name = &package.name;
    let Some(row) = TABLE.iter().find(|row| row.name == name) else {
        return vec![format!("{name} has no row in the table; give it one")];
    };
    let mut broken = Vec::new();
    for dependency in package.dependencies.iter().filter(|d| d.path.is_some()) {
        let other = dependency.name.as_str();
        let test = dependency.kind.as_deref() == Some("dev");
        // Tests that start a package's own program have it built with every feature.
        let itself = other == name;
        if !(row.may.contains(&other) || test && (row.tests.contains(&other) || itself)) {
            let kind = if test { "tests of " } else { "" };
            broken.push(format!("{kind}{name} must not depend on {other}"));
        }
        if row.behind_feature.contains(&other) && !test {
            let default = enabled(package, "default");
            let on = default.iter().any(|f| f.strip_prefix("dep:").unwrap_or(f) == other);
            if !dependency.optional || on {
                broken.push(format!("{name} may have {other} only behind a feature that is off"));
            }
        }
        if let Some(place) = row.adapters_only_in
            && ADAPTERS.contains(&other)
            && !test
        {
            let root = package.manifest_path.parent().expect("a folder");
            for file in naming(&root.join("src"), &other.replace('-', "_")) {
                if !file.starts_with(root.join(place)) {
                    let file = file.display();
                    broken.push(format!("{name} may name {other} only in {place}, not in {file}"));
                }
            }
        }
    }
    broken
}

/// All features that `feature` switches on.
fn enabled(package: &Package, feature: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut open = vec![feature.to_owned()];
    while let Some(next) = open.pop() {
        if seen.insert(next.clone()) {
            open.extend(package.features.get(&next).into_iter().flatten().cloned());
        }
    }
    seen
}

/// The source files below `folder` that name a crate.
fn naming(folder: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(naming(&path, name));
        } else if path.extension().is_some_and(|end| end == "rs")
            && std::fs::read_to_string(&path).expect("a source").contains(name)
        {
            found.push(path);
        }
    }
    found
}

#[test]
fn crates_depend_only_on_what_the_table_allows() {
    let packages = packages();
    let names: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    for expected in
        ["rdev", "rdev-domain", "rdev-embedded", "rdev-functions", "rdev-runner", "rdev-testkit"]
    {
        assert!(names.contains(expected), "{expected} is not in the workspace: {names:?}");
    }
    let broken: Vec<String> = packages.iter().flat_map(broken).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_domain_is_pure() {
    let packages = packages();
    let domain =
        packages.iter().find(|package| package.name == "rdev-domain").expect("it is there");
    let normal = domain.dependencies.iter().filter(|dependency| dependency.kind.is_none());
    let impure: Vec<&str> =
        normal.map(|d| d.name.as_str()).filter(|name| IMPURE.contains(name)).collect();
    assert!(impure.is_empty(), "the domain does no I/O and has no runtime: {impure:?}");
}

#[test]
fn the_check_sees_what_breaks_the_table() {
    let dependency = |name: &str, kind: Option<&str>, optional| Dependency {
        name: name.to_owned(),
        kind: kind.map(str::to_owned),
        optional,
        path: Some(PathBuf::from("/x")),
    };
    let package = |name: &str, dependencies, features: &[(&str, &[&str])]| Package {
        name: name.to_owned(),
        manifest_path: Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"),
        dependencies,
        features: features
            .iter()
            .map(|(name, on)| ((*name).to_owned(), on.iter().map(|f| (*f).to_owned()).collect()))
            .collect(),
    };
    let count = |package: Package| broken(&package).len();
    assert_eq!(
        count(package("rdev-domain", vec![dependency("rdev-testkit", Some("dev"), false)], &[])),
        1
    );
    assert_eq!(
        count(package("rdev-runner", vec![dependency("rdev-functions", None, false)], &[])),
        1
    );
    assert_eq!(
        count(package("rdev-functions", vec![dependency("rdev-runner", Some("dev"), false)], &[])),
        1
    );
    assert_eq!(count(package("rdev-aws", vec![dependency("rdev-embedded", None, false)], &[])), 1);
    assert_eq!(count(package("rdev", vec![dependency("rdev-lab", Some("dev"), false)], &[])), 1);
    assert_eq!(count(package("rdev-other", vec![], &[])), 1, "a crate without a row");
    let aws = |optional| vec![dependency("rdev-aws", None, optional)];
    assert_eq!(count(package("rdev", aws(false), &[])), 1);
    assert_eq!(count(package("rdev", aws(true), &[("aws", &["dep:rdev-aws"])])), 0);
    let default: &[(&str, &[&str])] = &[("default", &["aws"]), ("aws", &["dep:rdev-aws"])];
    assert_eq!(count(package("rdev", aws(true), default)), 1);
    // This package's own sources name the adapter outside of `src/bin`.
    let functions = package("rdev-functions", vec![dependency("rdev-embedded", None, false)], &[]);
    assert!(count(functions) > 0);
}

#[test]
fn the_default_build_has_no_second_tls_and_no_aws_sdk() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["tree", "--locked", "-p", "rdev", "-e", "normal", "--prefix", "none"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).expect("text");
    assert!(tree.lines().any(|line| line.starts_with("rustls ")), "{tree}");
    let aws: Vec<&str> = tree
        .lines()
        .filter(|line| line.starts_with("aws-") || line.starts_with("lambda"))
        .collect();
    assert!(aws.is_empty(), "{aws:?}");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).expect("the lock file");
    for other in ["openssl-sys", "native-tls", "aws-lc-sys", "libssh2-sys"] {
        assert!(!lock.contains(&format!("name = \"{other}\"")), "{other} came in");
    }
}
