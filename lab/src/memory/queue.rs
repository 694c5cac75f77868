//! Queues in memory, which can lose, double, delay and reorder messages: a default one, and one for
//! each agent that has its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rdev_domain::Invalid;
use rdev_domain::outbox::MAX_DELAY;
use rdev_domain::ports::{
    DeadMessage, MAX_RECEIVES, PortResult, Queue, QueueStats, Receipt, ReceivedMessage, VISIBILITY,
};
use rdev_domain::spec::AgentName;
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::WakeUp;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The longest wait of one [`Queue::receive`].
const MAX_WAIT: Duration = Duration::from_secs(20);

/// How a queue is opened.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueOptions {
    /// How long a received message stays invisible, a dead one too.
    pub visibility: Duration,
    /// How often a message is received before it is dead.
    pub max_receives: u32,
    /// What time the queue's clock shows when it is opened. From then on tokio's clock drives it.
    pub opened_at: Timestamp,
    /// What goes wrong.
    pub faults: Faults,
    /// The agents that have queues of their own.
    pub own_queues: BTreeSet<AgentName>,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            visibility: VISIBILITY,
            max_receives: MAX_RECEIVES,
            opened_at: Timestamp::from_millis(0),
            faults: Faults::default(),
            own_queues: BTreeSet::new(),
        }
    }
}

/// What goes wrong, and how often: each share lies between 0 (never) and 1 (always). All of it
/// is what the port allows, but for lost messages, which only the sweep makes up for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Faults {
    /// The same seed and the same calls give the same faults.
    pub seed: u64,
    /// The share of messages that are accepted and lost.
    pub lost: f64,
    /// The share of messages that are there twice.
    pub doubled: f64,
    /// The share of messages that become visible late: by up to `longest_delay` more.
    pub delayed: f64,
    /// The longest that a message is late.
    pub longest_delay: Duration,
    /// The share of receives that take any visible message and not the first.
    pub reordered: f64,
    /// The share of receives that nobody sees: the message is counted as received and invisible.
    pub unseen: f64,
    /// The share of deletions that are acknowledged and do not happen.
    pub undeleted: f64,
}

/// Wake-ups in memory, as a runner has them that receives from one of the queues.
#[derive(Debug)]
pub struct MemoryQueue {
    queues: Arc<Queues>,
    /// The agent of the queue that it receives from; `None` is the default queue.
    own: Option<AgentName>,
}

/// All queues.
#[derive(Debug)]
struct Queues {
    options: QueueOptions,
    opened: Instant,
    state: Mutex<State>,
    /// Wakes every receiver when a message can be received earlier than it knows.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    random: StdRng,
    next_id: u64,
    messages: BTreeMap<u64, Message>,
    dead: BTreeMap<u64, Message>,
}

#[derive(Debug, Clone)]
struct Message {
    body: String,
    /// The agent whose queue it is in; `None` is the default queue.
    queue: Option<AgentName>,
    sent_at: Timestamp,
    visible_at: Instant,
    receive_count: u32,
    /// How often it was taken from the dead letters.
    dead_count: u32,
}

impl MemoryQueue {
    /// Empty queues; what is received comes from the default one.
    pub fn new(options: QueueOptions) -> Self {
        let random = StdRng::seed_from_u64(options.faults.seed);
        let messages = BTreeMap::new();
        let state = State { random, next_id: 1, messages, dead: BTreeMap::new() };
        let (opened, changed) = (Instant::now(), Notify::new());
        let queues = Queues { options, opened, state: Mutex::new(state), changed };
        Self { queues: Arc::new(queues), own: None }
    }

    /// The same queues for a runner that receives from this agent's queue.
    pub fn of(&self, agent: AgentName) -> Self {
        Self { queues: Arc::clone(&self.queues), own: self.queue_of(Some(agent)) }
    }

    /// Sends a message of any text to the default queue, as another program or version would.
    pub fn send_text(&self, body: String, delay: Duration) {
        self.send_to(None, body, delay);
    }

    fn send_to(&self, queue: Option<AgentName>, body: String, delay: Duration) {
        let now = Instant::now();
        let sent_at = self.queues.options.opened_at.plus(now - self.queues.opened);
        let visible_at = now + delay;
        self.state().send(
            Message { body, queue, sent_at, visible_at, receive_count: 0, dead_count: 0 },
            &self.queues.options.faults,
        );
        self.queues.changed.notify_waiters();
    }

    /// The agent whose queue has this agent's wake-ups.
    fn queue_of(&self, agent: Option<AgentName>) -> Option<AgentName> {
        agent.filter(|agent| self.queues.options.own_queues.contains(agent))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.queues.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Queue for MemoryQueue {
    async fn send(&self, wake_up: &WakeUp, delay: Duration) -> PortResult<()> {
        if delay > MAX_DELAY {
            return Err(Invalid::new("delay", "must be at most 15 minutes").into());
        }
        self.send_to(self.queue_of(wake_up.agent), wake_up.encode(), delay);
        Ok(())
    }

    async fn receive(&self, wait: Duration) -> PortResult<Option<ReceivedMessage>> {
        let deadline = Instant::now() + wait.min(MAX_WAIT);
        loop {
            // Registered before the look, so that a message sent in between is not missed.
            let mut changed = std::pin::pin!(self.queues.changed.notified());
            changed.as_mut().enable();
            let now = Instant::now();
            let next = match self.state().receive(&self.queues.options, self.own, now) {
                Received::Message(message) => return Ok(Some(message)),
                Received::Unseen => continue,
                Received::Nothing { next } => next,
            };
            if now >= deadline {
                return Ok(None);
            }
            let until = next.map_or(deadline, |at| at.min(deadline));
            tokio::select! {
                () = &mut changed => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    async fn delete(&self, receipt: &Receipt) -> PortResult<()> {
        let mut state = self.state();
        if let Some(id) = delivery(receipt, &state.messages, |message| message.receive_count)
            && !state.happens(self.queues.options.faults.undeleted)
        {
            state.messages.remove(&id);
        }
        Ok(())
    }

    async fn set_visibility(&self, receipt: &Receipt, after: Duration) -> PortResult<()> {
        let mut state = self.state();
        if let Some(id) = delivery(receipt, &state.messages, |message| message.receive_count)
            && let Some(message) = state.messages.get_mut(&id)
        {
            message.visible_at = Instant::now() + after;
        }
        drop(state);
        self.queues.changed.notify_waiters();
        Ok(())
    }

    async fn receive_dead(&self, limit: u32) -> PortResult<Vec<DeadMessage>> {
        let (now, mut state) = (Instant::now(), self.state());
        state.bury(self.queues.options.max_receives, now);
        let visible = state.dead.iter_mut().filter(|(_, message)| message.visible_at <= now);
        let taken = visible.take(limit as usize).map(|(id, message)| {
            message.visible_at = now + self.queues.options.visibility;
            message.dead_count += 1;
            DeadMessage {
                receipt: receipt(*id, message.dead_count),
                body: message.body.clone(),
                receive_count: message.receive_count,
                sent_at: message.sent_at,
            }
        });
        Ok(taken.collect())
    }

    async fn delete_dead(&self, receipt: &Receipt) -> PortResult<()> {
        let mut state = self.state();
        if let Some(id) = delivery(receipt, &state.dead, |message| message.dead_count) {
            state.dead.remove(&id);
        }
        Ok(())
    }

    async fn stats(&self) -> PortResult<QueueStats> {
        let (now, mut state) = (Instant::now(), self.state());
        state.bury(self.queues.options.max_receives, now);
        let mut stats = QueueStats { dead: state.dead.len() as u64, ..QueueStats::default() };
        for message in state.messages.values() {
            match (message.visible_at <= now, message.receive_count) {
                (true, _) => stats.visible += 1,
                (false, 0) => stats.delayed += 1,
                (false, _) => stats.in_flight += 1,
            }
        }
        Ok(stats)
    }
}

/// What a look for a message finds.
enum Received {
    Message(ReceivedMessage),
    /// A message was received, and the answer was lost.
    Unseen,
    /// No message is visible before `next`.
    Nothing {
        next: Option<Instant>,
    },
}

impl State {
    fn send(&mut self, mut message: Message, faults: &Faults) {
        if self.happens(faults.lost) {
            return;
        }
        if self.happens(faults.delayed) {
            let longest = u64::try_from(faults.longest_delay.as_millis()).unwrap_or(u64::MAX);
            let late = Duration::from_millis(self.random.random_range(0..=longest));
            message.visible_at += late;
        }
        let copies = if self.happens(faults.doubled) { 2 } else { 1 };
        for _ in 0..copies {
            self.messages.insert(self.next_id, message.clone());
            self.next_id += 1;
        }
    }

    fn receive(
        &mut self,
        options: &QueueOptions,
        queue: Option<AgentName>,
        now: Instant,
    ) -> Received {
        self.bury(options.max_receives, now);
        let mut visible: Vec<(Instant, u64)> = (self.messages.iter())
            .filter(|(_, message)| message.queue == queue && message.visible_at <= now)
            .map(|(id, message)| (message.visible_at, *id))
            .collect();
        visible.sort_unstable();
        let any = if self.happens(options.faults.reordered) && !visible.is_empty() {
            self.random.random_range(0..visible.len())
        } else {
            0
        };
        let unseen = !visible.is_empty() && self.happens(options.faults.unseen);
        let found = visible.get(any).and_then(|(_, id)| Some((*id, self.messages.get_mut(id)?)));
        let Some((id, message)) = found else {
            let own = self.messages.values().filter(|message| message.queue == queue);
            return Received::Nothing { next: own.map(|message| message.visible_at).min() };
        };
        message.receive_count += 1;
        message.visible_at = now + options.visibility;
        if unseen {
            return Received::Unseen;
        }
        Received::Message(ReceivedMessage {
            receipt: receipt(id, message.receive_count),
            body: WakeUp::decode(&message.body),
            receive_count: message.receive_count,
        })
    }

    /// Moves the visible messages that were received too often to the dead ones.
    fn bury(&mut self, max_receives: u32, now: Instant) {
        let spent = |message: &mut Message| {
            message.visible_at <= now && message.receive_count >= max_receives
        };
        for (id, mut message) in self.messages.extract_if(.., |_, message| spent(message)) {
            message.visible_at = now;
            self.dead.insert(id, message);
        }
    }

    fn happens(&mut self, share: f64) -> bool {
        // Without faults nothing is drawn.
        share > 0.0 && self.random.random_bool(share.min(1.0))
    }
}

/// A receipt names a message and how many times it had been received then.
fn receipt(id: u64, count: u32) -> Receipt {
    Receipt(format!("{id}.{count}"))
}

/// The message of a receipt, unless it was delivered again since.
fn delivery(
    receipt: &Receipt,
    messages: &BTreeMap<u64, Message>,
    count: impl Fn(&Message) -> u32,
) -> Option<u64> {
    let (id, received) = receipt.0.split_once('.')?;
    let (id, received): (u64, u32) = (id.parse().ok()?, received.parse().ok()?);
    messages.get(&id).is_some_and(|message| count(message) == received).then_some(id)
}

#[cfg(test)]
mod tests;
