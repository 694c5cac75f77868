//! A local AWS: MiniStack on loopback, as a process of its own that ends with its test,
//! however that ends.
//!
//! Each [`Account`] is apart from all others, so that tests share one emulator side by side.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use ulid::Ulid;

use crate::tools::needs::NotRun;
use crate::tools::python::{MINISTACK, installed, path_with};
use crate::tools::watchdog::{self, Watched};

/// The region of everything in it.
pub const REGION: &str = "us-east-1";

/// How long it may take to answer for the first time.
const START: Duration = Duration::from_secs(900);

/// A port is searched first and bound later: another program may bind it in between.
const TRIES: usize = 3;

/// A running emulator. It ends when this is dropped, or with the process.
#[derive(Debug)]
pub struct Emulator {
    port: u16,
    process: Watched,
}

/// An account of its own in an emulator: tables and queues of others are not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its number, which is its access key too.
    pub id: String,
    /// Where its calls go; a proxy may stand before the emulator.
    pub endpoint: String,
}

impl Emulator {
    /// The one of this process, started on first use.
    ///
    /// # Errors
    /// When it cannot be installed.
    pub fn shared() -> Result<&'static Self, NotRun> {
        static SHARED: OnceLock<Result<Emulator, NotRun>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref().map_err(Clone::clone)
    }

    /// Starts one more.
    ///
    /// # Errors
    /// When it cannot be installed.
    ///
    /// # Panics
    /// When it is installed and does not start.
    pub fn start() -> Result<Self, NotRun> {
        Self::start_with(&[])
    }

    /// Starts one more with variables in its environment. Its functions get
    /// `AWS_ENDPOINT_URL` from there: the address of a proxy, for instance.
    ///
    /// # Errors
    /// When it cannot be installed.
    ///
    /// # Panics
    /// When it is installed and does not start.
    pub fn start_with(variables: &[(&str, &str)]) -> Result<Self, NotRun> {
        let programs = installed(MINISTACK)?;
        let mut tries = 0;
        loop {
            tries += 1;
            match run(&programs, variables) {
                Ok(emulator) => return Ok(emulator),
                Err(error) if tries == TRIES => panic!("the AWS emulator starts: {error:#}"),
                Err(_) => {}
            }
        }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `http://127.0.0.1:<port>`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn account(&self) -> Account {
        Account::new(self.endpoint())
    }

    /// The folder that it keeps its files in. It goes with the emulator.
    pub fn folder(&self) -> &Path {
        self.process.folder()
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

impl Account {
    /// A new one at `endpoint`.
    pub fn new(endpoint: impl Into<String>) -> Self {
        let id = 100_000_000_000 + Ulid::generate().random() % 900_000_000_000;
        Self { id: id.to_string(), endpoint: endpoint.into() }
    }

    /// The same account, reached at another endpoint.
    #[must_use]
    pub fn at(&self, endpoint: impl Into<String>) -> Self {
        Self { id: self.id.clone(), endpoint: endpoint.into() }
    }

    /// What a program needs in its environment to use it.
    pub fn variables(&self) -> [(&'static str, String); 6] {
        [
            ("AWS_ACCESS_KEY_ID", self.id.clone()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_DEFAULT_REGION", REGION.to_owned()),
            ("AWS_ENDPOINT_URL", self.endpoint.clone()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ]
    }
}

fn run(programs: &Path, variables: &[(&str, &str)]) -> Result<Emulator> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let folder = TempDir::new().context("cannot create a folder for the emulator")?;
    // Told by its health page: what answers on the port is this one and no other.
    let name = Ulid::generate().to_string();
    let endpoint = format!("http://127.0.0.1:{port}");
    let own = folder.path();
    let mut command =
        watchdog::command(programs.join("python"), &folder, programs.join("ministack"));
    command
        .env_clear()
        .env("PATH", path_with(programs))
        .env("HOME", own)
        .env("TMPDIR", own)
        .env("S3_DATA_DIR", own.join("s3"))
        .env("BIND_HOST", "127.0.0.1")
        .env("GATEWAY_PORT", port.to_string())
        .env("LOG_LEVEL", "WARNING")
        .env("MINISTACK_EDITION", &name)
        // Functions run as processes here, also where there is a Docker.
        .env("DOCKER_HOST", format!("unix://{}/no-docker", own.display()))
        .env("AWS_ENDPOINT_URL", endpoint)
        .envs(variables.iter().copied());
    let emulator = Emulator { port, process: Watched::start(command, folder)? };
    let begun = Instant::now();
    while !answers(port, &name) {
        if emulator.process.ended() || begun.elapsed() > START {
            bail!("it does not answer after {:?}: {}", begun.elapsed(), emulator.log());
        }
        sleep(Duration::from_millis(50));
    }
    Ok(emulator)
}

/// Whether the emulator of that name answers on that port.
fn answers(port: u16, name: &str) -> bool {
    let ask = || -> std::io::Result<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let host = format!("127.0.0.1:{port}");
        write!(
            stream,
            "GET /_ministack/health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains(name))
}
