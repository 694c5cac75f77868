//! The processes of runners: killed and stopped between any two of their steps.
//!
//! A step is one poll of one of its tasks. A killed process is never polled again, so nothing that
//! it would have done afterwards happens; what it has sent before arrives all the same.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::faults::Fault;
use super::world::World;

/// A process of a runner.
pub(super) struct Process {
    world: Arc<World>,
    name: String,
    state: Mutex<State>,
    died: Notify,
}

#[derive(Default)]
struct State {
    steps: u64,
    crash_at: Option<u64>,
    pause_at: Option<(u64, Duration)>,
    dead: bool,
    paused: bool,
    waiting: Vec<Waker>,
}

impl Process {
    /// A process that has not begun. Chance decides whether and when it is killed or stopped.
    pub(super) fn new(world: &Arc<World>, name: String) -> Arc<Self> {
        let mut state = State::default();
        let step = || u64::from(1 + world.below(if world.happens(500) { 150 } else { 900 }));
        if !world.is_calm() && world.happens(world.plan.crashes) {
            state.crash_at = Some(step());
        }
        if !world.is_calm() && world.happens(world.plan.pauses) {
            state.pause_at = Some((step(), pause(world)));
        }
        let (world, state) = (Arc::clone(world), Mutex::new(state));
        Arc::new(Self { world, name, state, died: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// Waits for its death.
    pub(super) async fn death(&self) {
        loop {
            let died = self.died.notified();
            if self.is_dead() {
                return;
            }
            died.await;
        }
    }

    /// Runs a task of it.
    pub(super) fn spawn(self: &Arc<Self>, work: BoxFuture<'static, ()>) -> AbortHandle {
        let task = Task { process: Arc::clone(self), work: Some(work) };
        tokio::spawn(task).abort_handle()
    }

    /// Kills it.
    pub(super) fn kill(&self) {
        let mut state = self.state();
        state.dead = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
        self.died.notify_waiters();
    }

    /// Stops it for a while.
    pub(super) fn pause(self: &Arc<Self>, span: Duration) {
        self.state().paused = true;
        self.world.trace(|| format!("{} stands still for {span:?}", self.name));
        let process = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(span).await;
            let mut state = process.state();
            state.paused = false;
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            process.world.trace(|| format!("{} goes on", process.name));
            waiting.into_iter().for_each(Waker::wake);
        });
    }

    /// Before each step: whether it may be made.
    fn enter(self: &Arc<Self>, waker: &Waker) -> Turn {
        let mut state = self.state();
        if state.dead {
            return Turn::Dead;
        }
        if !state.paused {
            state.steps += 1;
            let calm = self.world.is_calm();
            if state.crash_at == Some(state.steps) && !calm {
                drop(state);
                self.world.count(Fault::Crash);
                self.world.trace(|| format!("{} is killed", self.name));
                self.kill();
                return Turn::Dead;
            }
            let pause = state.pause_at.filter(|(at, _)| *at == state.steps && !calm);
            if let Some((_, span)) = pause {
                drop(state);
                self.world.count(Fault::Pause);
                self.pause(span);
                state = self.state();
            }
        }
        if state.paused {
            state.waiting.push(waker.clone());
            return Turn::Paused;
        }
        Turn::Step
    }
}

/// How long a process stands still: shorter than a lease, a little longer, or much longer.
pub(super) fn pause(world: &World) -> Duration {
    match world.below(3) {
        0 => world.millis(1_000, 44_000),
        1 => world.millis(45_000, 90_000),
        _ => world.millis(90_000, 900_000),
    }
}

enum Turn {
    Step,
    Paused,
    Dead,
}

/// A task of a process.
struct Task {
    process: Arc<Process>,
    work: Option<BoxFuture<'static, ()>>,
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.process.enter(cx.waker()) {
            Turn::Step => {}
            Turn::Paused => return Poll::Pending,
            Turn::Dead => {
                self.work = None;
                return Poll::Ready(());
            }
        }
        match &mut self.work {
            Some(work) => work.as_mut().poll(cx),
            None => Poll::Ready(()),
        }
    }
}
