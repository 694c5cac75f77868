//! The queue of the project's wake-ups, and the marks of those that are still to be sent.

use rdev_domain::time::Timestamp;

use super::Project;
use super::bounds::Queue;
use super::world::World;
use crate::model::record::NOW;

/// As many wake-ups are in the queue at most, and as many marks in the store: for the same project
/// one more changes nothing.
const MOST: usize = 4;

/// For how many seconds a wake-up is hidden from its receipt, its claim or a renewal on: longer
/// than the lease lasts.
pub const HIDDEN_FOR: i32 = 75;

/// A wake-up in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Message {
    /// For how many seconds nobody receives it.
    pub hidden_for: i32,
    /// Whether it was received before.
    pub received: bool,
    /// The runner that received it last.
    pub by: Option<usize>,
}

/// How the wake-ups of a transaction are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sending {
    /// They are sent, and their marks deleted.
    Well,
    /// They are not sent: the process dies, or the queue is away.
    Not,
    /// They are sent, and their marks stay.
    MarksStay,
}

/// Sends the wake-ups that a transaction has made necessary.
pub fn send(world: &mut World, project: &Project, wake_ups: &[Timestamp], how: Sending) {
    if project.bounds.queue == Queue::Any {
        return;
    }
    for at in wake_ups {
        if how != Sending::Well && world.marks < MOST {
            world.marks += 1;
        }
        if how != Sending::Not {
            put(world, project, seconds_until(*at).max(0));
        }
    }
}

/// Puts a wake-up into the queue. One that delivers them anyhow does not need it.
pub fn put(world: &mut World, project: &Project, delay: i32) {
    if project.bounds.queue == Queue::Good && world.messages.len() < MOST {
        world.messages.push(Message { hidden_for: delay, received: false, by: None });
    }
}

/// Deletes the wake-up that a runner has received, if nobody has received it since.
pub fn delete(world: &mut World, runner: usize) {
    world.messages.retain(|message| message.by != Some(runner));
}

/// Hides the wake-up of a runner for some time, if nobody has received it since.
pub fn hide(world: &mut World, runner: usize, seconds: i32) {
    let mut of_runner = world.messages.iter_mut().filter(|message| message.by == Some(runner));
    if let Some(message) = of_runner.next() {
        message.hidden_for = seconds;
    }
}

/// How long it is until a moment, in seconds.
pub fn seconds_until(at: Timestamp) -> i32 {
    let millis = at.as_millis() - NOW.as_millis();
    i32::try_from(millis.div_euclid(1000)).unwrap_or(i32::MAX)
}
