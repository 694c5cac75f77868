//! What was measured, as text.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};
use std::time::{Duration, SystemTime};

use super::build::{Measured, time};
use super::trace::{self, Moment};
use super::{Kind, Options};

/// One round.
#[derive(Debug, Clone)]
pub(super) struct Round {
    /// One build of each server.
    pub(super) builds: Vec<Measured>,
    pub(super) script: Duration,
}

/// All rounds.
#[derive(Debug)]
pub struct Report {
    pub(super) options: Options,
    /// Of each server: how long its forge's API takes.
    pub(super) apis: Vec<Option<u64>>,
    pub(super) rounds: Vec<Round>,
}

/// The middle one, or the mean of the two in the middle; 0 of none.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match (values.len() / 2, values.len() % 2) {
        (_, _) if values.is_empty() => 0.0,
        (middle, 1) => values[middle],
        (middle, _) => f64::midpoint(values[middle - 1], values[middle]),
    }
}

impl Report {
    fn millis(&self, of: impl Fn(&Round) -> Duration) -> Vec<f64> {
        self.rounds.iter().map(|round| of(round).as_secs_f64() * 1000.0).collect()
    }

    fn builds(&self, server: usize) -> impl Iterator<Item = &Measured> {
        self.rounds.iter().map(move |round| &round.builds[server])
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Options { files, file_bytes, agent_ms, .. } = &self.options;
        let hooks = match self.options.forge {
            Kind::Slow => "hooks of 120 ms",
            Kind::Bare => "no hooks",
        };
        let verify = match self.options.verify_ms {
            Some(millis) => format!("a verify of {millis} ms"),
            None => "no verify".to_owned(),
        };
        let depth = match self.options.depth {
            Some(depth) => format!("the script clones {depth} commits"),
            None => "the script clones all".to_owned(),
        };
        let rounds = self.rounds.len();
        writeln!(
            f,
            "{hooks}, {verify}, an agent of {agent_ms} ms; {files} files of {file_bytes} bytes; {depth}"
        )?;
        writeln!(f, "{rounds} rounds; load {}", load())?;
        writeln!(f, "{:<44} {:>8} {:>8} {:>8} {:>6}", "ms", "median", "min", "max", "ratio")?;
        let script = self.millis(|round| round.script);
        let peer = median(script.clone());
        row(f, "script", script, peer)?;
        for (n, api) in self.apis.iter().enumerate() {
            let api = api.map(|millis| format!(" (API {millis} ms)")).unwrap_or_default();
            let seen = self.millis(|round| round.builds[n].seen);
            row(f, &format!("build, until the client knows{api}"), seen, peer)?;
            let recorded = self.millis(|round| round.builds[n].recorded);
            row(f, &format!("build, as its record says{api}"), recorded, peer)?;
        }
        for (n, api) in self.apis.iter().enumerate() {
            let api = api.map(|millis| format!(" (API {millis} ms)")).unwrap_or_default();
            let pushes = counts(self.builds(n).map(pushes_on_path));
            let requests = counts(self.builds(n).map(|build| build.requests.git.len()));
            let calls = counts(self.builds(n).map(|build| build.requests.api));
            writeln!(
                f,
                "a build{api}: pushes on the path {pushes}, requests of git {requests}, calls of the API {calls}"
            )?;
        }
        for n in 1..self.apis.len() {
            let differ = |of: fn(&Measured) -> Duration| {
                let of_server = |n: usize| median(self.millis(|round| of(&round.builds[n])));
                of_server(n) - of_server(0)
            };
            let (seen, recorded) = (differ(|build| build.seen), differ(|build| build.recorded));
            let [first, other] = [self.apis[0], self.apis[n]].map(Option::unwrap_or_default);
            writeln!(
                f,
                "an API of {other} ms instead of {first} ms: {seen:+.0} ms until the client knows, {recorded:+.0} ms as recorded"
            )?;
        }
        if self.options.trace {
            for n in 0..self.apis.len() {
                table(f, &trace::moments(self.builds(n)))?;
            }
        }
        Ok(())
    }
}

fn row(f: &mut Formatter<'_>, what: &str, values: Vec<f64>, peer: f64) -> fmt::Result {
    let min = values.iter().copied().fold(f64::INFINITY, f64::min);
    let max = values.iter().copied().fold(0.0, f64::max);
    let median = median(values);
    writeln!(f, "{what:<44} {median:>8.0} {min:>8.0} {max:>8.0} {:>6.2}", median / peer)
}

fn table(f: &mut Formatter<'_>, moments: &[Moment]) -> fmt::Result {
    writeln!(f, "\n{:>8} {:>8}  what, as the median of all builds", "ms", "+ms")?;
    let mut before = 0.0;
    for Moment { what, after_ms } in moments {
        writeln!(f, "{after_ms:>8.1} {:>8.1}  {what}", after_ms - before)?;
        before = *after_ms;
    }
    Ok(())
}

/// The pushes between the end of the agent and that of the task.
pub(super) fn pushes_on_path(build: &Measured) -> usize {
    let ends = build
        .events
        .iter()
        .filter(|event| event["data"]["phase"] == "agent" && event["data"]["status"] == "finished");
    let agent = ends.filter_map(|event| time(&event["at"]).ok()).max();
    let on_path = |at: SystemTime| agent.is_none_or(|agent| at >= agent) && at <= build.ended;
    build.requests.git.iter().filter(|request| request.is_push() && on_path(request.at)).count()
}

/// The different numbers, as `2` or `6, 7`.
fn counts(of: impl Iterator<Item = usize>) -> String {
    let different: BTreeSet<usize> = of.collect();
    let texts: Vec<String> = different.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

/// The machine's load, for who reads the numbers.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let of: Vec<&str> = text.split(' ').take(3).collect();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{} on {cores} cores", of.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        for (values, middle) in
            [(vec![], 0.0), (vec![3.0], 3.0), (vec![4.0, 1.0], 2.5), (vec![9.0, 1.0, 2.0], 2.0)]
        {
            assert!((median(values) - middle).abs() < f64::EPSILON);
        }
    }
}
