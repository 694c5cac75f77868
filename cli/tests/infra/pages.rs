//! `templates/`: what projects start with builds, is served, and tells how its pipelines end.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use rdev_domain::audit::Actor;
use rdev_domain::ports::Store as _;
use rdev_domain::project::{Project, ProjectPatch, ProjectState};
use rdev_domain::secret::Secret;
use rdev_domain::time::Timestamp;
use rdev_domain::token::Token;
use rdev_functions::services::templates::{Template, Values};
use rdev_functions::{Context, HookSecrets, Settings};
use rdev_testkit::tools::needs::NotRun;
use rdev_testkit::tools::npm;
use rdev_testkit::tools::python::{KUBERNETES_VALIDATE, installed};
use rdev_testkit::tools::trial::Outcome;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::infra::tools::{run, text};

rdev_testkit::trials! {
    fn the_astro_page_builds_and_shows_what_its_text_says;
    fn a_page_without_a_zone_names_no_address;
    fn a_pipeline_has_the_steps_that_the_installation_can_do;
    fn a_pipeline_builds_pushes_and_deploys_and_holds_no_secret_itself;
    fn the_manifests_are_valid_and_fit_a_restricted_namespace;
    async rdev_believes_what_a_pipelines_last_step_tells_and_nobody_else;
}

const READ: &str = "import json, sys, yaml; \
    json.dump(list(yaml.safe_load_all(open(sys.argv[1]))), sys.stdout)";

/// Both templates that make a page.
const PAGES: [&str; 2] = ["static", "astro-landing"];

/// An installation with everything. The project's name is a truth value in YAML unless quoted.
fn whole() -> Values {
    Values {
        project: "true".to_owned(),
        zone: Some("example.com".to_owned()),
        registry: Some("registry.example.com:5000/acme".to_owned()),
        description: "Bread & \"buns\" for <everybody>".to_owned(),
        default_branch: "main".to_owned(),
    }
}

/// A project's files, as its repository begins.
fn project(template: &str, values: &Values) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for file in Template::named(template).expect("a template").seed(values) {
        let path = folder.path().join(file.path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, file.content).expect("written");
    }
    folder
}

/// The documents of a YAML file.
fn yaml(file: &Path) -> Result<Vec<Value>, NotRun> {
    let python = installed(KUBERNETES_VALIDATE)?.join("python");
    let json = text(Command::new(python).args(["-c", READ]).arg(file));
    Ok(serde_json::from_str(&json).expect("JSON"))
}

fn pipeline(folder: &TempDir) -> Result<Value, NotRun> {
    let mut all = yaml(&folder.path().join(".woodpecker.yaml"))?;
    assert_eq!(all.len(), 1);
    Ok(all.remove(0))
}

fn steps(pipeline: &Value) -> Vec<&str> {
    pipeline["steps"].as_object().expect("steps").keys().map(String::as_str).collect()
}

fn the_astro_page_builds_and_shows_what_its_text_says() -> Outcome {
    let values = Values { registry: None, ..whole() };
    let folder = project("astro-landing", &values);
    npm::ci(folder.path())?;
    let built = build(&folder);
    assert!(built.status.success(), "{}", said(&built));
    let page = page(&folder);
    assert!(page.contains("<h1 id=\"headline\">Say what this page should be.</h1>"), "{page}");
    assert!(page.contains("<title>true</title>"), "{page}");
    assert!(page.contains(">Bread &amp; &quot;buns&quot; for &lt;everybody&gt;</p>"), "{page}");
    assert_loads_nothing_from_elsewhere(&page, "https://true.example.com/");
    assert!(folder.path().join("dist/404.html").is_file());

    let path = folder.path().join("src/content/site.json");
    let mut site: Value = serde_json::from_slice(&fs::read(&path).expect("a file")).expect("JSON");
    site["headline"] = "Fresh bread in Lisbon".into();
    site["questions"] =
        json!({ "title": "Asked", "items": [{ "question": "When?", "answer": "From 6" }] });
    fs::write(&path, site.to_string()).expect("written");
    let rebuilt = build(&folder);
    assert!(rebuilt.status.success(), "{}", said(&rebuilt));
    let page = self::page(&folder);
    assert!(page.contains("<h1 id=\"headline\">Fresh bread in Lisbon</h1>"), "{page}");
    assert!(page.contains("<summary>When?</summary>") && page.contains("From 6"), "{page}");
    assert!(!page.contains("Say what this page should be"), "{page}");

    // What is forgotten or misspelt is named, and there is no page of it.
    let fields = site.as_object_mut().expect("an object");
    let headline = fields.remove("headline").expect("it is there");
    fields.insert("haedline".to_owned(), headline);
    fs::write(&path, site.to_string()).expect("written");
    let failed = build(&folder);
    assert!(!failed.status.success());
    for part in ["src/content/site.json is not valid", "headline: Required", "'haedline'"] {
        assert!(said(&failed).contains(part), "{part}: {}", said(&failed));
    }
    Ok(())
}

fn build(folder: &TempDir) -> Output {
    let mut npm = Command::new("npm");
    npm.args(["run", "build"]).current_dir(folder.path()).env("CI", "true");
    npm.output().expect("npm starts, as it did before")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn page(folder: &TempDir) -> String {
    fs::read_to_string(folder.path().join("dist/index.html")).expect("a page")
}

fn assert_loads_nothing_from_elsewhere(page: &str, own: &str) {
    let mut links = 0;
    for name in ["src=\"", "href=\"", "content=\"http", "url("] {
        for rest in page.split(name).skip(1) {
            let link = rest.split(['"', ')']).next().unwrap_or_default();
            let ours = link.starts_with(['/', '#']) && !link.starts_with("//");
            let whole = name.strip_prefix("content=\"").unwrap_or_default().to_owned() + link;
            assert!(ours || whole == own, "{name}{link}");
            links += 1;
        }
    }
    assert!(links > 5 && !page.contains("<script"), "{page}");
}

fn a_page_without_a_zone_names_no_address() {
    let folder = project("astro-landing", &Values { zone: None, registry: None, ..whole() });
    let config = fs::read_to_string(folder.path().join("astro.config.mjs")).expect("a file");
    assert!(
        !config.contains("site:") && config.contains("defineConfig({\n  devToolbar"),
        "{config}"
    );
}

fn a_pipeline_has_the_steps_that_the_installation_can_do() -> Outcome {
    let (zone, registry) = (whole().zone, whole().registry);
    let told = ["notify", "notify-failure"];
    for (zone, registry, own) in [
        (None, None, &["build"][..]),
        (zone.clone(), None, &["build"]),
        (None, registry.clone(), &["build", "image"]),
        (zone, registry, &["build", "image", "deploy"]),
    ] {
        for name in PAGES {
            let values = Values { zone: zone.clone(), registry: registry.clone(), ..whole() };
            let folder = project(name, &values);
            if name == "static" && registry.is_none() {
                assert!(!folder.path().join(".woodpecker.yaml").exists(), "nothing is done there");
                continue;
            }
            let pipeline = pipeline(&folder)?;
            let mut wanted: Vec<&str> = own.iter().chain(&told).copied().collect();
            wanted.retain(|step| name != "static" || *step != "build");
            let mut found = steps(&pipeline);
            found.sort_unstable();
            wanted.sort_unstable();
            assert_eq!(found, wanted, "{name}");
            assert_eq!(pipeline["when"], json!([{ "event": "push", "branch": "main" }]));
        }
    }
    Ok(())
}

fn a_pipeline_builds_pushes_and_deploys_and_holds_no_secret_itself() -> Outcome {
    for name in PAGES {
        let folder = project(name, &whole());
        let pipeline = pipeline(&folder)?;
        let steps = &pipeline["steps"];
        if name == "astro-landing" {
            assert_eq!(steps["build"]["commands"], json!(["npm ci", "npm run build"]));
        }
        let settings = &steps["image"]["settings"];
        assert_eq!(settings["registry"], "registry.example.com:5000");
        assert_eq!(settings["repo"], "registry.example.com:5000/acme/true");
        assert_eq!(settings["tags"], json!(["${CI_COMMIT_SHA}", "latest"]));
        for (field, secret) in
            [("username", "registry_username"), ("password", "registry_password")]
        {
            assert_eq!(settings[field], json!({ "from_secret": secret }));
        }
        let secrets = [
            (&steps["deploy"]["environment"]["KUBECONFIG_TEXT"], "kubeconfig"),
            (&steps["notify"]["environment"]["RDEV_HOOK_SECRET"], "rdev_hook_secret"),
            (&steps["notify-failure"]["environment"]["RDEV_HOOK_SECRET"], "rdev_hook_secret"),
        ];
        for (value, secret) in secrets {
            assert_eq!(*value, json!({ "from_secret": secret }));
        }
        // Only `$NAME` is left to the shell: the CI itself replaces what has braces.
        for step in steps.as_object().expect("steps").values() {
            let commands = step["commands"].as_array().cloned().unwrap_or_default();
            assert!(commands.iter().all(|command| !command.to_string().contains("${")), "{step}");
        }
        for (step, status) in [("notify", "success"), ("notify-failure", "failure")] {
            assert_eq!(steps[step]["when"][0]["status"], json!([status]));
            assert_eq!(steps[step]["environment"]["PIPELINE_STATUS"], status);
            assert_eq!(steps[step]["failure"], "ignore");
        }
    }
    Ok(())
}

fn the_manifests_are_valid_and_fit_a_restricted_namespace() -> Outcome {
    let validate = installed(KUBERNETES_VALIDATE)?.join("kubernetes-validate");
    for name in PAGES {
        let folder = project(name, &whole());
        // As the pipeline does it, before it applies them.
        let pipeline = pipeline(&folder).expect("Python is there");
        let commands = pipeline["steps"]["deploy"]["commands"].as_array().expect("commands");
        let sed = commands.iter().filter_map(Value::as_str).find(|text| text.starts_with("sed "));
        let mut shell = Command::new("sh");
        shell.args(["-c", sed.expect("it names the image")]).env("CI_COMMIT_SHA", "c0ffee");
        let status = shell.current_dir(folder.path()).status().expect("a shell");
        assert!(status.success());

        let read = |kind: &str| {
            let file = folder.path().join(format!("deploy/{kind}.yaml"));
            let output = run(Command::new(&validate).arg("--strict").arg(&file));
            assert!(output.status.success(), "{}", said(&output));
            assert_eq!(said(&output).matches(" passed for resource ").count(), 1);
            let mut all = yaml(&file).expect("Python is there");
            assert_eq!(all.len(), 1, "{name}");
            all.remove(0)
        };
        let (deployment, service, ingress) = (read("deployment"), read("service"), read("ingress"));
        let pod = &deployment["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(pod["automountServiceAccountToken"], false);
        let container = &pod["containers"][0];
        assert_eq!(container["image"], "registry.example.com:5000/acme/true:c0ffee");
        let context = &container["securityContext"];
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
        for field in ["requests", "limits"] {
            assert!(container["resources"][field]["memory"].is_string(), "{field}");
        }
        for probe in ["readinessProbe", "livenessProbe"] {
            assert_eq!(container[probe]["httpGet"]["port"], container["ports"][0]["name"]);
        }
        // From the name to the pod.
        let rule = &ingress["spec"]["rules"][0];
        assert_eq!(rule["host"], "true.example.com");
        let to = &rule["http"]["paths"][0]["backend"]["service"];
        assert_eq!(to["name"], service["metadata"]["name"]);
        assert_eq!(to["port"]["name"], service["spec"]["ports"][0]["name"]);
        assert_eq!(service["spec"]["ports"][0]["targetPort"], container["ports"][0]["name"]);
        let labels = &deployment["spec"]["template"]["metadata"]["labels"];
        for selector in
            [&service["spec"]["selector"], &deployment["spec"]["selector"]["matchLabels"]]
        {
            for (name, value) in selector.as_object().expect("labels") {
                assert_eq!(labels[name], *value);
            }
        }
        serves(folder.path(), container);
    }
    Ok(())
}

/// The image listens where the manifests look, as the user that they name.
fn serves(folder: &Path, container: &Value) {
    let file = |name: &str| fs::read_to_string(folder.join(name)).expect("a file");
    let port = &container["ports"][0]["containerPort"];
    assert!(file("nginx.conf").contains(&format!("listen {port};")));
    let dockerfile = file("Dockerfile");
    let last = dockerfile.rsplit("\nFROM ").next().expect("a stage");
    assert!(last.contains(&format!("\nEXPOSE {port}\n")) && last.contains("\nUSER 101:101\n"));
    // Each file that it names is in the repository, and is not kept from it.
    let ignored = file(".dockerignore");
    let copied = dockerfile.lines().filter_map(|line| line.strip_prefix("COPY "));
    for names in copied.filter(|line| !line.starts_with("--from=")) {
        let mut names: Vec<&str> = names.split_whitespace().collect();
        names.pop();
        for name in names {
            assert!(folder.join(name).exists(), "{name}");
            assert!(!ignored.lines().any(|line| line == name), "{name}");
        }
    }
}

async fn rdev_believes_what_a_pipelines_last_step_tells_and_nobody_else() -> Outcome {
    let data = tempfile::tempdir().expect("a folder");
    let embedded =
        rdev_embedded::open(data.path(), rdev_embedded::Options::default()).expect("a data folder");
    let hooks = HookSecrets {
        ci: Some(Token::known(Secret::new("a secret, 'quoted'"))),
        ..HookSecrets::default()
    };
    let context = Context {
        store: embedded.store.clone(),
        queue: embedded.queue.clone(),
        forge: embedded.forge.clone(),
        ci: None,
        dns: None,
        settings: Settings { hooks, ..Settings::default() },
        metrics: None,
        on_cancel: None,
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/hooks/woodpecker", listener.local_addr().expect("an address"));
    let server = tokio::spawn(async move {
        axum::serve(listener, rdev_functions::api(context)).await.expect("it serves");
    });
    let id = known(&embedded).await;
    let commit = "5f0c1d".repeat(6) + "abcd";
    let commit_id = commit.parse().expect("a commit");

    let folder = project("astro-landing", &whole());
    let tell = |status: &'static str, secret: &'static str| {
        let mut node = tokio::process::Command::new("node");
        node.arg("ci/notify.mjs").current_dir(folder.path());
        node.env("RDEV_HOOK_URL", &url).env("RDEV_HOOK_SECRET", secret);
        node.env("PIPELINE_STATUS", status).env("CI_REPO", "acme/bakery");
        node.env("CI_REPO_REMOTE_ID", "82").env("CI_PIPELINE_NUMBER", "7");
        node.env("CI_COMMIT_SHA", &commit).env("CI_COMMIT_BRANCH", "main");
        node.env("CI_PIPELINE_URL", "https://ci.example.com/repos/4/pipeline/7");
        tokio::time::timeout(Duration::from_secs(600), node.output())
    };
    let Ok(told) = tell("success", "a secret, 'quoted'").await.expect("it ends") else {
        return Err(NotRun::needs("node: install Node.js"));
    };
    assert!(told.status.success(), "{}", said(&told));
    let known = embedded.store.pipeline(&id, &commit_id).await.expect("it answers");
    let known = known.expect("it was recorded");
    assert_eq!((known.number, known.status.as_str()), (Some(7), "success"));
    assert_eq!(known.url.as_deref(), Some("https://ci.example.com/repos/4/pipeline/7"));

    let refused = tell("failure", "another").await.expect("it ends").expect("node is there");
    assert!(!refused.status.success() && said(&refused).contains("401"), "{}", said(&refused));
    assert!(!said(&refused).contains("another"), "{}", said(&refused));
    let still = embedded.store.pipeline(&id, &commit_id).await.expect("it answers");
    assert_eq!(still.as_ref(), Some(&known));
    server.abort();
    Ok(())
}

/// A project whose repository has the id 82 on the forge.
async fn known(embedded: &rdev_embedded::Embedded) -> rdev_domain::ids::ProjectId {
    let (now, by) = (Timestamp::from_millis(0), Actor::maintenance());
    let project = Project {
        template: Some("astro-landing".to_owned()),
        state: ProjectState::Provisioning,
        ..Project::new("bakery".parse().expect("a name"), ulid::Ulid::from_parts(1, 1), now)
    };
    embedded.store.create_project(&project, &by, now).await.expect("created");
    let patch = ProjectPatch { forge_id: Some(82), ..ProjectPatch::default() };
    embedded.store.update_project(&project.id, &patch, &by, now).await.expect("changed");
    project.id
}
