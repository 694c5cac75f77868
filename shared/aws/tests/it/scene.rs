//! An account of its own in the emulator, and clients for it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_config::SdkConfig;
use aws_sdk_sqs::config::{Credentials, Region};
use aws_sdk_sqs::types::QueueAttributeName;
use rdev_aws::Settings;
use rdev_domain::spec::AgentName;
use rdev_testkit::servers::emulator::{Account, Emulator, REGION};
use rdev_testkit::tools::needs::NotRun;

/// How many emulators the tests share. One uses a core at most, and would be what all wait for.
const EMULATORS: usize = 2;

/// A new account, in each emulator by turns.
pub(crate) fn account() -> Result<Account, NotRun> {
    static SHARED: [OnceLock<Result<Emulator, NotRun>>; EMULATORS] =
        [const { OnceLock::new() }; EMULATORS];
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed) % EMULATORS;
    let emulator = SHARED[next].get_or_init(Emulator::start).as_ref().map_err(Clone::clone)?;
    Ok(emulator.account())
}

/// The configuration that the environment would give.
pub(crate) async fn sdk(account: &Account) -> SdkConfig {
    let credentials = Credentials::new(&account.id, "test", None, None, "test");
    rdev_aws::config::loader()
        .endpoint_url(&account.endpoint)
        .region(Region::new(REGION))
        .credentials_provider(credentials)
        .load()
        .await
}

/// A queue with a dead-letter queue, and one that only Codex has; no table.
pub(crate) async fn queues(
    client: &aws_sdk_sqs::Client,
    visibility_s: u64,
    max_receives: u32,
) -> Settings {
    let visibility = visibility_s.to_string();
    let create = |name: &str| {
        let visibility = (QueueAttributeName::VisibilityTimeout, visibility.clone());
        client.create_queue().queue_name(name).attributes(visibility.0, visibility.1)
    };
    let dead = create("rdev-dead").send().await.expect("a queue").queue_url.expect("its URL");
    let arn = client
        .get_queue_attributes()
        .queue_url(&dead)
        .attribute_names(QueueAttributeName::QueueArn)
        .send()
        .await
        .expect("its attributes")
        .attributes
        .and_then(|all| all.get(&QueueAttributeName::QueueArn).cloned())
        .expect("its ARN");
    let redrive =
        format!(r#"{{"deadLetterTargetArn":"{arn}","maxReceiveCount":"{max_receives}"}}"#);
    let live = async |name: &str| {
        let live = create(name).attributes(QueueAttributeName::RedrivePolicy, redrive.clone());
        live.send().await.expect("a queue").queue_url.expect("its URL")
    };
    let queue_url = live("rdev").await;
    let agent_queue_urls = [(AgentName::Codex, live("rdev-codex").await)].into();
    let settings = Settings::new("rdev".to_owned(), queue_url);
    Settings { dead_queue_url: Some(dead), agent_queue_urls, ..settings }
}
