//! Templates: whole, filled, and without anything of the machine that they were made on.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use http::StatusCode;
use rdev_functions::endpoints::templates::{self, TemplateView};
use rdev_functions::services::templates::{ALL, Template, Values};
use rdev_functions::{List, Settings, serve};
use serde_json::Value;

use crate::support::Fixture;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../templates")
}

fn values(zone: bool, registry: bool) -> Values {
    Values {
        project: "true".to_owned(),
        zone: zone.then(|| "example.com".to_owned()),
        registry: registry.then(|| "registry.example.com:5000/acme".to_owned()),
        description: "Bread & \"buns\"\nfor <everybody>: \u{5c}o/ 100 % # *fresh*".to_owned(),
        default_branch: "main".to_owned(),
    }
}

/// A template's files for an installation, by path.
fn seed(template: Template, values: &Values) -> Vec<(String, String)> {
    let file = |file: rdev_domain::ports::SeedFile| {
        (file.path, String::from_utf8(file.content).expect("UTF-8"))
    };
    template.seed(values).into_iter().map(file).collect()
}

#[test]
fn every_template_is_in_the_program_as_it_is_in_its_folder() {
    // What a build leaves, when somebody tries a template in its place.
    let made = ["node_modules", "dist", ".astro"];
    let mut names = BTreeSet::new();
    for folder in fs::read_dir(folder()).expect("the folder") {
        let folder = folder.expect("a template").path();
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        let template = Template::named(&name)
            .unwrap_or_else(|| panic!("templates/{name} is not in the program"));
        let mut files = Vec::new();
        let mut open = vec![folder.clone()];
        while let Some(next) = open.pop() {
            for entry in fs::read_dir(&next).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    let made = made.iter().any(|name| path.ends_with(name));
                    open.extend((!made).then_some(path));
                } else {
                    let inside = path.strip_prefix(&folder).expect("below it");
                    files.push(inside.to_string_lossy().into_owned());
                    let own = template.files.iter().find(|(name, _)| Path::new(name) == inside);
                    let content = fs::read(&path).expect("a file");
                    assert!(own.is_some_and(|(_, own)| *own == content), "{}", path.display());
                }
            }
        }
        assert_eq!(files.len(), template.files.len(), "templates/{name} and the program differ");
        names.insert(name);
    }
    let known: BTreeSet<String> = ALL.iter().map(|template| template.name.to_owned()).collect();
    assert!(known.contains("empty") && names.len() == known.len() - 1, "{names:?}");
}

#[test]
fn no_placeholder_and_no_section_remains_in_any_installation() {
    for template in ALL {
        let all = template.files.len();
        for (zone, registry) in [(false, false), (false, true), (true, false), (true, true)] {
            let values = values(zone, registry);
            let files = seed(template, &values);
            for (path, text) in &files {
                for odd in ["{{", "}}"] {
                    assert!(!text.contains(odd), "{}: {path}: {text}", template.name);
                }
                assert!(text.ends_with('\n'), "{path} ends with a line");
                assert!(!text.contains("\n\n\n"), "{path} has no holes: {text}");
            }
            // What is about the cluster needs both; what is about an image needs the registry.
            let has = |path: &str| files.iter().any(|(name, _)| name == path);
            let expected = (template.name != "empty", zone && registry);
            assert_eq!(
                (has("AGENTS.md"), has("deploy/ingress.yaml")),
                (expected.0, expected.0 && expected.1)
            );
            assert!(files.len() <= all && (files.len() == all) == (zone && registry || all == 0));
        }
    }
}

#[test]
fn sections_are_closed_by_their_own_names_and_do_not_nest() {
    for template in ALL {
        for (path, content) in template.files {
            let text = str::from_utf8(content).expect("UTF-8");
            let mut open: Option<&str> = None;
            for line in text.lines() {
                if let Some((_, rest)) = line.split_once("{{#") {
                    let (name, _) = rest.split_once("}}").expect("an end");
                    assert!(["zone", "registry", "deploy"].contains(&name), "{path}: {line}");
                    assert_eq!(open.replace(name), None, "{path}: {line}");
                } else if let Some((_, rest)) = line.split_once("{{/") {
                    let (name, _) = rest.split_once("}}").expect("an end");
                    assert_eq!(open.take(), Some(name), "{path}: {line}");
                }
            }
            assert_eq!(open, None, "{path}");
        }
    }
}

#[test]
fn a_static_page_without_a_registry_is_a_page_and_nothing_else() {
    let template = Template::named("static").expect("it is there");
    let files: Vec<String> =
        seed(template, &values(true, false)).into_iter().map(|(path, _)| path).collect();
    assert_eq!(files, ["AGENTS.md", "CLAUDE.md", "README.md", "index.html", "style.css"]);
}

#[test]
fn what_both_templates_have_is_the_same_in_both() {
    let all = values(true, true);
    let [page, astro] = ["static", "astro-landing"]
        .map(|name| seed(Template::named(name).expect("it is there"), &all));
    for path in
        ["ci/notify.mjs", "deploy/deployment.yaml", "deploy/ingress.yaml", "deploy/service.yaml"]
    {
        let of = |files: &[(String, String)]| {
            let found = files.iter().find(|(name, _)| name == path);
            found.map(|(_, text)| text.clone()).expect("it is there")
        };
        assert_eq!(of(&page), of(&astro), "{path}");
    }
}

#[test]
fn the_words_of_the_page_are_json_whatever_the_description_says() {
    let template = Template::named("astro-landing").expect("it is there");
    let values = values(true, true);
    let text = |path: &str| {
        let found = seed(template, &values).into_iter().find(|(name, _)| name == path);
        found.expect("it is there").1
    };
    let site: Value = serde_json::from_str(&text("src/content/site.json")).expect("JSON");
    assert_eq!(site["title"], "true");
    assert_eq!(site["lead"], values.description.replace('\n', " "));
    assert!(text("README.md").contains("for \\<everybody\\>: \\\\o/ 100 % \\# \\*fresh\\*"));
}

#[test]
fn the_packages_are_pinned_by_digest_and_name_no_registry() {
    let template = Template::named("astro-landing").expect("it is there");
    let json = |path: &str| -> Value {
        let files = seed(template, &values(false, false));
        let (_, text) = files.into_iter().find(|(name, _)| name == path).expect("it is there");
        serde_json::from_str(&text).expect("JSON")
    };
    let (package, lock) = (json("package.json"), json("package-lock.json"));
    for (name, version) in package["dependencies"].as_object().expect("dependencies") {
        let version = version.as_str().expect("a text");
        assert!(version.bytes().all(|b| b.is_ascii_digit() || b == b'.'), "{name} {version}");
    }
    assert_eq!(lock["lockfileVersion"], 3);
    let packages = lock["packages"].as_object().expect("packages");
    assert!(packages.len() > 100);
    assert_eq!(packages[""]["dependencies"], package["dependencies"]);
    for (path, locked) in packages.iter().filter(|(path, _)| !path.is_empty()) {
        let digest = locked["integrity"].as_str().unwrap_or_default();
        assert!(digest.starts_with("sha512-"), "{path} has a digest");
        // `npm ci` takes them from the registry of whoever runs it.
        assert_eq!(locked.get("resolved"), None, "{path}");
    }
    assert!(!lock.to_string().contains("://registry"));
}

#[test]
fn every_script_of_the_page_runs_without_telemetry() {
    let template = Template::named("astro-landing").expect("it is there");
    let (_, package) = template.files.iter().find(|(path, _)| *path == "package.json").expect("it");
    let package: Value = serde_json::from_slice(package).expect("JSON");
    for (name, script) in package["scripts"].as_object().expect("scripts") {
        let script = script.as_str().expect("a text");
        assert!(script.starts_with("ASTRO_TELEMETRY_DISABLED=1 astro "), "{name}: {script}");
    }
}

#[tokio::test]
async fn templates_are_listed_by_name_with_those_that_are_configured() {
    let mut fixture = Fixture::with(|context| {
        let repositories = [("shop", "acme/shop"), ("static", "acme/page")]
            .map(|(name, repository)| (name.to_owned(), repository.to_owned()));
        context.settings = Settings {
            template_repositories: repositories.into(),
            rate_limit_per_s: 0,
            ..Settings::default()
        };
    })
    .await;
    fixture.app = serve(templates::router(), fixture.context.clone());
    let reply = fixture.get("/templates").await;
    assert_eq!(reply.status, StatusCode::OK);
    let list: List<TemplateView> = serde_json::from_slice(&reply.body).expect("a page");
    let names: Vec<&str> = list.items.iter().map(|template| template.name.as_str()).collect();
    assert_eq!(names, ["astro-landing", "empty", "shop", "static"]);
    assert!(list.items[0].files.contains(&"src/content/site.json".to_owned()));
    assert_eq!(list.items[3].description, "A copy of the repository acme/page.");
    assert!(list.items[3].files.is_empty() && list.next_cursor.is_none());

    let page = fixture.get("/templates?limit=3").await;
    let page: List<TemplateView> = serde_json::from_slice(&page.body).expect("a page");
    let cursor = page.next_cursor.expect("there is more");
    let rest = fixture.get(&format!("/templates?limit=3&cursor={cursor}")).await;
    let rest: List<TemplateView> = serde_json::from_slice(&rest.body).expect("a page");
    assert_eq!(rest.items, list.items[3..]);
}
