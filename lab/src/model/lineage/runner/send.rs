//! A push is sent, or a move in a folder begun, and what came of it.

use super::push::{pushed, revoked};
use super::ticket::{Write, wrote};
use super::verify::put_aside;
use super::{Attempt, Choice, Phase};
use crate::model::lineage::Protocol;
use crate::model::lineage::folder::{self, Order};
use crate::model::lineage::remote::{Push, Refused, Server};
use crate::model::lineage::world::World;
use crate::model::part::Part;

/// What came of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Done,
    Not(Refused),
    /// It will be refused again.
    Never,
    /// There is none: it may be applied later.
    Lost,
}

/// Sends a push, or begins a move in a folder.
pub(super) fn sends(
    world: &mut World,
    protocol: &Protocol,
    attempt: &mut Attempt,
    push: Push,
    choice: Choice,
) -> Option<Phase> {
    let answer = match choice {
        Choice::Badly => {
            world.left.lost -= 1;
            world.in_flight.push(Part::new(push));
            Answer::Lost
        }
        Choice::Refused => {
            world.left.refusals -= 1;
            Answer::Never
        }
        Choice::Well if protocol.bounds.server == Server::Folder && push.deletes.is_some() => {
            let order = Order::of(protocol.variant);
            match world.remote.change(|remote| folder::begin(remote, &push, order)) {
                Ok(stage) => {
                    attempt.moving = Some((push, stage));
                    return Some(attempt.phase.clone());
                }
                Err(refused) => Answer::Not(refused),
            }
        }
        Choice::Well => match world.remote.change(|remote| remote.apply(&push)) {
            Ok(()) => Answer::Done,
            Err(refused) => Answer::Not(refused),
        },
    };
    answered(world, protocol, attempt, answer)
}

pub(super) fn answered(
    world: &mut World,
    protocol: &Protocol,
    attempt: &mut Attempt,
    answer: Answer,
) -> Option<Phase> {
    match attempt.phase.clone() {
        Phase::Write { value, base, takes, .. } => {
            let write = Write { value, base, takes };
            wrote(world, protocol, attempt, write, answer)
        }
        Phase::Push { base, .. } => Some(pushed(attempt, base, answer)),
        Phase::Aside { base, then, .. } => Some(put_aside(attempt, base, then)),
        Phase::Revoke { ticket, class, then } => {
            revoked(world, protocol, attempt, &ticket, class, then, answer)
        }
        // The other phases push nothing.
        _ => None,
    }
}
