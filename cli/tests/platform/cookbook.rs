//! `docs/cookbook-landing-page.md`: its own commands, and what they print.
//!
//! The systems are the test servers. What Woodpecker's containers and a cluster would do, the
//! test does: on each push the CI server runs the template's own build on this machine, and an
//! HTTP server for all names serves what came out, as an ingress does. The names are those that
//! PowerDNS answers. `RDEV_BLESS=1` writes what was printed into the page.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{Html, IntoResponse, Response};
use rdev_testkit::servers::gitea;
use rdev_testkit::servers::woodpecker::{HostRunner, Push, Run};
use rdev_testkit::tools::needs::NotRun;
use rdev_testkit::tools::npm;
use rdev_testkit::tools::trial::Outcome;

use crate::platform::world::{HOOK_SECRET, World, ZONE};
use crate::support::PATIENCE;

rdev_testkit::trials! {
    async the_cookbooks_commands_lead_to_a_live_page;
}

const PAGE: &str = "docs/cookbook-landing-page.md";

/// Where names lead: this machine.
const INGRESS: &str = "127.0.0.1";

/// The agent: writes what stands between the prompt's quotation marks where `AGENTS.md` says
/// that the headline is.
const AGENT: &str = r#"
const fs = require('fs');
const words = process.env.RDEV_PROMPT.split('"')[1];
const file = 'src/content/site.json';
const before = fs.readFileSync(file, 'utf8');
fs.writeFileSync(file, before.replace(/"headline": "[^"]*"/, `"headline": "${words}"`));
console.log('The headline is: ' + words);
"#;

/// The folder with each name's page.
type Sites = Arc<Mutex<HashMap<String, PathBuf>>>;

async fn the_cookbooks_commands_lead_to_a_live_page() -> Outcome {
    let world = World::with(10, "")?;
    let cache = packages()?;
    configure(&world);
    let server = world.up().await;
    let sites = Sites::default();
    let ingress = serve(Arc::clone(&sites)).await;
    prepare_ci(&world, &server.url, &cache);
    let cluster = tokio::spawn(cluster(Arc::clone(&world.woodpecker), world.gitea.pushes(), sites));

    let page = root().join(PAGE);
    let text = fs::read_to_string(&page).expect("the cookbook");
    let (mut blessed, mut differ, mut ran) = (String::new(), Vec::new(), 0);
    for part in parts(&text) {
        let Part::Console(block) = part else {
            blessed.push_str(part.text());
            continue;
        };
        blessed.push_str("```console\n");
        for (command, expected) in steps(block) {
            let (status, printed) = run(&world, &server.url, ingress, &command);
            assert_eq!(status, 0, "$ {command}\n{printed}");
            ran += 1;
            let printed = settled(&world, &server.url, &printed);
            if settled(&world, &server.url, &expected) != printed {
                differ.push(format!("$ {command}\n{printed}\ninstead of\n{expected}"));
            }
            blessed.push_str(&format!("$ {command}\n{printed}"));
        }
        blessed.push_str("```\n");
    }
    assert!(ran >= 12, "only {ran} commands");

    // Whatever the page says: the name resolves, and shows the prompt's words.
    let shown = fetch(&world, ingress, &format!("landing-page.{ZONE}")).await;
    assert!(shown.contains("Fresh bread every morning"), "{shown}");
    let gone = world.powerdns.resolve(&format!("bakery.{ZONE}"), "A").answers;
    assert!(gone.is_empty(), "{gone:?}");
    assert!(!cluster.is_finished(), "the CI goes on");
    cluster.abort();
    if std::env::var_os("RDEV_BLESS").is_some() {
        fs::write(&page, blessed).expect("the cookbook");
    } else {
        assert!(differ.is_empty(), "{PAGE} is out of date:\n{}", differ.join("\n\n"));
    }
    Ok(())
}

/// npm's cache, with what the template's build needs.
fn packages() -> Result<PathBuf, NotRun> {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["package.json", "package-lock.json"] {
        let file = root().join("templates/astro-landing").join(name);
        let text = fs::read_to_string(file).expect("the template's file");
        fs::write(folder.path().join(name), text).expect("a copy");
    }
    npm::ci(folder.path())?;
    npm::cache()
}

/// The agent, and names that lead to this machine.
fn configure(world: &World) {
    let script = world.data.path().join("agent.cjs");
    fs::write(&script, AGENT).expect("the agent");
    let toml = world.data.path().join("rdev.toml");
    let text = fs::read_to_string(&toml).expect("the configuration");
    let (before, after) = text.split_once("[agents.command]").expect("an agent");
    let (_, after) = after.split_once("\n\n").expect("a section after it");
    let agent = format!("[agents.command]\nprogram = \"node\"\nargs = [{:?}]\n\n", script);
    let text = format!("{before}{agent}{after}")
        .replace(crate::platform::world::TARGET, INGRESS)
        .replace("[dns]", "[dns]\nallow_private_addresses = true");
    fs::write(&toml, text).expect("the configuration");
}

/// What an administrator sets up in Woodpecker: where pipelines tell rdev, and with which secret.
fn prepare_ci(world: &World, url: &str, cache: &Path) {
    let variable = |name: &str, value: String| (name.to_owned(), value);
    let env = vec![
        variable("npm_config_cache", cache.display().to_string()),
        variable("npm_config_prefer_offline", "true".to_owned()),
        variable("ASTRO_TELEMETRY_DISABLED", "1".to_owned()),
    ];
    world.woodpecker.allow_image("node:", HostRunner { env });
    world.woodpecker.set_environment("RDEV_HOOK_URL", &format!("{url}/hooks/woodpecker"));
    world.woodpecker.add_secret("rdev_hook_secret", HOOK_SECRET);
}

/// Runs the pipeline of every push, and rolls out what it has built.
async fn cluster(
    woodpecker: Arc<rdev_testkit::servers::woodpecker::WoodpeckerServer>,
    mut pushes: tokio::sync::broadcast::Receiver<gitea::Push>,
    sites: Sites,
) {
    while let Ok(push) = pushes.recv().await {
        let name = push.full_name.split('/').next_back().unwrap_or_default().to_owned();
        let known =
            woodpecker.repositories().into_iter().find(|one| one.full_name == push.full_name);
        let Some(known) = known.filter(|known| known.active && push.branch == "main") else {
            continue;
        };
        let push = Push {
            branch: push.branch,
            commit: push.commit,
            message: push.message,
            author: "rdev".to_owned(),
            git_dir: push.repository,
        };
        let Some(mut run): Option<Run> = woodpecker.push(known.forge_id, push) else { continue };
        // Built before the pipeline ends: what `deploy` would apply is there with its success.
        let (host, dist) = (format!("{name}.{ZONE}"), run.workspace().join("dist"));
        sites.lock().expect("unpoisoned").insert(host, dist);
        run.ended(PATIENCE).await;
    }
}

async fn serve(sites: Sites) -> SocketAddr {
    async fn page(State(sites): State<Sites>, headers: HeaderMap, uri: Uri) -> Response {
        let host = headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
        let host = host.split(':').next().unwrap_or_default();
        let folder = sites.lock().expect("unpoisoned").get(host).cloned();
        let path = uri.path().trim_start_matches('/');
        let path = if path.is_empty() { "index.html" } else { path };
        let file = folder.filter(|_| !path.contains("..")).map(|folder| folder.join(path));
        match file.and_then(|file| fs::read_to_string(file).ok()) {
            Some(text) => Html(text).into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        }
    }
    let listener = tokio::net::TcpListener::bind((INGRESS, 0)).await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let app = Router::new().fallback(page).with_state(sites);
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// A page by its name, which PowerDNS is asked for.
async fn fetch(world: &World, ingress: SocketAddr, name: &str) -> String {
    let found = world.powerdns.resolve(name, "A").answers;
    let ip = found.first().map(|found| found.content.clone()).expect("an address");
    let url = format!("http://{ip}:{}/", ingress.port());
    let client = crate::support::http_client();
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = client.get(&url).header("host", name).send().await.expect("an answer");
        if answer.status().is_success() {
            return answer.text().await.expect("a page");
        }
        assert!(Instant::now() < end, "{name} shows nothing");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Runs a command as a person does; its status, and what it printed to both outputs.
fn run(world: &World, url: &str, ingress: SocketAddr, command: &str) -> (i32, String) {
    let home = world.data.path();
    // Names are those that PowerDNS has; the port is not 80, which needs root.
    let hosts = ["landing-page", "bakery"].map(|name| format!("{name}.{ZONE}"));
    let resolved = hosts.iter().filter_map(|host| {
        let found = world.powerdns.resolve(host, "A").answers;
        let ip = &found.first()?.content;
        Some(format!("connect-to = \"{host}:80:{ip}:{}\"\n", ingress.port()))
    });
    fs::write(home.join(".curlrc"), resolved.collect::<String>()).expect("curl's settings");
    let own = Path::new(env!("CARGO_BIN_EXE_rdev")).parent().expect("a folder");
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("/bin/sh")
        .args(["-c", &format!("{{ {command}\n}} 2>&1")])
        .current_dir(home)
        .env_clear()
        .env("HOME", home)
        .env("PATH", format!("{}:{path}", own.display()))
        .env("RDEV_DATA_DIR", home)
        .env("RDEV_URL", url)
        .output()
        .expect("a shell");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().unwrap_or(-1), text)
}

/// A part of the page.
enum Part<'a> {
    Prose(&'a str),
    Console(&'a str),
}

impl<'a> Part<'a> {
    fn text(&self) -> &'a str {
        match self {
            Self::Prose(text) | Self::Console(text) => text,
        }
    }
}

fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("```console\n") {
        let (block, after) = after.split_once("```\n").expect("the block's end");
        parts.push(Part::Prose(before));
        parts.push(Part::Console(block));
        rest = after;
    }
    parts.push(Part::Prose(rest));
    parts
}

/// The commands of a block, each with what it printed.
fn steps(block: &str) -> Vec<(String, String)> {
    let mut steps: Vec<(String, String)> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push((command.to_owned(), String::new())),
            (None, Some((_, printed))) => {
                printed.push_str(line);
                printed.push('\n');
            }
            (None, None) => panic!("the block begins with no command: {line}"),
        }
    }
    steps
}

/// What differs from run to run, as it stands in the page.
fn settled(world: &World, url: &str, printed: &str) -> String {
    let mut text = printed
        .replace(&world.forge.url(), "https://git.example.com")
        .replace(&world.ci.url(), "https://ci.example.com")
        .replace(&world.woodpecker.url(), "https://ci.example.com")
        .replace(&world.dns.url(), "https://dns.example.com")
        .replace(url, "https://rdev.example.com")
        .replace(&world.data.path().display().to_string(), "/var/lib/rdev")
        .replace(INGRESS, "192.0.2.1");
    text = words(&text, |word| {
        let hex =
            |word: &str| word.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let ulid = word.len() == 26
            && word.starts_with("01")
            && word.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        if word.len() == 40 && hex(word) {
            return Some("4f9c1d2e8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d");
        }
        if ulid {
            return Some("01KARZ3NDEKTSV4RRFFQ69G5FA");
        }
        let time = word.len() == 24 && word.ends_with('Z') && word.as_bytes()[10] == b'T';
        time.then_some("2026-01-01T12:00:00.000Z")
    });
    text.lines()
        .map(|line| {
            // Whether the CI has begun or is done by then is a race.
            if line.starts_with("pipeline ") {
                return "pipeline  running, number 1 (push)\n".to_owned();
            }
            // And whether the forge has answered.
            if line.starts_with("shown     success") {
                return "shown     success, taken by the forge\n".to_owned();
            }
            format!("{}\n", measured(line.trim_end()))
        })
        .collect()
}

/// A line whose numbers before a unit are all the same, with one blank before them.
fn measured(line: &str) -> String {
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    for at in 1..words.len() {
        let unit = words[at].trim_end_matches(',');
        let number = words[at - 1].parse::<f64>().is_ok();
        if number && matches!(unit, "ms" | "s" | "MiB") {
            words[at] = words[at].replace(unit, if unit == "MiB" { "MiB" } else { "ms" });
            "120".clone_into(&mut words[at - 1]);
            let mut before = at - 1;
            while before > 1 && words[before - 1].is_empty() && words[before - 2].is_empty() {
                before -= 1;
                "\0".clone_into(&mut words[before]);
            }
        }
    }
    words.retain(|word| word != "\0");
    words.join(" ")
}

/// Replaces words, which are letters, digits and what stands in times.
fn words(text: &str, replace: impl Fn(&str) -> Option<&'static str>) -> String {
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | ':' | '.');
    let (mut result, mut word) = (String::new(), String::new());
    for c in text.chars().chain(['\0']) {
        if inside(c) {
            word.push(c);
            continue;
        }
        result.push_str(replace(&word).unwrap_or(&word));
        word.clear();
        if c != '\0' {
            result.push(c);
        }
    }
    result
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}
