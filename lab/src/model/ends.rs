//! Whether what goes on from a state, when nothing more goes wrong, comes to its end. Many states
//! go on alike, so what was found is kept.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// How many sets the hashes are spread over, so that threads seldom wait for each other.
const SHARDS: usize = 64;

/// The hashes of the states that are known to come to their end.
#[derive(Debug, Clone)]
pub struct Ends(Arc<Vec<Mutex<HashSet<u64>>>>);

impl Default for Ends {
    fn default() -> Self {
        Self(Arc::new((0..SHARDS).map(|_| Mutex::default()).collect()))
    }
}

/// What a step has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It goes on.
    On,
    /// Everything has ended.
    Ended,
    /// Nothing can happen any more, and something has not ended.
    Stuck,
}

impl Ends {
    /// Goes on from a state by `step`, at most `most` times. `key` is the hash of all that decides
    /// how it goes on.
    pub fn reached<S>(
        &self,
        state: &mut S,
        most: usize,
        key: impl Fn(&S) -> u64,
        mut step: impl FnMut(&mut S) -> Step,
    ) -> bool {
        let mut seen = Vec::new();
        for _ in 0..most {
            let now = key(state);
            if self.shard(now, |known| known.contains(&now)) {
                self.keep(&seen);
                return true;
            }
            seen.push(now);
            match step(state) {
                Step::On => {}
                Step::Ended => {
                    self.keep(&seen);
                    return true;
                }
                Step::Stuck => return false,
            }
        }
        false
    }

    fn keep(&self, seen: &[u64]) {
        for hash in seen {
            self.shard(*hash, |known| known.insert(*hash));
        }
    }

    fn shard<R>(&self, hash: u64, with: impl FnOnce(&mut HashSet<u64>) -> R) -> R {
        let place = (hash % SHARDS as u64) as usize;
        // A set is whole after each of its operations.
        with(&mut self.0[place].lock().unwrap_or_else(PoisonError::into_inner))
    }
}
