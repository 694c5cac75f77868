//! A real PowerDNS: the distribution's authoritative server with its SQLite backend, unprivileged
//! on loopback, with an empty zone. It ends with its test, however that ends.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rdev_domain::hostname::Hostname;
use serde_json::{Value, json};
use tempfile::TempDir;
use ulid::Ulid;

use crate::tools::debian::{POWERDNS, Unpacked, unpacked};
use crate::tools::needs::NotRun;
use crate::tools::resolve::{self, Resolved};
use crate::tools::watchdog::{self, Watched};

/// How long it may take to answer for the first time.
const START: Duration = Duration::from_secs(600);

/// A port is searched first and bound later: another program may bind it in between.
const TRIES: usize = 3;

const SCHEMA: &str = "usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql";

/// Makes the database out of the package's schema.
const MAKE_DATABASE: &str = "import sqlite3, sys\n\
                             sqlite3.connect(sys.argv[1]).executescript(open(sys.argv[2]).read())";

#[derive(Debug)]
pub struct PowerDns {
    zone: Hostname,
    key: String,
    ports: Ports,
    process: Watched,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    api: u16,
    dns: u16,
}

impl PowerDns {
    /// Starts one that has this zone. Blocks for about a second, and longer at the first time,
    /// when its packages are fetched.
    ///
    /// # Errors
    /// When it cannot be had here.
    ///
    /// # Panics
    /// When it can, and does not start.
    pub fn start(zone: &Hostname) -> Result<Self, NotRun> {
        let packages = unpacked(POWERDNS)?;
        let mut tries = 0;
        loop {
            tries += 1;
            match run(&packages, zone) {
                Ok(server) => return Ok(server),
                Err(error) if tries == TRIES => panic!("PowerDNS starts: {error:#}"),
                Err(_) => {}
            }
        }
    }

    /// Its web server: `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.api)
    }

    /// The folder that it keeps its files in. It goes with the server.
    pub fn folder(&self) -> &Path {
        self.process.folder()
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    pub fn zone(&self) -> &Hostname {
        &self.zone
    }

    /// Where it answers DNS queries, over UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.dns))
    }

    /// Asks it for a name's records of a kind, by a DNS query over UDP.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn resolve(&self, name: &str, kind: &str) -> Resolved {
        resolve::resolve(self.address(), name, kind)
            .unwrap_or_else(|error| panic!("PowerDNS answers: {error}; {}", self.log()))
    }

    /// Writes a set of records without rdev, with a comment. Without contents it is removed. Names
    /// in contents end with a dot.
    ///
    /// # Panics
    /// When it is refused.
    pub fn write(&self, name: &str, kind: &str, contents: &[&str], comment: Option<&str>) {
        let records =
            contents.iter().map(|content| json!({ "content": content, "disabled": false }));
        let change = json!({ "rrsets": [{
            "name": format!("{name}."),
            "type": kind,
            "changetype": if contents.is_empty() { "DELETE" } else { "REPLACE" },
            "ttl": 3600,
            "records": records.collect::<Vec<Value>>(),
            "comments": comment.map(|text| json!({ "content": text, "account": "admin" }))
                .into_iter().collect::<Vec<Value>>(),
        }] });
        let path = format!("/api/v1/servers/localhost/zones/{}.", self.zone);
        // Its SQLite backend refuses one of two changes at the same moment.
        for _ in 0..100 {
            match call(self.ports.api, &self.key, "PATCH", &path, &change.to_string()) {
                Ok((204, _)) => return,
                Ok((500, _)) => sleep(Duration::from_millis(20)),
                other => panic!("PowerDNS accepts a record: {other:?}"),
            }
        }
        panic!("PowerDNS accepts a record: {}", self.log());
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

fn run(packages: &Unpacked, zone: &Hostname) -> Result<PowerDns> {
    let ports = free_ports()?;
    let key = Ulid::generate().to_string();
    let folder = TempDir::new().context("cannot create a folder for PowerDNS")?;
    let database = folder.path().join("zones.db");
    let mut make = Command::new("python3");
    make.args(["-c", MAKE_DATABASE]).arg(&database).arg(packages.file(SCHEMA)?);
    let made = make.stdin(Stdio::null()).output().context("cannot run python3: install it")?;
    ensure!(made.status.success(), "no database: {}", String::from_utf8_lossy(&made.stderr));

    let backend = packages.file(POWERDNS.files[1])?;
    let modules = backend.parent().context("a module lies in a folder")?;
    configure(folder.path(), &settings(folder.path(), &database, modules, ports, &key))?;
    // Only the server gets its own libraries, and not the watchdog's Python.
    let mut libraries = std::ffi::OsString::from("LD_LIBRARY_PATH=");
    libraries.push(packages.libraries());
    let mut command = watchdog::command("python3", &folder, "env");
    command.arg(libraries).arg(packages.file(POWERDNS.files[0])?);
    command.arg(format!("--config-dir={}", folder.path().display()));

    let process = Watched::start(command, folder)?;
    let server = PowerDns { zone: zone.clone(), key, ports, process };
    let begun = Instant::now();
    // Only this server knows the key: an answer is its own.
    while !matches!(call(ports.api, &server.key, "GET", "/api/v1/servers", ""), Ok((200, _))) {
        if server.process.ended() || begun.elapsed() > START {
            bail!("it does not answer after {:?}: {}", begun.elapsed(), server.log());
        }
        sleep(Duration::from_millis(20));
    }
    let zone = json!({
        "name": format!("{zone}."),
        "kind": "Native",
        "nameservers": [format!("ns1.{zone}.")],
    });
    let path = "/api/v1/servers/localhost/zones";
    let (status, said) = call(ports.api, &server.key, "POST", path, &zone.to_string())?;
    ensure!(status == 201, "the zone is refused with {status}: {said}");
    while resolve::resolve(server.address(), server.zone.as_str(), "SOA")?.answers.is_empty() {
        ensure!(begun.elapsed() < START, "the zone does not resolve: {}", server.log());
        sleep(Duration::from_millis(20));
    }
    Ok(server)
}

fn settings(folder: &Path, database: &Path, modules: &Path, ports: Ports, key: &str) -> String {
    let Ports { api, dns } = ports;
    format!(
        "launch=gsqlite3\n\
         gsqlite3-database={}\n\
         module-dir={}\n\
         socket-dir={}\n\
         local-address=127.0.0.1\n\
         local-port={dns}\n\
         api=yes\n\
         api-key={key}\n\
         webserver=yes\n\
         webserver-address=127.0.0.1\n\
         webserver-port={api}\n\
         webserver-allow-from=127.0.0.1\n\
         daemon=no\n\
         guardian=no\n\
         disable-syslog=yes\n\
         write-pid=no\n\
         # It does not look for updates.\n\
         security-poll-suffix=\n\
         # What was written is answered at once.\n\
         cache-ttl=0\n\
         query-cache-ttl=0\n\
         negquery-cache-ttl=0\n\
         zone-cache-refresh-interval=0\n",
        database.display(),
        modules.display(),
        folder.display(),
    )
}

/// Writes the configuration; only this user may read it, because of the key.
fn configure(folder: &Path, text: &str) -> Result<()> {
    let file = folder.join("pdns.conf");
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    file.write_all(text.as_bytes()).context("cannot write pdns.conf")
}

/// A port for the API, and one that is free for TCP and UDP.
fn free_ports() -> Result<Ports> {
    let api = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    for _ in 0..100 {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let dns = tcp.local_addr()?.port();
        if UdpSocket::bind((Ipv4Addr::LOCALHOST, dns)).is_ok() {
            return Ok(Ports { api: api.local_addr()?.port(), dns });
        }
    }
    bail!("no port is free for TCP and UDP")
}

/// One request to the API: the answer's status and body. It closes the connection.
fn call(port: u16, key: &str, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_nodelay(true)?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-API-Key: {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).context("no status")?;
    Ok((status.parse()?, body.to_owned()))
}
