//! The cases.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rdev_domain::ports::{DeadMessage, Queue, QueueStats, ReceivedMessage};
use rdev_domain::spec::AgentName;
use rdev_domain::wake_up::{Undecodable, WakeUp};

use super::{QueueCase, QueueSettings, QueueUnderTest};

const SECOND: Duration = Duration::from_secs(1);

/// Messages come back after a second, and are dead after three times.
const QUICK: QueueSettings = QueueSettings { visibility: SECOND, max_receives: 3 };

/// Messages come back after a second, as often as it takes.
const PATIENT: QueueSettings = QueueSettings { visibility: SECOND, max_receives: 100 };

/// Messages do not come back while a case runs.
const SLOW: QueueSettings =
    QueueSettings { visibility: Duration::from_secs(600), max_receives: 100 };

/// For how long a case polls for what must come.
const DEADLINE: Duration = Duration::from_secs(600);

macro_rules! cases {
    ($($name:ident with $settings:ident;)+) => {
        pub(super) fn all() -> Vec<QueueCase> {
            vec![$(QueueCase {
                name: stringify!($name),
                settings: $settings,
                run: |subject| Box::pin($name(subject)),
            }),+]
        }
    };
}

cases! {
    a_sent_wake_up_is_received with SLOW;
    a_wake_up_keeps_its_agent with SLOW;
    a_runner_receives_only_from_its_queue with SLOW;
    a_message_of_an_agent_s_queue_is_hidden_and_deleted_there with SLOW;
    the_queues_of_all_agents_share_the_dead_letters with QUICK;
    an_empty_queue_answers_after_the_wait with SLOW;
    a_long_poll_ends_when_a_message_comes with SLOW;
    every_long_poller_gets_a_message with SLOW;
    a_poll_that_is_given_up_loses_no_message with PATIENT;
    a_delayed_message_comes_when_its_delay_is_over with SLOW;
    a_message_with_the_longest_delay_is_not_received with SLOW;
    a_received_message_is_invisible_to_others with SLOW;
    a_message_that_is_not_deleted_comes_back with PATIENT;
    a_deleted_message_does_not_come_back with PATIENT;
    a_stale_receipt_is_no_error with PATIENT;
    a_stale_receipt_never_fails_and_does_nothing_where_that_is_promised with PATIENT;
    a_message_made_visible_is_received_at_once with SLOW;
    a_message_made_visible_later_is_received_then with SLOW;
    a_message_can_be_kept_invisible_for_longer with PATIENT;
    a_message_received_too_often_is_dead with QUICK;
    dead_messages_come_back_until_they_are_deleted with QUICK;
    garbage_is_delivered_as_such_and_ends_dead with QUICK;
    an_unknown_version_is_delivered_as_such_and_ends_dead with QUICK;
    garbage_is_deleted_like_any_message with QUICK;
    the_stats_count_the_messages with SLOW;
    the_stats_count_the_dead with QUICK;
    fifty_receivers_lose_none_of_two_hundred_messages with PATIENT;
    fifty_receivers_and_senders_at_once_lose_nothing with SLOW;
}

type Subject = Arc<QueueUnderTest>;

async fn a_sent_wake_up_is_received(s: Subject) {
    s.send("landing-page").await;
    let message = s.receive().await;
    assert_eq!(message.body, Ok(wake_up("landing-page")));
    assert_eq!(message.receive_count, 1);
}

async fn a_wake_up_keeps_its_agent(s: Subject) {
    let agents = std::iter::once(None).chain(AgentName::ALL.map(Some));
    for agent in agents {
        let wake_up = WakeUp { agent, ..wake_up("site") };
        s.queue.send(&wake_up, Duration::ZERO).await.expect("it is sent");
        let from = s.queue_of(agent);
        let message = receive_from(from).await;
        assert_eq!(message.body, Ok(wake_up));
        from.delete(&message.receipt).await.expect("it can be deleted");
    }
}

async fn a_runner_receives_only_from_its_queue(s: Subject) {
    let of = |agent, project: &str| WakeUp { agent, ..wake_up(project) };
    let (codex, command) = (Some(AgentName::Codex), Some(AgentName::Command));
    let sent =
        [of(codex, "site-1"), of(command, "site-2"), of(None, "site-3"), of(codex, "site-4")];
    for (number, wake_up) in sent.iter().enumerate() {
        // Both runners send, and to both queues.
        let by = if number % 2 == 0 { &*s.queue } else { s.queue_of(codex) };
        by.send(wake_up, Duration::ZERO).await.expect("it is sent");
    }
    s.stats_become(QueueStats { visible: 4, ..QueueStats::default() }).await;
    let queues = match &s.of_codex {
        Some(of_codex) => vec![(of_codex, vec![0, 3]), (&s.queue, vec![1, 2])],
        None => vec![(&s.queue, vec![0, 1, 2, 3])],
    };
    for (queue, expected) in queues {
        let mut expected: Vec<&WakeUp> = expected.into_iter().map(|one| &sent[one]).collect();
        let mut received = Vec::new();
        for _ in &expected {
            received.push(receive_from(&**queue).await.body.expect("a wake-up"));
        }
        received.sort();
        expected.sort();
        assert_eq!(received.iter().collect::<Vec<_>>(), expected);
        assert_eq!(queue.receive(SECOND).await.expect("the queue answers"), None);
    }
    s.stats_become(QueueStats { in_flight: 4, ..QueueStats::default() }).await;
}

async fn a_message_of_an_agent_s_queue_is_hidden_and_deleted_there(s: Subject) {
    let wake_up = WakeUp { agent: Some(AgentName::Codex), ..wake_up("site") };
    let queue = s.queue_of(wake_up.agent);
    s.queue.send(&wake_up, SECOND).await.expect("it is sent");
    let message = receive_from(queue).await;
    assert_eq!(queue.receive(Duration::ZERO).await.expect("the queue answers"), None);
    queue.set_visibility(&message.receipt, Duration::ZERO).await.expect("it can be shown");
    let again = receive_from(queue).await;
    assert_eq!((again.body, again.receive_count), (Ok(wake_up), 2));
    queue.delete(&again.receipt).await.expect("it can be deleted");
    s.stats_become(QueueStats::default()).await;
}

async fn the_queues_of_all_agents_share_the_dead_letters(s: Subject) {
    for agent in [None, Some(AgentName::Codex)] {
        let wake_up = WakeUp { agent, ..wake_up("site") };
        s.queue.send(&wake_up, Duration::ZERO).await.expect("it is sent");
        let dead = s.until_dead_in(s.queue_of(agent), |_| {}).await;
        assert_eq!(WakeUp::decode(&dead.body), Ok(wake_up));
        s.queue.delete_dead(&dead.receipt).await.expect("it can be deleted");
    }
}

async fn an_empty_queue_answers_after_the_wait(s: Subject) {
    for wait in [Duration::ZERO, SECOND] {
        let begun = Instant::now();
        assert_eq!(s.queue.receive(wait).await.expect("the queue answers"), None);
        let took = begun.elapsed();
        // A queue's clock may be a little ahead of ours.
        assert!(took >= wait * 9 / 10, "it answers after {took:?}, before the wait is over");
        assert!(took < wait + Duration::from_secs(18), "{took:?}");
    }
}

async fn a_long_poll_ends_when_a_message_comes(s: Subject) {
    for round in 0..3 {
        let name = format!("site-{round}");
        // `join!` polls its arms in order: the receiver waits before anything is sent.
        let begun = Instant::now();
        let (received, ()) = tokio::join!(s.queue.receive(Duration::from_secs(20)), s.send(&name));
        let message = received.expect("the queue answers").expect("a message came");
        assert_eq!(message.body, Ok(wake_up(&name)));
        assert!(begun.elapsed() < Duration::from_secs(18), "{:?}", begun.elapsed());
        s.queue.delete(&message.receipt).await.expect("it can be deleted");
    }
}

async fn every_long_poller_gets_a_message(s: Subject) {
    let mut pollers = Vec::new();
    for _ in 0..5 {
        let s = Arc::clone(&s);
        pollers.push(tokio::spawn(async move { s.receive().await.body }));
    }
    for number in 0..5 {
        s.send(&format!("site-{number}")).await;
    }
    let mut got = Vec::new();
    for poller in pollers {
        let body = poller.await.expect("a poller does not panic");
        got.push(body.expect("a wake-up").project_id.to_string());
    }
    got.sort();
    assert_eq!(got, ["site-0", "site-1", "site-2", "site-3", "site-4"]);
}

async fn a_poll_that_is_given_up_loses_no_message(s: Subject) {
    for round in 0..5 {
        let name = format!("site-{round}");
        let poll = s.queue.receive(Duration::from_secs(20));
        let sent = tokio::time::timeout(Duration::from_millis(10 * round), poll).await;
        if let Ok(answer) = sent {
            assert_eq!(answer.expect("the queue answers"), None, "nothing was sent");
        }
        s.send(&name).await;
        let message = s.receive().await;
        assert_eq!(message.body, Ok(wake_up(&name)));
        s.queue.delete(&message.receipt).await.expect("it can be deleted");
    }
}

async fn a_delayed_message_comes_when_its_delay_is_over(s: Subject) {
    let delay = Duration::from_secs(2);
    let sent = Instant::now();
    s.queue.send(&wake_up("later"), delay).await.expect("it is sent");
    s.send("now").await;
    let first = s.receive().await;
    assert_eq!(first.body, Ok(wake_up("now")), "it does not wait behind the delayed one");
    let second = s.receive().await;
    assert_eq!(second.body, Ok(wake_up("later")));
    // A queue may round to whole seconds.
    assert!(sent.elapsed() > delay - SECOND, "after {:?}", sent.elapsed());
    assert_eq!(second.receive_count, 1);
}

async fn a_message_with_the_longest_delay_is_not_received(s: Subject) {
    let longest = rdev_domain::outbox::MAX_DELAY;
    s.queue.send(&wake_up("later"), longest).await.expect("15 min are allowed");
    assert_eq!(s.queue.receive(SECOND).await.expect("the queue answers"), None);
    s.stats_become(QueueStats { delayed: 1, ..QueueStats::default() }).await;
}

async fn a_received_message_is_invisible_to_others(s: Subject) {
    s.send("site").await;
    let mut pollers = Vec::new();
    for _ in 0..10 {
        let s = Arc::clone(&s);
        pollers.push(tokio::spawn(async move { s.queue.receive(2 * SECOND).await }));
    }
    let mut got = 0;
    for poller in pollers {
        let answer = poller.await.expect("a poller does not panic").expect("the queue answers");
        got += usize::from(answer.is_some());
    }
    assert_eq!(got, 1);
}

async fn a_message_that_is_not_deleted_comes_back(s: Subject) {
    s.send("site").await;
    let mut last = s.receive().await;
    for _ in 0..2 {
        let again = s.receive().await;
        assert_eq!(again.body, Ok(wake_up("site")));
        assert!(again.receive_count > last.receive_count, "{again:?} after {last:?}");
        assert_ne!(again.receipt, last.receipt, "each delivery has a receipt of its own");
        last = again;
    }
    assert!(last.receive_count >= 3);
}

async fn a_deleted_message_does_not_come_back(s: Subject) {
    s.send("site").await;
    let message = s.receive().await;
    for _ in 0..2 {
        s.queue.delete(&message.receipt).await.expect("deleting twice is deleting once");
    }
    assert_eq!(s.queue.receive(3 * SECOND).await.expect("the queue answers"), None);
    s.stats_become(QueueStats::default()).await;
}

async fn a_stale_receipt_is_no_error(s: Subject) {
    s.send("site").await;
    let stale = s.receive().await.receipt;
    let fresh = s.receive().await.receipt;
    s.queue.set_visibility(&stale, 2 * SECOND).await.expect("a stale receipt is nothing");
    s.queue.delete(&stale).await.expect("a stale receipt succeeds");
    s.queue.delete(&fresh).await.expect("the message is gone with the fresh one");
    assert_eq!(s.queue.receive(3 * SECOND).await.expect("the queue answers"), None);
    s.queue.delete(&stale).await.expect("a stale receipt succeeds");
    s.queue.set_visibility(&fresh, SECOND).await.expect("a stale receipt is nothing");
    assert_eq!(s.queue.receive(SECOND).await.expect("the queue answers"), None);
}

async fn a_stale_receipt_never_fails_and_does_nothing_where_that_is_promised(s: Subject) {
    s.send("site").await;
    let stale = s.receive().await;
    let fresh = s.receive().await;
    s.queue.delete(&stale.receipt).await.expect("a stale receipt succeeds");
    s.queue.set_visibility(&fresh.receipt, Duration::from_secs(5)).await.expect("it is in flight");
    s.queue.set_visibility(&stale.receipt, Duration::ZERO).await.expect("it is nothing");
    if !s.stale_receipts_do_nothing {
        // SQS: it may have deleted the message, or shown it again. Neither loses work.
        return;
    }
    assert_eq!(s.queue.receive(2 * SECOND).await.expect("the queue answers"), None);
    let again = s.receive().await;
    assert_eq!(again.receive_count, 3, "it was not deleted, and came back in its own time");
    // Past its visibility, but not delivered to anybody else: still this holder's.
    s.queue.delete(&again.receipt).await.expect("it can be deleted");
    assert_eq!(s.queue.receive(2 * SECOND).await.expect("the queue answers"), None);
}

async fn a_message_made_visible_is_received_at_once(s: Subject) {
    s.send("site").await;
    for count in 1..=3 {
        let message = s.receive().await;
        assert!(message.receive_count >= count);
        s.queue.set_visibility(&message.receipt, Duration::ZERO).await.expect("it is in flight");
    }
    // Also for one who waits already.
    let held = s.receive().await;
    let (received, visible) = tokio::join!(
        s.queue.receive(Duration::from_secs(20)),
        s.queue.set_visibility(&held.receipt, Duration::ZERO)
    );
    visible.expect("it is in flight");
    assert!(received.expect("the queue answers").is_some());
}

async fn a_message_made_visible_later_is_received_then(s: Subject) {
    s.send("site").await;
    let message = s.receive().await;
    let begun = Instant::now();
    s.queue.set_visibility(&message.receipt, 2 * SECOND).await.expect("it is in flight");
    s.receive().await;
    assert!(begun.elapsed() > SECOND, "after {:?}", begun.elapsed());
}

async fn a_message_can_be_kept_invisible_for_longer(s: Subject) {
    s.send("site").await;
    let message = s.receive().await;
    s.queue.set_visibility(&message.receipt, Duration::from_secs(6)).await.expect("in flight");
    assert_eq!(s.queue.receive(3 * SECOND).await.expect("the queue answers"), None);
    s.queue.delete(&message.receipt).await.expect("it can be deleted");
    assert_eq!(s.queue.receive(5 * SECOND).await.expect("the queue answers"), None);
}

async fn a_message_received_too_often_is_dead(s: Subject) {
    s.send("site").await;
    let mut receives = 0;
    let dead = s.until_dead(|_| receives += 1).await;
    assert_eq!(dead.body, wake_up("site").encode());
    assert!(dead.receive_count >= QUICK.max_receives, "{dead:?}");
    assert!(receives <= QUICK.max_receives, "it was delivered {receives} times");
    assert_eq!(s.queue.receive(2 * SECOND).await.expect("the queue answers"), None);
}

async fn dead_messages_come_back_until_they_are_deleted(s: Subject) {
    s.send("site").await;
    let first = s.until_dead(|_| {}).await;
    let second = s.until_dead(|_| {}).await;
    assert_eq!((&second.body, second.sent_at), (&first.body, first.sent_at));
    s.queue.delete_dead(&second.receipt).await.expect("it can be deleted");
    // What was deleted is not there when its visibility is over.
    let gone = Instant::now();
    while gone.elapsed() < 3 * SECOND {
        assert_eq!(s.queue.receive_dead(10).await.expect("the queue answers"), []);
        assert_eq!(s.queue.receive(SECOND).await.expect("the queue answers"), None);
    }
    s.stats_become(QueueStats::default()).await;
}

async fn garbage_is_delivered_as_such_and_ends_dead(s: Subject) {
    for text in ["not a wake-up", r#"{"v":1,"project_id":"../x"}"#, "ü \"quoted\" \\"] {
        (s.send_raw)(text.to_owned()).await;
        let dead = s
            .until_dead(|message| assert_eq!(message.body, Err(Undecodable::Garbage), "{text}"))
            .await;
        assert_eq!(dead.body, text, "it is recorded as it came");
        s.queue.delete_dead(&dead.receipt).await.expect("it can be deleted");
    }
}

async fn an_unknown_version_is_delivered_as_such_and_ends_dead(s: Subject) {
    let text = r#"{"v":7,"projects":["a","b"]}"#;
    (s.send_raw)(text.to_owned()).await;
    let unknown = Err(Undecodable::UnknownVersion(7));
    let dead = s.until_dead(|message| assert_eq!(message.body, unknown)).await;
    assert_eq!(dead.body, text);
}

async fn garbage_is_deleted_like_any_message(s: Subject) {
    (s.send_raw)("not a wake-up".to_owned()).await;
    let message = s.receive().await;
    assert_eq!(message.body, Err(Undecodable::Garbage));
    s.queue.delete(&message.receipt).await.expect("it can be deleted");
    assert_eq!(s.queue.receive(2 * SECOND).await.expect("the queue answers"), None);
    assert_eq!(s.queue.receive_dead(10).await.expect("the queue answers"), []);
}

async fn the_stats_count_the_messages(s: Subject) {
    s.stats_become(QueueStats::default()).await;
    for name in ["a", "b", "c"] {
        s.send(name).await;
    }
    s.queue.send(&wake_up("later"), Duration::from_secs(600)).await.expect("it is sent");
    let received = s.receive().await;
    s.stats_become(QueueStats { visible: 2, in_flight: 1, delayed: 1, dead: 0 }).await;
    s.queue.delete(&received.receipt).await.expect("it can be deleted");
    s.stats_become(QueueStats { visible: 2, in_flight: 0, delayed: 1, dead: 0 }).await;
}

async fn the_stats_count_the_dead(s: Subject) {
    s.send("site").await;
    let dead = s.until_dead(|_| {}).await;
    s.stats_become(QueueStats { dead: 1, ..QueueStats::default() }).await;
    s.queue.delete_dead(&dead.receipt).await.expect("it can be deleted");
    s.stats_become(QueueStats::default()).await;
}

async fn fifty_receivers_lose_none_of_two_hundred_messages(s: Subject) {
    for number in 0..200 {
        s.send(&format!("site-{number}")).await;
    }
    let received = received_by_fifty(&s, 200).await;
    assert_eq!(received.len(), 200, "each was received");
}

async fn fifty_receivers_and_senders_at_once_lose_nothing(s: Subject) {
    let mut senders = Vec::new();
    for sender in 0..10 {
        let s = Arc::clone(&s);
        senders.push(tokio::spawn(async move {
            for number in 0..10 {
                s.send(&format!("site-{sender}-{number}")).await;
            }
        }));
    }
    let received = received_by_fifty(&s, 100).await;
    for sender in senders {
        sender.await.expect("a sender does not panic");
    }
    assert_eq!(received.len(), 100, "each was received");
    let twice: Vec<_> = received.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.len() <= 5, "at least once is not as a rule twice: {twice:?}");
}

/// What fifty receivers get, who delete what they get, until it is `expected` projects.
async fn received_by_fifty(s: &Subject, expected: usize) -> HashMap<String, u32> {
    let received = Arc::new(Mutex::new(HashMap::new()));
    let missing = Arc::new(AtomicUsize::new(expected));
    let begun = Instant::now();
    let mut receivers = Vec::new();
    for _ in 0..50 {
        let (s, received, missing) = (Arc::clone(s), Arc::clone(&received), Arc::clone(&missing));
        receivers.push(tokio::spawn(async move {
            while missing.load(Ordering::SeqCst) > 0 {
                assert!(begun.elapsed() < DEADLINE, "{missing:?} messages are missing");
                let answer = s.queue.receive(SECOND).await.expect("the queue answers");
                let Some(message) = answer else { continue };
                let name = message.body.expect("a wake-up").project_id.to_string();
                let first = {
                    let mut received = received.lock().expect("no receiver panics here");
                    let times = received.entry(name).or_insert(0_u32);
                    *times += 1;
                    *times == 1
                };
                if first {
                    missing.fetch_sub(1, Ordering::SeqCst);
                }
                s.queue.delete(&message.receipt).await.expect("it can be deleted");
            }
        }));
    }
    for receiver in receivers {
        receiver.await.unwrap_or_else(|gone| std::panic::resume_unwind(gone.into_panic()));
    }
    let received = received.lock().expect("no receiver panics here");
    received.clone()
}

impl QueueUnderTest {
    async fn send(&self, project: &str) {
        self.queue.send(&wake_up(project), Duration::ZERO).await.expect("it is sent");
    }

    /// The next message, which must come.
    async fn receive(&self) -> ReceivedMessage {
        receive_from(&*self.queue).await
    }

    /// What the runners receive from that have this agent.
    fn queue_of(&self, agent: Option<AgentName>) -> &dyn Queue {
        let codex = self.of_codex.as_ref().filter(|_| agent == Some(AgentName::Codex));
        &**codex.unwrap_or(&self.queue)
    }

    /// Receives, and deletes nothing, until a message is dead.
    async fn until_dead(&self, on_message: impl FnMut(&ReceivedMessage)) -> DeadMessage {
        self.until_dead_in(&*self.queue, on_message).await
    }

    async fn until_dead_in(
        &self,
        queue: &dyn Queue,
        mut on_message: impl FnMut(&ReceivedMessage),
    ) -> DeadMessage {
        let begun = Instant::now();
        loop {
            let mut dead = self.queue.receive_dead(1).await.expect("the queue answers");
            if let Some(message) = dead.pop() {
                return message;
            }
            assert!(begun.elapsed() < DEADLINE, "a message is dead");
            if let Some(message) = queue.receive(SECOND).await.expect("the queue answers") {
                on_message(&message);
            }
        }
    }

    /// Waits until the stats, which are only roughly right at once, are these.
    async fn stats_become(&self, expected: QueueStats) {
        let begun = Instant::now();
        loop {
            let stats = self.queue.stats().await.expect("the queue answers");
            if stats == expected {
                return;
            }
            assert!(begun.elapsed() < DEADLINE, "the stats are {stats:?}, not {expected:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// The next message of a queue, which must come.
async fn receive_from(queue: &dyn Queue) -> ReceivedMessage {
    let begun = Instant::now();
    loop {
        let wait = Duration::from_secs(20);
        if let Some(message) = queue.receive(wait).await.expect("the queue answers") {
            return message;
        }
        assert!(begun.elapsed() < DEADLINE, "a message comes");
    }
}

fn wake_up(project: &str) -> WakeUp {
    WakeUp { project_id: project.parse().expect("a slug"), agent: None }
}
