//! How much happens at most.

/// What the queue does with wake-ups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// It delivers one at any moment, any number of times, though none was sent; or none ever. So
    /// it loses, doubles and delays them, and brings them back after their deletion. Nothing may
    /// depend on it: what ends the tasks is the sweep.
    Any,
    /// It loses nothing, and delivers again only after the holder's lease has ended. There is no
    /// sweep, but for what sends marks again; no time passes between a receipt and its claim.
    Good,
}

/// How much happens at most. A bound is a blind spot: what needs more is not seen.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub queue: Queue,
    /// How many seconds pass at once.
    pub step: i32,
    /// The project's tasks.
    pub tasks: usize,
    /// How many of them may be held at once.
    pub limit: u32,
    /// By how many seconds the clock of each runner is wrong.
    pub runners: &'static [i32],
    /// By how many seconds the sweep's clock is wrong.
    pub sweep: i32,
    /// Claims.
    pub claims: u8,
    /// Answers of the store that are lost; of a good queue also sends that fail or are repeated.
    pub faults: u8,
    /// Tasks that are parked.
    pub parks: u8,
    /// Tasks that a runner gives back.
    pub releases: u8,
    /// Tasks that somebody cancels.
    pub cancels: u8,
}

impl Bounds {
    /// One slot for two tasks.
    pub const TINY: Self = Self {
        queue: Queue::Any,
        step: 15,
        tasks: 2,
        limit: 1,
        runners: &[0, 0],
        sweep: 0,
        claims: 2,
        faults: 1,
        parks: 0,
        releases: 0,
        cancels: 1,
    };

    /// A queue that can be relied on.
    pub const GOOD: Self = Self { queue: Queue::Good, claims: 3, ..Self::TINY };

    /// Clocks that disagree as far as they may, and steps that are short enough to tell.
    pub const CLOCKS: Self =
        Self { step: 5, tasks: 1, runners: &[-15, 0], faults: 0, ..Self::TINY };

    /// Minutes in all.
    pub const FULL: [Self; 3] = [
        Self { claims: 3, releases: 1, parks: 1, ..Self::TINY },
        Self { claims: 3, parks: 1, ..Self::CLOCKS },
        Self { releases: 1, ..Self::GOOD },
    ];

    /// How far two clocks disagree, in seconds.
    pub fn skew(&self) -> i32 {
        let clocks = || self.runners.iter().copied().chain([self.sweep]);
        clocks().max().unwrap_or(0) - clocks().min().unwrap_or(0)
    }

    /// The clock that is the farthest behind.
    pub fn slowest(&self) -> i32 {
        self.runners.iter().copied().chain([self.sweep]).min().unwrap_or(0)
    }
}
