//! `infra/k8s`: rendered by kustomize, checked against the schemas of Kubernetes.

use std::fs;
use std::process::Command;

use rdev_testkit::tools::kubectl;
use rdev_testkit::tools::needs::NotRun;
use rdev_testkit::tools::python::{KUBERNETES_VALIDATE, installed};
use rdev_testkit::tools::trial::Outcome;
use serde_json::Value;

use crate::infra::tools::{run, string, text};

rdev_testkit::trials! {
    fn the_rendered_manifests_are_valid;
    fn a_runner_has_no_rights_on_its_node_and_the_time_to_end_a_whole_build;
    fn agents_cannot_reach_the_addresses_where_a_machine_gives_credentials;
    fn the_scaler_counts_what_is_visible_and_in_flight_in_the_queue_of_the_runners;
    fn the_runners_of_an_agent_s_queue_are_beside_the_others_and_share_nothing_but_the_secret;
}

/// The manifests of an overlay.
struct Rendered {
    yaml: String,
    all: Vec<Value>,
}

/// Each with the variable that names the queue which its runners receive from.
const OVERLAYS: [(&str, &str); 3] =
    [("dev", "RDEV_QUEUE_URL"), ("prod", "RDEV_QUEUE_URL"), ("prod-codex", "RDEV_QUEUE_URL_CODEX")];

const READ: &str = "import json, sys, yaml; \
    json.dump(list(yaml.safe_load_all(open(sys.argv[1]))), sys.stdout)";

fn rendered(overlay: &str) -> Result<Rendered, NotRun> {
    let mut kubectl = Command::new(kubectl::installed()?);
    let python = installed(KUBERNETES_VALIDATE)?.join("python");
    let yaml = text(kubectl.arg("kustomize").arg(format!("infra/k8s/overlays/{overlay}")));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rendered.yaml");
    fs::write(&file, &yaml).expect("written");
    let json = text(Command::new(python).args(["-c", READ]).arg(&file));
    Ok(Rendered { yaml, all: serde_json::from_str(&json).expect("JSON") })
}

impl Rendered {
    fn one(&self, kind: &str) -> &Value {
        let mut found = self.all.iter().filter(|manifest| manifest["kind"] == kind);
        let one = found.next().unwrap_or_else(|| panic!("there is a {kind}"));
        assert!(found.next().is_none(), "there is one {kind}");
        one
    }

    /// The environment of the runner, from its `ConfigMap`.
    fn setting(&self, name: &str) -> &str {
        string(&self.one("ConfigMap")["data"], name)
    }
}

fn the_rendered_manifests_are_valid() -> Outcome {
    for (overlay, _) in OVERLAYS {
        let (rendered, validate) =
            (rendered(overlay)?, installed(KUBERNETES_VALIDATE)?.join("kubernetes-validate"));
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("rendered.yaml");
        fs::write(&file, &rendered.yaml).expect("written");
        let output = run(Command::new(validate).arg("--strict").arg(&file));
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        // KEDA's own kinds have no schema there.
        let own = rendered
            .all
            .iter()
            .filter(|manifest| !string(manifest, "apiVersion").starts_with("keda.sh/"));
        assert_eq!(said.matches(" passed for resource ").count(), own.count(), "{said}");
    }
    Ok(())
}

fn a_runner_has_no_rights_on_its_node_and_the_time_to_end_a_whole_build() -> Outcome {
    for (overlay, _) in OVERLAYS {
        let rendered = rendered(overlay)?;
        let pod = &rendered.one("Deployment")["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(pod["automountServiceAccountToken"], false);
        let container = &pod["containers"][0];
        let context = &container["securityContext"];
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["capabilities"]["drop"], serde_json::json!(["ALL"]));
        let level = "pod-security.kubernetes.io/enforce";
        assert_eq!(rendered.one("Namespace")["metadata"]["labels"][level], "restricted");

        // A build may take two hours; a drain waits for it, and the pod for the drain.
        let drain: u64 = rendered.setting("RDEV_RUNNER__DRAIN_S").parse().expect("seconds");
        let grace = pod["terminationGracePeriodSeconds"].as_u64().expect("seconds");
        assert!(drain >= 7200 && grace >= drain + 120, "{drain} {grace}");
        // A pod whose table is away takes no work, and ends what it has.
        let probes = [("startup", "/live"), ("liveness", "/live"), ("readiness", "/health")];
        for (probe, path) in probes {
            assert_eq!(container[format!("{probe}Probe")]["httpGet"]["path"], path, "{probe}");
        }
        assert_eq!(rendered.setting("RDEV_HEALTH_LISTEN"), "0.0.0.0:8080");
        assert_eq!(container["ports"][0]["containerPort"], 8080);
    }
    Ok(())
}

fn agents_cannot_reach_the_addresses_where_a_machine_gives_credentials() -> Outcome {
    let rendered = rendered("prod")?;
    let policy = &rendered.one("NetworkPolicy")["spec"];
    assert_eq!(policy["policyTypes"], serde_json::json!(["Ingress", "Egress"]));
    assert_eq!(policy["ingress"], serde_json::json!([]));
    let mut closed = Vec::new();
    for rule in policy["egress"].as_array().expect("rules") {
        for place in rule["to"].as_array().expect("every rule names its places") {
            if let Some(but) = place["ipBlock"]["except"].as_array() {
                closed.extend(but.iter().map(|network| network.as_str().expect("a text")));
            } else {
                assert!(place["ipBlock"].is_null(), "a place without exceptions: {place}");
            }
        }
    }
    // The first holds 169.254.169.254 and 169.254.170.2, the second fd00:ec2::254.
    for network in ["169.254.0.0/16", "fc00::/7"] {
        assert!(closed.contains(&network), "{closed:?}");
    }
    Ok(())
}

fn the_scaler_counts_what_is_visible_and_in_flight_in_the_queue_of_the_runners() -> Outcome {
    for (overlay, queue) in OVERLAYS {
        let rendered = rendered(overlay)?;
        let scaler = &rendered.one("ScaledObject")["spec"];
        assert_eq!(
            scaler["scaleTargetRef"]["name"],
            rendered.one("Deployment")["metadata"]["name"]
        );
        let trigger = &scaler["triggers"][0];
        assert_eq!(trigger["type"], "aws-sqs-queue");
        assert_eq!(trigger["metadata"]["scaleOnInFlight"], "true");
        assert_eq!(trigger["metadata"]["queueURL"], rendered.setting(queue));
        let login = &rendered.one("TriggerAuthentication")["metadata"]["name"];
        assert_eq!(trigger["authenticationRef"]["name"], *login);
        assert_eq!(trigger["metadata"]["queueLength"], rendered.setting("RDEV_RUNNER__SLOTS"));
        assert_eq!(trigger["metadata"]["awsRegion"], rendered.setting("AWS_REGION"));
        let budget = &rendered.one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"];
        let labels = &rendered.one("Deployment")["spec"]["selector"]["matchLabels"];
        assert_eq!(budget, labels);
    }
    Ok(())
}

fn the_runners_of_an_agent_s_queue_are_beside_the_others_and_share_nothing_but_the_secret()
-> Outcome {
    let (all, own) = (rendered("prod")?, rendered("prod-codex")?);
    assert_eq!(own.setting("RDEV_QUEUE_AGENT"), "codex");
    for name in ["RDEV_TABLE", "RDEV_QUEUE_URL", "AWS_REGION"] {
        assert_eq!(own.setting(name), all.setting(name), "both send to the default queue");
    }
    let name = |of: &Value| (of["kind"].clone(), of["metadata"]["name"].clone());
    let shared = all.all.iter().map(name).filter(|one| own.all.iter().map(name).any(|o| o == *one));
    let shared: Vec<Value> = shared.map(|(kind, _)| kind).collect();
    assert_eq!(shared, ["Namespace"]);
    let selector = |of: &Rendered| of.one("Deployment")["spec"]["selector"]["matchLabels"].clone();
    let label = "app.kubernetes.io/name";
    assert_ne!(selector(&all)[label], selector(&own)[label]);
    let policy = &own.one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"];
    assert_eq!(policy[label], selector(&own)[label]);
    let of_pod = |of: &Rendered| {
        of.one("Deployment")["spec"]["template"]["spec"]["containers"][0]["envFrom"].clone()
    };
    assert_eq!(of_pod(&all)[1], of_pod(&own)[1], "the secret");
    assert_eq!(of_pod(&own)[0]["configMapRef"]["name"], own.one("ConfigMap")["metadata"]["name"]);
    Ok(())
}
