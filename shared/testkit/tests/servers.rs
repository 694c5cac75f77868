//! The servers that are programs of their own, and therefore may be missing: they answer, and
//! nothing of them is left when their test ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rdev_testkit::servers::emulator::Emulator;
use rdev_testkit::servers::powerdns::PowerDns;
use rdev_testkit::tools::trial::{self, Outcome};

rdev_testkit::trials! {
    fn an_emulator_answers_and_is_gone_with_its_folder_when_it_is_dropped;
    fn an_emulator_is_gone_with_its_folder_when_its_process_is_killed;
    fn a_powerdns_resolves_what_was_written_and_is_gone_when_it_is_dropped;
}

/// Set for the process that only holds an emulator until it is killed.
const HOLD: &str = "RDEV_TEST_HOLD_EMULATOR";

fn main() -> ExitCode {
    if std::env::var_os(HOLD).is_some() {
        hold_an_emulator();
    }
    trial::run(None, [trials()])
}

fn an_emulator_answers_and_is_gone_with_its_folder_when_it_is_dropped() -> Outcome {
    let emulator = Emulator::start()?;
    let (port, folder) = (emulator.port(), emulator.folder().to_owned());
    assert!(folder.join("log").exists());
    assert_ne!(emulator.account(), emulator.account());
    drop(emulator);
    assert!(!folder.exists());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "a program still listens");
    Ok(())
}

/// Says where the emulator's folder is, and waits.
fn hold_an_emulator() -> ! {
    let emulator = Emulator::shared().expect("the test has started one before");
    writeln!(std::io::stdout(), "folder {}", emulator.folder().display()).expect("a reader");
    loop {
        std::thread::park();
    }
}

fn an_emulator_is_gone_with_its_folder_when_its_process_is_killed() -> Outcome {
    // Here it shows whether one can be started at all.
    drop(Emulator::start()?);
    let me = std::env::current_exe().expect("this program");
    let mut process =
        Command::new(me).env(HOLD, "1").stdout(Stdio::piped()).spawn().expect("a second process");
    let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
    let folder = lines
        .find_map(|line| line.expect("a line of text").strip_prefix("folder ").map(PathBuf::from));
    process.kill().expect("it can be killed");
    process.wait().expect("it ends");
    let folder = folder.expect("the process has an emulator");
    let begun = Instant::now();
    while folder.exists() {
        assert!(begun.elapsed() < Duration::from_secs(600), "{} is there", folder.display());
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn a_powerdns_resolves_what_was_written_and_is_gone_when_it_is_dropped() -> Outcome {
    let server = PowerDns::start(&"example.com".parse().expect("a zone"))?;
    assert_eq!(server.resolve("www.example.com", "A").code, 3, "there is no such name");
    server.write("www.example.com", "CNAME", &["web.example.com."], None);
    server.write("web.example.com", "A", &["192.0.2.7"], Some("by hand"));
    let resolved = server.resolve("www.example.com", "A");
    assert_eq!(resolved.contents("CNAME"), ["web.example.com"]);
    assert_eq!(resolved.contents("A"), ["192.0.2.7"]);
    assert_eq!(resolved.answers[1].ttl, 3600);
    assert_eq!(server.resolve("example.org", "A").code, 5, "another zone");
    let address = server.url().strip_prefix("http://").expect("HTTP").to_owned();
    let refused = get(&address, "/api/v1/servers", "another-key");
    assert!(refused.starts_with("HTTP/1.1 401 "), "{refused}");

    let folder: PathBuf = server.folder().to_owned();
    assert!(configuration(&folder).contains(server.key()));
    drop(server);
    assert!(!folder.exists());
    assert!(TcpStream::connect(address).is_err(), "a program still listens");
    Ok(())
}

fn configuration(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("pdns.conf")).expect("its configuration")
}

/// The whole answer to a request with an API key.
fn get(address: &str, path: &str, key: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nX-API-Key: {key}\r\n");
    write!(stream, "{head}Connection: close\r\n\r\n").expect("the request is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}
