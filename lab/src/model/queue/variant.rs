//! The protocol without one of its rules.

use super::Bounds;

/// The protocol, or one that lacks a rule of it: each of these must be caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Every rule.
    Protocol,
    /// Whoever writes names its fence alone; the owner does not matter. So a claim that was lost to
    /// another process is taken for the own one whose answer was lost.
    IgnoresOwner,
    /// A claim counts the slots before its transaction, and not in it.
    CountsSlotsBefore,
    /// A recovery does not look whether the lease was renewed meanwhile.
    IgnoresHeartbeats,
    /// A lease counts as dead at its end on any clock.
    NoSlackForClocks,
    /// The wake-up is deleted before the end of the task is reported.
    DeletesBeforeComplete,
    /// Tasks are parked any number of times.
    ParksWithoutBound,
    /// The sweep recovers no lease.
    SweepRecoversNothing,
    /// The sweep wakes no project whose task has been due for long.
    SweepWakesNothing,
    /// The sweep sends no mark again.
    SweepLeavesMarks,
    /// A task that was cancelled while a runner gave it back is queued again.
    ForgetsTheCancellation,
}

impl Variant {
    /// The variants that must be caught.
    pub const BROKEN: [Self; 10] = [
        Self::IgnoresOwner,
        Self::CountsSlotsBefore,
        Self::IgnoresHeartbeats,
        Self::NoSlackForClocks,
        Self::DeletesBeforeComplete,
        Self::ParksWithoutBound,
        Self::SweepRecoversNothing,
        Self::SweepWakesNothing,
        Self::SweepLeavesMarks,
        Self::ForgetsTheCancellation,
    ];

    /// The bounds in which it must be caught.
    pub fn bounds(self) -> Bounds {
        match self {
            Self::DeletesBeforeComplete | Self::SweepLeavesMarks => Bounds::GOOD,
            Self::NoSlackForClocks => Bounds::CLOCKS,
            // One task is parked while the other one is read.
            Self::CountsSlotsBefore => Bounds { claims: 3, parks: 1, ..Bounds::TINY },
            Self::ForgetsTheCancellation => Bounds { releases: 1, ..Bounds::TINY },
            _ => Bounds::TINY,
        }
    }
}
