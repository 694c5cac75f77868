//! The operations, as they are drawn and shrunk: small numbers that the world turns into calls.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use rdev_domain::failure::FailureClass;
use rdev_domain::spec::AgentName;
use rdev_domain::task::TaskState;

/// One operation. Projects, tasks and claims are named by their number, counted from the newest
/// (projects: by name), and a number that is too large begins again at the first.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Op {
    /// Time passes, for everybody.
    Pass {
        seconds: u64,
    },
    /// From now on this clock is so many seconds ahead, or behind.
    SetClock {
        clock: usize,
        ahead: i64,
    },
    CreateProject {
        name: usize,
        limit: u32,
        repeated: bool,
    },
    SetLimit {
        project: usize,
        limit: u32,
    },
    BeginDelete {
        project: usize,
    },
    Forget {
        project: usize,
    },
    Enqueue {
        project: usize,
        new: NewTask,
    },
    /// The request of a task, repeated; `as_another`: with the id of a task and another lineage.
    EnqueueAgain {
        task: usize,
        as_another: bool,
    },
    /// `repeated`: with the id of the task's retry, where it has one.
    Retry {
        task: usize,
        repeated: bool,
    },
    Claim {
        project: usize,
        worker: usize,
        agents: Vec<AgentName>,
    },
    Renew {
        claim: usize,
        by: By,
        events: u64,
        turns: Option<u64>,
        ticket: bool,
    },
    Report {
        claim: usize,
        by: By,
        report: Report,
        events: u64,
        diff: bool,
    },
    Cancel {
        task: usize,
    },
    Recover {
        task: usize,
        seen: Seen,
    },
    /// `sent`: the wake-ups are sent, and their outbox entries deleted.
    Sweep {
        sent: bool,
    },
    /// A wake-up is sent, and its outbox entry deleted.
    Send {
        entry: usize,
    },
    /// A webhook delivery is tried; `stale`: by one who saw an older state of it.
    Deliver {
        delivery: usize,
        status: u16,
        stale: bool,
    },
    /// A commit status is tried; `stale`: by one who saw an older state of it.
    Show {
        status: usize,
        taken: bool,
        stale: bool,
    },
    /// A task's record becomes one that this version cannot read, or reads otherwise.
    Replace {
        task: usize,
        with: Unreadable,
    },
    /// Every holder is known to be dead.
    RecoverAll,
    /// Reads a list page by page.
    List {
        project: Option<usize>,
        state: Option<TaskState>,
        builds_only: bool,
        limit: u32,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NewTask {
    pub(crate) priority: u8,
    /// A build by this agent, or a check.
    pub(crate) agent: Option<AgentName>,
    /// Not before so many seconds have passed.
    pub(crate) later: Option<u64>,
    pub(crate) max_attempts: u32,
    pub(crate) notify: bool,
}

/// Who writes about a claim.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum By {
    ItsHolder,
    AnOlderFence,
    AYoungerFence,
    AnotherProcess,
}

/// What a holder reports.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Report {
    Prepare {
        absent: bool,
    },
    Finish,
    Complete,
    /// `retry_in`: when to try again, in seconds from now, as the provider said.
    Fail {
        class: FailureClass,
        revoked: bool,
        retry_in: Option<i64>,
    },
    Release,
    Restart,
}

/// What another version, or a defect, writes as a task's record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Unreadable {
    /// The same task in a newer format.
    Newer,
    /// A newer format of which this version knows no field.
    NewerAndOther,
    /// A task of a type that there is not.
    UnknownType,
    Garbage,
}

/// What a recoverer has seen of a lease.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Seen {
    AsItIs,
    AnOlderFence,
    AnOlderHeartbeat,
}

/// How many clocks there are: one for each worker, and the one of requests and maintenance.
pub(crate) const CLOCKS: usize = WORKERS + 1;
pub(crate) const WORKERS: usize = 3;
/// How many projects have names. They are made, deleted and made again.
pub(crate) const PROJECTS: usize = 3;
/// The number of a project that was never made.
pub(crate) const UNKNOWN: usize = 99;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// What may come next. Without a project, a task or a claim nothing is drawn that needs one.
pub(crate) fn next(
    recovers_all: bool,
    projects: bool,
    tasks: bool,
    claims: bool,
) -> BoxedStrategy<Op> {
    let name = prop_oneof![4 => Just(0), 1 => 1..PROJECTS];
    let project = prop_oneof![20 => Just(0), 10 => 1..PROJECTS, 1 => Just(UNKNOWN)].boxed();
    let mut ops: Vec<(u32, BoxedStrategy<Op>)> = vec![
        (
            if projects { 2 } else { 20 },
            (name, 1..=3_u32, prop::bool::weighted(0.2))
                .prop_map(|(name, limit, repeated)| Op::CreateProject { name, limit, repeated })
                .boxed(),
        ),
        (6, passing().prop_map(|seconds| Op::Pass { seconds }).boxed()),
        (
            1,
            (0..CLOCKS, -300..=300_i64)
                .prop_map(|(clock, ahead)| Op::SetClock { clock, ahead })
                .boxed(),
        ),
    ];
    if projects {
        let limit = (project.clone(), 1..=4_u32);
        let claim = (project.clone(), 0..WORKERS, agents());
        ops.extend([
            (2, limit.prop_map(|(project, limit)| Op::SetLimit { project, limit }).boxed()),
            (1, project.clone().prop_map(|project| Op::BeginDelete { project }).boxed()),
            (1, project.clone().prop_map(|project| Op::Forget { project }).boxed()),
            (
                12,
                (project.clone(), new_task())
                    .prop_map(|(project, new)| Op::Enqueue { project, new })
                    .boxed(),
            ),
            (
                if tasks { 14 } else { 2 },
                claim
                    .prop_map(|(project, worker, agents)| Op::Claim { project, worker, agents })
                    .boxed(),
            ),
            (5, any::<bool>().prop_map(|sent| Op::Sweep { sent }).boxed()),
        ]);
    }
    if tasks && recovers_all {
        ops.push((1, Just(Op::RecoverAll).boxed()));
    }
    if tasks {
        let task = 0..6_usize;
        let with = prop::sample::select(vec![
            Unreadable::Garbage,
            Unreadable::UnknownType,
            Unreadable::Newer,
            Unreadable::NewerAndOther,
        ]);
        let replace = (task.clone(), with);
        ops.push((2, replace.prop_map(|(task, with)| Op::Replace { task, with }).boxed()));
        let (repeated, stale) = (prop::bool::weighted(0.2), prop::bool::weighted(0.2));
        let show = (0..3_usize, any::<bool>(), stale);
        let recover = (
            task.clone(),
            prop_oneof![
                4 => Just(Seen::AsItIs), 1 => Just(Seen::AnOlderFence), 1 => Just(Seen::AnOlderHeartbeat)
            ],
        );
        let state = option::of(prop::sample::select(TaskState::ALL.to_vec()));
        let list = (option::of(project), state, any::<bool>(), 1..=4_u32);
        ops.extend([
            (
                1,
                (task.clone(), any::<bool>())
                    .prop_map(|(task, as_another)| Op::EnqueueAgain { task, as_another })
                    .boxed(),
            ),
            (
                4,
                (task.clone(), repeated)
                    .prop_map(|(task, repeated)| Op::Retry { task, repeated })
                    .boxed(),
            ),
            (7, task.prop_map(|task| Op::Cancel { task }).boxed()),
            (3, recover.prop_map(|(task, seen)| Op::Recover { task, seen }).boxed()),
            (3, (0..8_usize).prop_map(|entry| Op::Send { entry }).boxed()),
            (
                2,
                (0..3_usize, prop::sample::select(vec![200, 410, 500]), stale)
                    .prop_map(|(delivery, status, stale)| Op::Deliver { delivery, status, stale })
                    .boxed(),
            ),
            (2, show.prop_map(|(status, taken, stale)| Op::Show { status, taken, stale }).boxed()),
            (
                2,
                list.prop_map(|(project, state, builds_only, limit)| Op::List {
                    project,
                    state,
                    builds_only,
                    limit,
                })
                .boxed(),
            ),
        ]);
    }
    if claims {
        let claim = 0..4_usize;
        let renew = (claim.clone(), by(), 0..3_u64, option::of(0..9_u64), any::<bool>());
        let reported = (claim, by(), report(), 0..3_u64, any::<bool>());
        ops.extend([
            (
                7,
                renew
                    .prop_map(|(claim, by, events, turns, ticket)| Op::Renew {
                        claim,
                        by,
                        events,
                        turns,
                        ticket,
                    })
                    .boxed(),
            ),
            (
                24,
                reported
                    .prop_map(|(claim, by, report, events, diff)| Op::Report {
                        claim,
                        by,
                        report,
                        events,
                        diff,
                    })
                    .boxed(),
            ),
        ]);
    }
    prop::strategy::Union::new_weighted(ops).boxed()
}

/// Around the times that something hangs on: outbox entries (30 s), backoff, leases (60 s with
/// the slack), the sweep (2 min), parks, webhooks, retention (a week, 90 days).
fn passing() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => 0..20_u64,
        8 => prop::sample::select(vec![29, 30, 31, 46, 55, 59, 60, 61, 90, 120, 121]),
        3 => 60..HOUR,
        1 => HOUR..8 * DAY,
        1 => 80 * DAY..100 * DAY,
    ]
}

fn agents() -> impl Strategy<Value = Vec<AgentName>> {
    prop_oneof![
        3 => Just(AgentName::ALL.to_vec()),
        1 => vec(prop::sample::select(vec![AgentName::Codex, AgentName::Command]), 0..2),
    ]
}

fn new_task() -> impl Strategy<Value = NewTask> {
    let agent = prop_oneof![
        3 => Just(Some(AgentName::Command)), 1 => Just(Some(AgentName::Codex)), 1 => Just(None)
    ];
    let later = option::weighted(0.2, 1..300_u64);
    (0..=9_u8, agent, later, 1..=3_u32, any::<bool>()).prop_map(
        |(priority, agent, later, max_attempts, notify)| NewTask {
            priority,
            agent,
            later,
            max_attempts,
            notify,
        },
    )
}

fn by() -> impl Strategy<Value = By> {
    prop_oneof![
        9 => Just(By::ItsHolder),
        1 => Just(By::AnOlderFence),
        1 => Just(By::AYoungerFence),
        1 => Just(By::AnotherProcess),
    ]
}

fn report() -> impl Strategy<Value = Report> {
    // A time in the past, soon, in a week, and in the year 58,000.
    let retry_in = prop::sample::select(vec![-1_000_000, 10, 300, 700_000, 1_800_000_000_000]);
    let fail =
        (prop::sample::select(FailureClass::ALL.to_vec()), any::<bool>(), option::of(retry_in));
    prop_oneof![
        5 => any::<bool>().prop_map(|absent| Report::Prepare { absent }),
        1 => Just(Report::Finish),
        3 => Just(Report::Complete),
        6 => fail.prop_map(|(class, revoked, retry_in)| Report::Fail { class, revoked, retry_in }),
        2 => Just(Report::Release),
        1 => Just(Report::Restart),
    ]
}
