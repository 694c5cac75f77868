//! The systems, and an `rdev up` that is configured for them.

use std::path::Path;
use std::sync::Arc;

use rdev_testkit::servers::faults;
use rdev_testkit::servers::gitea::{self, Gitea};
use rdev_testkit::servers::powerdns::PowerDns;
use rdev_testkit::servers::woodpecker::{self, WoodpeckerServer};
use rdev_testkit::tools::needs::NotRun;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Answer, Server, configure};

pub(crate) const OWNER: &str = "acme";
pub(crate) const ZONE: &str = "example.com";

/// What signs the webhooks that come in.
pub(crate) const HOOK_SECRET: &str = "a-secret-between-systems";

/// Where names lead that say nothing else.
pub(crate) const TARGET: &str = "93.184.216.34";

/// Everything.
pub(crate) struct World {
    pub(crate) data: TempDir,
    pub(crate) gitea: Arc<Gitea>,
    pub(crate) woodpecker: Arc<WoodpeckerServer>,
    pub(crate) powerdns: PowerDns,
    /// What rdev talks to instead of Gitea, Woodpecker and PowerDNS.
    pub(crate) forge: faults::Server,
    pub(crate) ci: faults::Server,
    pub(crate) dns: faults::Server,
}

/// One of the systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    Forge,
    Ci,
    Dns,
}

impl System {
    pub(crate) const ALL: [Self; 3] = [Self::Forge, Self::Ci, Self::Dns];
}

impl World {
    /// Starts the systems and writes the configuration; an answer is waited for `timeout_s`.
    pub(crate) fn new(timeout_s: u64) -> Result<Self, NotRun> {
        Self::with(timeout_s, "")
    }

    /// The same with `more` at the end of the configuration.
    pub(crate) fn with(timeout_s: u64, more: &str) -> Result<Self, NotRun> {
        let powerdns = PowerDns::start(&ZONE.parse().expect("a zone"))?;
        let gitea = Arc::new(Gitea::start(&[OWNER, "other"]));
        let woodpecker = Arc::new(WoodpeckerServer::start());
        // As the documentation of the templates wants it.
        woodpecker.privilege("woodpeckerci/plugin-docker-buildx:6.1.1");
        let known = Arc::clone(&gitea);
        woodpecker.ask_forge(move |id| {
            let all = known.repositories();
            let found = all.into_iter().find(|repository| repository.id == id)?;
            let (owner, name) = found.full_name.split_once('/')?;
            Some((owner.to_owned(), name.to_owned()))
        });
        let world = Self {
            data: tempfile::tempdir().expect("a data folder"),
            forge: faults::Server::before(&gitea.url()),
            ci: faults::Server::before(&woodpecker.url()),
            dns: faults::Server::before(&powerdns.url()),
            gitea,
            woodpecker,
            powerdns,
        };
        world.configure(timeout_s, more);
        Ok(world)
    }

    fn configure(&self, timeout_s: u64, more: &str) {
        let (forge, ci, dns) = (self.forge.url(), self.ci.url(), self.dns.url());
        let (forge_token, ci_token, dns_token) =
            (gitea::TOKEN, woodpecker::TOKEN, self.powerdns.key());
        let more = format!(
            r#"
[forge]
url = "{forge}"
owner = "{OWNER}"
token = "{forge_token}"
timeout_s = {timeout_s}
webhook_secret = "{HOOK_SECRET}"

[ci]
url = "{ci}"
token = "{ci_token}"
timeout_s = {timeout_s}
webhook_secret = "{HOOK_SECRET}"

[dns]
provider = "powerdns"
url = "{dns}"
zone = "{ZONE}"
token = "{dns_token}"
timeout_s = {timeout_s}
type = "A"
target = "{TARGET}"
{more}"#
        );
        configure(self.data.path(), &more);
    }

    /// Starts rdev; its address is where Gitea sends its webhooks.
    pub(crate) async fn up(&self) -> Server {
        // Known before it listens: a port that was free a moment ago.
        Server::start_on(self.data.path(), &self.listen(), &[]).await
    }

    /// Always the same port of this world, so that webhooks find it after a restart.
    fn listen(&self) -> String {
        let file = self.data.path().join("port");
        let known = std::fs::read_to_string(&file).ok();
        known.unwrap_or_else(|| {
            let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            let address = free.local_addr().expect("its number").to_string();
            std::fs::write(&file, &address).expect("a note");
            let toml = self.data.path().join("rdev.toml");
            let text = std::fs::read_to_string(&toml).expect("the configuration");
            let text = format!("public_url = \"http://{address}\"\n{text}");
            std::fs::write(&toml, text).expect("the configuration");
            address
        })
    }

    pub(crate) fn system(&self, system: System) -> &faults::Server {
        match system {
            System::Forge => &self.forge,
            System::Ci => &self.ci,
            System::Dns => &self.dns,
        }
    }

    /// Everything works from now on.
    pub(crate) fn heal(&self) {
        for system in System::ALL {
            self.system(system).heal();
        }
    }

    /// The tokens, which no other host may see.
    pub(crate) fn tokens(&self) -> [String; 3] {
        [gitea::TOKEN, woodpecker::TOKEN, self.powerdns.key()].map(str::to_owned)
    }

    /// Asserts that a project has exactly one of everything, here and there.
    pub(crate) async fn assert_whole(&self, server: &Server, name: &str) {
        let project = server.get(&format!("/projects/{name}")).await.body;
        assert_eq!(project["state"], "ready", "{project:#}");
        let steps = project["provisioning"]["steps"].as_array().expect("steps").clone();
        assert!(steps.iter().all(|step| step["state"] == "done"), "{project:#}");

        let full_name = format!("{OWNER}/{name}");
        let all = self.gitea.repositories();
        let of_it = |one: &&gitea::RepositoryInfo| one.full_name.split('/').nth(1) == Some(name);
        assert_eq!(all.iter().filter(of_it).count(), 1, "{all:?}");
        let repository = all.iter().find(of_it).expect("a repository");
        assert_eq!(commits(&repository.folder), 1, "the first commit, once");
        assert_eq!(self.gitea.hooks(&full_name).len(), 1, "one webhook");
        assert_eq!(project["forge_id"], repository.id);

        let active = self.woodpecker.repositories();
        let active: Vec<_> = active.iter().filter(|one| one.forge_id == repository.id).collect();
        assert_eq!(active.len(), 1, "{active:?}");
        assert!(active[0].active, "{active:?}");
        assert_eq!(project["ci_id"], active[0].id);

        let domains = server.get(&format!("/projects/{name}/domains")).await.body;
        let domains = domains["items"].as_array().expect("a list").clone();
        assert_eq!(domains.len(), 1, "{domains:?}");
        assert_eq!(domains[0]["state"], "active", "{domains:?}");
        let answers = self.powerdns.resolve(&format!("{name}.{ZONE}"), "A").answers;
        assert_eq!(answers.len(), 1, "{answers:?}");
    }
}

/// How many commits a repository's default branch has.
pub(crate) fn commits(repository: &Path) -> usize {
    let git = git2::Repository::open_bare(repository).expect("a repository");
    let Ok(mut walk) = git.revwalk() else { return 0 };
    match walk.push_head() {
        Ok(()) => walk.count(),
        Err(_) => 0,
    }
}

/// A project with everything.
pub(crate) fn wanted(name: &str) -> Value {
    json!({ "name": name, "template": "static", "domain": {} })
}

/// Asserts that it is a problem of this status and code.
#[track_caller]
pub(crate) fn assert_problem(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.body["code"].as_str()), (status, Some(code)), "{answer:?}");
}
