//! What goes wrong, in paused time.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn queue(faults: Faults) -> MemoryQueue {
    MemoryQueue::new(QueueOptions { faults, ..QueueOptions::default() })
}

async fn send(queue: &MemoryQueue, project: &str) {
    let project_id = project.parse().expect("a slug");
    queue.send(&WakeUp { project_id, agent: None }, Duration::ZERO).await.expect("it is accepted");
}

async fn receive(queue: &MemoryQueue, wait: Duration) -> Option<ReceivedMessage> {
    queue.receive(wait).await.expect("the queue answers")
}

/// What a receiver gets who deletes what it gets: the messages, and after how many seconds.
async fn received(queue: &MemoryQueue) -> Vec<(String, u64)> {
    let (begun, mut received) = (Instant::now(), Vec::new());
    // Until nothing came for longer than a received message is invisible.
    let mut silent = 0;
    while silent < 6 {
        let Some(message) = receive(queue, MAX_WAIT).await else {
            silent += 1;
            continue;
        };
        silent = 0;
        queue.delete(&message.receipt).await.expect("the queue answers");
        let name = message.body.expect("a wake-up").project_id.to_string();
        received.push((name, begun.elapsed().as_secs()));
        assert!(received.len() < 10_000, "messages come for ever");
    }
    received
}

#[tokio::test(start_paused = true)]
async fn without_faults_each_message_comes_once_at_once_and_in_order() {
    let queue = queue(Faults::default());
    for name in ["a", "b", "c"] {
        send(&queue, name).await;
    }
    let at_once = ["a", "b", "c"].map(|name| (name.to_owned(), 0));
    assert_eq!(received(&queue).await, at_once);
}

#[tokio::test(start_paused = true)]
async fn a_lost_message_never_comes_and_a_doubled_one_comes_twice() {
    let lossy = queue(Faults { lost: 1.0, ..Faults::default() });
    send(&lossy, "a").await;
    assert_eq!(received(&lossy).await, []);
    let doubling = queue(Faults { doubled: 1.0, ..Faults::default() });
    send(&doubling, "a").await;
    assert_eq!(received(&doubling).await, [("a".to_owned(), 0), ("a".to_owned(), 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_message_comes_late_and_a_reordered_one_before_an_older_one() {
    let faults = Faults { delayed: 1.0, longest_delay: 100 * SECOND, ..Faults::default() };
    let late = queue(faults);
    for _ in 0..20 {
        send(&late, "a").await;
    }
    let times: Vec<u64> = received(&late).await.into_iter().map(|(_, at)| at).collect();
    assert_eq!(times.len(), 20);
    assert!(times[0] < 50 && (50..=100).contains(&times[19]), "{times:?}");

    let unordered = queue(Faults { reordered: 1.0, ..Faults::default() });
    let names: Vec<String> = (0..20).map(|number| format!("a{number:02}")).collect();
    for name in &names {
        send(&unordered, name).await;
    }
    let mut came: Vec<String> =
        received(&unordered).await.into_iter().map(|(name, _)| name).collect();
    assert_ne!(came, names);
    came.sort();
    assert_eq!(came, names);
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_receiver_or_deletion_is_lost_comes_back_until_it_is_dead() {
    for faults in [
        Faults { undeleted: 1.0, ..Faults::default() },
        Faults { unseen: 1.0, ..Faults::default() },
    ] {
        let visible = if faults.unseen > 0.0 { 0 } else { MAX_RECEIVES };
        let queue = queue(faults);
        send(&queue, "a").await;
        let (mut seen, mut dead) = (0, Vec::new());
        for _ in 0..1000 {
            if let Some(message) = receive(&queue, MAX_WAIT).await {
                seen += 1;
                queue.delete(&message.receipt).await.expect("the queue answers");
            }
            dead = queue.receive_dead(10).await.expect("the queue answers");
            if !dead.is_empty() {
                break;
            }
        }
        let counts: Vec<u32> = dead.iter().map(|message| message.receive_count).collect();
        assert_eq!((seen, counts), (visible, vec![MAX_RECEIVES]));
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_faults_and_another_seed_others() {
    let mut runs = Vec::new();
    for seed in [1, 1, 2] {
        let half = Faults {
            seed,
            lost: 0.3,
            doubled: 0.3,
            delayed: 0.3,
            longest_delay: 60 * SECOND,
            reordered: 0.3,
            unseen: 0.3,
            undeleted: 0.3,
        };
        let queue = queue(half);
        for number in 0..100 {
            send(&queue, &format!("a{number}")).await;
        }
        runs.push(received(&queue).await);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
}
