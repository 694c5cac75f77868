//! Runs the real program, away from this machine's own settings and keys.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// A place of its own: an empty home, and a data folder that is not there yet.
pub(crate) struct Place {
    folder: TempDir,
    variables: Vec<(String, String)>,
}

/// What a run of the program left.
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A server that runs; killed when it is dropped.
pub(crate) struct Up<'a> {
    place: &'a Place,
    child: Child,
    pub(crate) url: String,
    pub(crate) key: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("home")).expect("a home");
        Self { folder, variables: Vec::new() }
    }

    /// Sets a variable of the program's environment.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.root().join("data")
    }

    /// The program with `args`, on this place's data folder.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rdev"));
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.root().join("home"))
            .env("RDEV_DATA_DIR", self.data())
            .current_dir(self.root())
            .stdin(Stdio::null());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs the program to its end, which must not be far.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        let mut command = self.command(args);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let pid = Pid::from_child(&child);
        let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
        let (status, stdout, stderr) = std::thread::scope(|scope| {
            let stdout = scope.spawn(move || text_of(stdout.as_mut()));
            let stderr = scope.spawn(move || text_of(stderr.as_mut()));
            let deadline = Instant::now() + PATIENCE;
            let status = loop {
                if let Some(status) = child.try_wait().expect("a child") {
                    break Some(status);
                }
                if Instant::now() > deadline {
                    // It may have ended just now.
                    let _ = kill_process(pid, Signal::KILL);
                    break None;
                }
                std::thread::sleep(Duration::from_millis(5));
            };
            (status, stdout.join().expect("read"), stderr.join().expect("read"))
        });
        let status = status.unwrap_or_else(|| panic!("{args:?} does not end: {stderr}"));
        Ran { status: status.code().unwrap_or(-1), stdout, stderr }
    }

    /// Runs it and reads what it printed as JSON; it must have succeeded.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let ran = self.run(args);
        assert_eq!(ran.status, 0, "{args:?}: {}", ran.stderr);
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| {
            panic!("{args:?} printed no single JSON value ({error}): {}", ran.stdout)
        })
    }

    /// Starts `rdev up` on a free port and waits until it is ready.
    pub(crate) fn up(&self, args: &[&str]) -> Up<'_> {
        let mut all = vec!["up", "--listen", "127.0.0.1:0"];
        all.extend(args);
        let log = std::fs::File::create(self.root().join("up.log")).expect("a log");
        let mut child = self.command(&all).stderr(log).spawn().expect("the program starts");
        let pid = child.id();
        let local = until("rdev.json is written", || {
            if let Some(status) = child.try_wait().expect("a child") {
                let log = std::fs::read_to_string(self.root().join("up.log"));
                panic!("rdev up ended with {status}: {}", log.unwrap_or_default());
            }
            self.local().filter(|local| local["pid"] == pid)
        });
        let text = |field: &str| local[field].as_str().expect("a text").to_owned();
        Up { place: self, child, url: text("url"), key: text("admin_key") }
    }

    /// What `rdev.json` says.
    pub(crate) fn local(&self) -> Option<Value> {
        let text = std::fs::read_to_string(self.data().join("rdev.json")).ok()?;
        Some(serde_json::from_str(&text).expect("rdev.json is always whole"))
    }
}

impl Up<'_> {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the server is there");
    }

    /// Asks it to end and waits for that.
    pub(crate) fn stop(mut self) -> Ran {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> Ran {
        let status = until("the server ends", || self.child.try_wait().expect("a child"));
        let log = std::fs::read_to_string(self.place.root().join("up.log"));
        Ran {
            status: status.code().unwrap_or(-1),
            stdout: String::new(),
            stderr: log.unwrap_or_default(),
        }
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn text_of(pipe: Option<&mut impl Read>) -> String {
    let mut text = String::new();
    pipe.expect("it was piped").read_to_string(&mut text).expect("UTF-8");
    text
}

pub(crate) fn ran(output: Output) -> Ran {
    Ran {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// Polls until `check` has something.
pub(crate) fn until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What the real git says about a repository.
pub(crate) fn git(repository: &str, args: &[&str]) -> String {
    let output = Command::new("git")
        .arg("-C")
        .arg(repository)
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .output()
        .expect("git is installed");
    let ran = ran(output);
    assert_eq!(ran.status, 0, "git {args:?}: {}", ran.stderr);
    ran.stdout
}

/// Writes a file below a place.
pub(crate) fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    let mut file = std::fs::File::create(path).expect("a file");
    file.write_all(text.as_bytes()).expect("written");
}
