//! The conformance suite of the store, on DynamoDB.

pub(crate) mod answers;
pub(crate) mod calls;
pub(crate) mod faults;
pub(crate) mod indexes;
pub(crate) mod scale;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use rdev_aws::DynamoStore;
use rdev_aws::schema::create_table;
use rdev_domain::audit::Actor;
use rdev_domain::dns::{Domain, DomainSpec, DomainState, Target, Ttl};
use rdev_domain::event::{BuildEvent, EventKind, seq};
use rdev_domain::git::Tip;
use rdev_domain::ids::{Fence, Owner, ProjectId, TaskId, WorkerId};
use rdev_domain::lease::Holder;
use rdev_domain::pipeline::CommitPipeline;
use rdev_domain::ports::{Capabilities, Claim, Claimed, PortResult, Store};
use rdev_domain::project::Project;
use rdev_domain::result::{BuildResult, Outcome, Usage};
use rdev_domain::retention::Retention;
use rdev_domain::secret::Secret;
use rdev_domain::spec::{AgentName, BuildSpec, Work};
use rdev_domain::step::Event;
use rdev_domain::task::{Prepared, Task, WipRef};
use rdev_domain::time::Timestamp;
use rdev_domain::webhook::Webhook;
use rdev_testkit::conformance::store::{self, Damage, StoreUnderTest};
use rdev_testkit::servers::emulator::{Account, Emulator};
use rdev_testkit::servers::proxy::Proxy;
use rdev_testkit::tools::needs::NotRun;
use rdev_testkit::tools::trial::Trial;

use crate::scene::{account, sdk};

const TABLE: &str = "rdev";

/// A client for an account of its own, with an empty table.
async fn tables(account: &Account) -> Client {
    let client = Client::new(&sdk(account).await);
    create_table(&client, TABLE).await.expect("a table");
    client
}

/// The cases of the conformance suite.
pub(crate) fn conformance() -> Vec<Trial> {
    // An emulator of its own: the suite makes very many calls.
    static EMULATOR: OnceLock<Result<Emulator, NotRun>> = OnceLock::new();
    store::trials(async |retention: Retention| {
        let emulator = EMULATOR.get_or_init(Emulator::start).as_ref().map_err(Clone::clone)?;
        let client = tables(&emulator.account()).await;
        Ok(StoreUnderTest {
            store: Arc::new(DynamoStore::new(client.clone(), TABLE.to_owned(), retention)),
            with_format: {
                let client = client.clone();
                Arc::new(move |format| {
                    let store = DynamoStore::new(client.clone(), TABLE.to_owned(), retention);
                    Arc::new(store.with_format(format))
                })
            },
            damage: {
                let client = client.clone();
                Arc::new(move |task, kind| Box::pin(damage(client.clone(), task, kind)))
            },
            replace_record: Arc::new(move |task, kind, body| {
                Box::pin(replace_record(client.clone(), task, kind, body))
            }),
            sweep_deletes: false,
            recovers_all: false,
            keep: Box::new(()),
        })
    })
}

/// The project of a task.
async fn project_of(client: &Client, task: TaskId) -> String {
    let text = |text: String| AttributeValue::S(text);
    let pointer = client
        .get_item()
        .table_name(TABLE)
        .key("pk", text(format!("T#{task}")))
        .key("sk", text("PROJECT".to_owned()))
        .send()
        .await
        .expect("an answer");
    let project = pointer.item().and_then(|item| item.get("project")).expect("its project");
    project.as_s().expect("a text").to_owned()
}

/// Damages an attribute of a task or of its lease, as a defect would.
async fn damage(client: Client, task: TaskId, damage: Damage) {
    let text = |text: String| AttributeValue::S(text);
    let (pk, sk, attribute) = match damage {
        Damage::Lease => (format!("T#{task}"), "LEASE".to_owned(), "usage"),
        Damage::State => {
            (format!("P#{}", project_of(&client, task).await), format!("T#{task}"), "state")
        }
    };
    client
        .update_item()
        .table_name(TABLE)
        .key("pk", text(pk))
        .key("sk", text(sk))
        .update_expression("SET #damaged = :none")
        .condition_expression("attribute_exists(#damaged)")
        .expression_attribute_names("#damaged", attribute)
        .expression_attribute_values(":none", text("?".to_owned()))
        .send()
        .await
        .expect("it exists");
}

/// Replaces the type and the body of a task, as another program could.
async fn replace_record(client: Client, task: TaskId, kind: &'static str, body: String) {
    let text = |text: String| AttributeValue::S(text);
    let project = project_of(&client, task).await;
    client
        .update_item()
        .table_name(TABLE)
        .key("pk", text(format!("P#{project}")))
        .key("sk", text(format!("T#{task}")))
        .update_expression("SET body = :body, kind = :kind")
        .condition_expression("attribute_exists(body)")
        .expression_attribute_values(":body", text(body))
        .expression_attribute_values(":kind", text(kind.to_owned()))
        .send()
        .await
        .expect("it exists");
}

/// A time ahead of every real clock.
const NOW: Timestamp = Timestamp::from_millis(2_208_988_800_000);

/// A store behind a proxy.
struct Bench {
    proxy: Proxy,
    client: Client,
    store: DynamoStore,
}

impl Bench {
    async fn new() -> Result<Self, NotRun> {
        let account = account()?;
        let proxy = Proxy::start(&account.endpoint, 7);
        let client = tables(&account).await;
        let through = Client::new(&sdk(&account.at(proxy.endpoint())).await);
        let store = DynamoStore::new(through, TABLE.to_owned(), Retention::default());
        Ok(Self { proxy, client, store })
    }

    /// The calls since the last time, as `2 GetItem, 1 Query`.
    fn called(&self) -> String {
        let counts = self.proxy.counts();
        self.proxy.forget_seen();
        let counts = counts.iter().map(|(call, count)| format!("{count} {}", call.operation));
        counts.collect::<Vec<_>>().join(", ")
    }

    async fn project(&self) -> ProjectId {
        let nonce = TaskId(ulid()).0;
        let project =
            Project::new(format!("site-{}", nonce.random()).parse().expect("a slug"), nonce, NOW);
        let created = self.store.create_project(&project, &Actor::maintenance(), NOW).await;
        created.expect("a new name").id
    }

    async fn claim(&self, project: &ProjectId) -> PortResult<Claim> {
        let worker_id: WorkerId = "w1".parse().expect("a worker id");
        let owner = Owner::new(&worker_id, "first");
        let can = Capabilities { worker_id, agents: AgentName::ALL.to_vec() };
        self.store.claim_next(project, &owner, &can, NOW).await
    }

    async fn claimed(&self, project: &ProjectId) -> Claimed {
        match self.claim(project).await.expect("the store answers") {
            Claim::Claimed(claimed) => *claimed,
            other => panic!("there is a task to claim, not {other:?}"),
        }
    }
}

fn ulid() -> ulid::Ulid {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let millis = u64::try_from(NOW.as_millis()).expect("after 1970");
    ulid::Ulid::from_parts(millis, u128::from(NEXT.fetch_add(1, Ordering::SeqCst)))
}

/// The nonce of a project of `Bench::project`, whose name has its random part; nil of others.
fn nonce_of(project: &ProjectId) -> ulid::Ulid {
    let millis = u64::try_from(NOW.as_millis()).expect("after 1970");
    let random = project.as_str().strip_prefix("site-").and_then(|random| random.parse().ok());
    random.map_or(ulid::Ulid::nil(), |random| ulid::Ulid::from_parts(millis, random))
}

fn new_task(project: &ProjectId) -> Task {
    let work = Work::Build(BuildSpec::of("make the header blue"));
    let task = Task::new(TaskId(ulid()), project.clone(), work, NOW);
    Task { project_nonce: nonce_of(project), ..task }
}

fn webhook() -> Webhook {
    let url = "https://hooks.example.com/".parse().expect("a URL");
    Webhook { url, secret: Secret::new("whsec_") }
}

fn new_domain(project: &ProjectId) -> Domain {
    Domain {
        id: ulid(),
        project_id: project.clone(),
        project_nonce: nonce_of(project),
        spec: DomainSpec {
            domain: "www.example.com".parse().expect("a name"),
            target: Target::A([93, 184, 216, 34].into()),
            proxied: false,
            ttl: Ttl::AUTOMATIC,
        },
        state: DomainState::Pending,
        provider_record_id: None,
        created_at: NOW,
        updated_at: NOW,
    }
}

fn new_pipeline(project: &ProjectId) -> CommitPipeline {
    CommitPipeline {
        project_id: project.clone(),
        commit: "1".repeat(40).parse().expect("a commit"),
        number: Some(1),
        status: "success".to_owned(),
        url: None,
        at: NOW,
    }
}

fn holder(claimed: &Claimed) -> Holder {
    Holder { fence: claimed.lease.fence, owner: claimed.lease.owner.clone() }
}

fn event(fence: Fence, n: u64) -> BuildEvent {
    let data = serde_json::json!({ "stream": "stdout", "text": format!("line {n}") });
    BuildEvent { seq: seq(fence, n), at: NOW, kind: EventKind::Log, data }
}

fn result() -> BuildResult {
    BuildResult {
        outcome: Outcome::Delivered,
        commit_sha: Some("0".repeat(40).parse().expect("a commit")),
        branch: "main".parse().expect("a branch"),
        kept_ref: None,
        pull_request_url: None,
        files_changed: Vec::new(),
        files_changed_total: 0,
        agent: None,
        usage: Usage::default(),
        durations_ms: Default::default(),
        summary: String::new(),
        verify: Vec::new(),
        warnings: Vec::new(),
    }
}

fn prepare(claimed: &Claimed) -> Event {
    let holder = holder(claimed);
    let prepared = Prepared {
        commit: "1".repeat(40).parse().expect("a commit"),
        base: Tip::Absent,
        branch: "main".parse().expect("a branch"),
        wip: WipRef { task: claimed.task.id, fence: holder.fence },
        atomic: true,
        at: NOW,
    };
    Event::Prepare { holder, prepared, result: result(), usage: Usage::default() }
}

fn complete(claimed: &Claimed) -> Event {
    Event::Complete { holder: holder(claimed), result: result() }
}
