//! Watches a process from its start until it has ended or must end.

use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::lines::Lines;
use super::spawn::Tree;
use super::{Ended, Flow, Limits, RunError, Stream};

/// How long to read the pipes of a tree that has ended.
const DRAIN: Duration = Duration::from_secs(2);

/// One output of the process.
struct Output<R> {
    stream: Stream,
    pipe: Option<R>,
    buffer: Vec<u8>,
    lines: Lines,
}

impl<R: AsyncRead + Unpin> Output<R> {
    fn new(stream: Stream, pipe: Option<R>) -> Self {
        Self { stream, pipe, buffer: vec![0; 16 * 1024], lines: Lines::default() }
    }

    /// Reads once. Without a pipe it waits forever. May be dropped and called again.
    async fn read(&mut self) -> usize {
        match &mut self.pipe {
            // An error counts as the end of the pipe.
            Some(pipe) => pipe.read(&mut self.buffer).await.unwrap_or(0),
            None => std::future::pending().await,
        }
    }

    /// Emits the lines that were read; 0 bytes are the end.
    fn take(&mut self, read: usize, on_line: &mut impl FnMut(Stream, &str)) {
        let stream = self.stream;
        if read == 0 {
            self.pipe = None;
            self.lines.end(|line| on_line(stream, line));
        } else {
            self.lines.push(&self.buffer[..read], |line| on_line(stream, line));
        }
    }

    /// Reads to the end, but not after `until`: a process outside of the tree may have the pipe.
    async fn drain(&mut self, until: Instant, on_line: &mut impl FnMut(Stream, &str)) {
        while self.pipe.is_some() {
            let read = tokio::time::timeout_at(until.into(), self.read()).await;
            self.take(read.unwrap_or(0), on_line);
        }
    }
}

/// Reads until the process has ended, or until it is being stopped and its grace time is over.
/// Then it ends the tree and reads the rest of its pipes.
pub(super) async fn watch(
    tree: &mut Tree,
    grace: Duration,
    limits: Limits,
    stop: &CancellationToken,
    mut on_line: impl FnMut(Stream, &str) -> Flow + Send,
) -> Result<Ended, RunError> {
    let mut stdout = Output::new(Stream::Stdout, tree.stdout.take());
    let mut stderr = Output::new(Stream::Stderr, tree.stderr.take());
    let mut last_output = Instant::now();
    let mut flow = Flow::Continue;
    let mut hung_at = None;
    // Set when it is being stopped: the reason and the end of its grace time.
    let mut stopping: Option<(Ended, Instant)> = None;
    let far = Instant::now() + Duration::from_secs(365 * 24 * 60 * 60);

    let ended = loop {
        let mut handle = |stream, line: &str| match on_line(stream, line) {
            Flow::Continue => {}
            Flow::ResultReceived if flow == Flow::Stop => {}
            other => flow = other,
        };
        let stall_at = limits.stall.map_or(far, |stall| last_output + stall);
        let reason = tokio::select! {
            exit = tree.exited() => {
                break match stopping {
                    // It ended after TERM.
                    Some((reason, _)) => reason,
                    None => Ended::Exited(exit),
                };
            }
            read = stdout.read() => {
                last_output = Instant::now();
                stdout.take(read, &mut handle);
                None
            }
            read = stderr.read() => {
                last_output = Instant::now();
                stderr.take(read, &mut handle);
                None
            }
            () = stop.cancelled(), if stopping.is_none() => Some(Ended::Stopped),
            () = at(limits.deadline), if stopping.is_none() => Some(Ended::TimedOut),
            () = at(stall_at), if stopping.is_none() => Some(Ended::Stalled),
            () = at(hung_at.unwrap_or(far)), if stopping.is_none() => Some(Ended::HungAfterResult),
            () = at(stopping.map_or(far, |(_, until)| until)) => {
                break stopping.map_or(Ended::Stopped, |(reason, _)| reason);
            }
        };
        if flow == Flow::ResultReceived && hung_at.is_none() {
            hung_at = Some(Instant::now() + grace);
        }
        let reason = reason.or((flow == Flow::Stop).then_some(Ended::Stopped));
        if let (Some(reason), None) = (reason, stopping) {
            tree.terminate();
            stopping = Some((reason, Instant::now() + grace));
        }
    };
    tree.finish().await?;
    let mut ignore = |stream, line: &str| {
        on_line(stream, line);
    };
    let until = Instant::now() + DRAIN;
    stdout.drain(until, &mut ignore).await;
    stderr.drain(until, &mut ignore).await;
    Ok(ended)
}

async fn at(moment: Instant) {
    sleep_until(moment.into()).await;
}
