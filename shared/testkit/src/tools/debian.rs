//! Programs from Debian's packages, without root: unpacked once, below the user's cache folder,
//! with the libraries that this machine lacks. Nothing is installed, and no script of a package
//! runs. The versions are those of the distribution (Debian 12 and 13, and what is made of them).

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::tools::agents::{cache_folder, remove};
use crate::tools::needs::NotRun;

/// Programs that are used together.
#[derive(Debug, Clone, Copy)]
pub struct Programs {
    /// The name of their folder.
    pub name: &'static str,
    /// The packages they come in.
    pub packages: &'static [&'static str],
    /// What must be there and find all its libraries: paths below the root, `*` for the folder
    /// that is named after the machine, as `x86_64-linux-gnu`.
    pub files: &'static [&'static str],
}

/// PowerDNS's authoritative server with its SQLite backend; 4.7 in Debian 12, 4.9 in Debian 13.
pub const POWERDNS: Programs = Programs {
    name: "pdns",
    packages: &["pdns-server", "pdns-backend-sqlite3"],
    files: &["usr/sbin/pdns_server", "usr/lib/*/pdns/libgsqlite3backend.so"],
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    root: PathBuf,
}

impl Unpacked {
    /// A file of the packages, by its path below the root (`*` as in [`Programs::files`]).
    ///
    /// # Errors
    /// When it is not there.
    pub fn file(&self, path: &str) -> Result<PathBuf> {
        let found = match path.split_once("/*/") {
            None => Some(self.root.join(path)).filter(|file| file.exists()),
            Some((before, after)) => folders(&self.root.join(before))
                .into_iter()
                .map(|folder| folder.join(after))
                .find(|file| file.exists()),
        };
        found.with_context(|| format!("the packages have no {path}"))
    }

    /// What the programs need as `LD_LIBRARY_PATH`.
    pub fn libraries(&self) -> OsString {
        let all = ["usr/lib", "lib"].map(|lib| self.root.join(lib));
        let folders: Vec<PathBuf> =
            all.into_iter().flat_map(|lib| folders(&lib).into_iter().chain([lib])).collect();
        std::env::join_paths(folders).unwrap_or_default()
    }
}

/// The folders in a folder that are named after a kind of machine.
fn folders(within: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(within) else { return Vec::new() };
    let named = |path: &PathBuf| path.to_string_lossy().contains("-linux-") && path.is_dir();
    entries.flatten().map(|entry| entry.path()).filter(named).collect()
}

/// The programs, unpacked when they are not there yet. Safe to call from several processes at
/// once.
///
/// # Errors
/// [`NotRun`] when they cannot be had: no apt, no network, no room.
pub fn unpacked(programs: Programs) -> Result<Unpacked, NotRun> {
    unpack(programs).map_err(|error| {
        let packages = programs.packages.join(", ");
        NotRun::needs(format!("apt-get (Debian), for {packages} ({error:#})"))
    })
}

fn unpack(programs: Programs) -> Result<Unpacked> {
    let all = cache_folder()?.join("rdev").join("debian");
    // After an upgrade of the distribution, what was unpacked before it does not fit.
    let name = format!("{}-{}-{}", programs.name, release(), std::env::consts::ARCH);
    let root = all.join(&name);
    if root.is_dir() {
        return Ok(Unpacked { root });
    }
    fs::create_dir_all(&all).with_context(|| format!("cannot create {}", all.display()))?;
    let lock = File::create(all.join(format!("{name}.lock"))).context("cannot create a lock")?;
    lock.lock().context("cannot lock")?;
    if root.is_dir() {
        return Ok(Unpacked { root });
    }
    let (fresh, work) = (all.join(format!("{name}.new")), all.join(format!("{name}.apt")));
    remove(&fresh)?;
    remove(&work)?;
    let outcome = fetch(programs, &fresh, &work).and_then(|()| {
        // In its place last: a folder of that name is whole.
        fs::rename(&fresh, &root).context("cannot put the packages in their place")
    });
    remove(&fresh)?;
    remove(&work)?;
    outcome.map(|()| Unpacked { root })
}

/// The distribution's release, as `bookworm`.
fn release() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    name.unwrap_or("unknown").trim_matches('"').to_owned()
}

/// Fills `root`; `work` is for apt.
fn fetch(programs: Programs, root: &Path, work: &Path) -> Result<()> {
    let packages = work.join("packages");
    for folder in [root, &packages, &work.join("lists/partial"), &work.join("cache")] {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    // The machine's package lists may be missing or old; then with lists of our own.
    if let Err(first) = download(programs, &packages, &[]) {
        let own = |what: &str, folder: &str| format!("{what}={}", work.join(folder).display());
        let own = [own("Dir::State::Lists", "lists"), own("Dir::Cache", "cache")];
        let again = || {
            apt(&packages, &own, &["update"])?;
            download(programs, &packages, &own)
        };
        again().with_context(|| format!("{first:#}; then with fresh package lists"))?;
    }
    for entry in fs::read_dir(&packages).context("cannot list the packages")? {
        let package = entry.context("cannot list the packages")?.path();
        if package.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg").arg("-x").arg(&package).arg(root), "dpkg -x")?;
        }
    }
    let unpacked = Unpacked { root: root.to_owned() };
    programs.files.iter().try_for_each(|file| whole(&unpacked, file))
}

/// Downloads the packages and those libraries they need that this machine does not have.
fn download(programs: Programs, folder: &Path, options: &[String]) -> Result<()> {
    let mut plan = vec!["install", "--simulate", "--no-install-recommends"];
    plan.extend(programs.packages);
    let plan = apt(folder, options, &plan)?;
    let plan = String::from_utf8_lossy(&plan.stdout);
    // As `Inst libsodium23 (1.0.18-1 Debian:12.0/stable [amd64])`.
    let lacking = plan.lines().filter_map(|line| line.strip_prefix("Inst "));
    let lacking = lacking.filter_map(|line| line.split_whitespace().next());
    // Only this machine's own C library fits to its loader.
    let library = |name: &&str| name.starts_with("lib") && !name.starts_with("libc6");
    let mut arguments = vec!["download"];
    arguments.extend(programs.packages);
    arguments.extend(lacking.filter(library));
    apt(folder, options, &arguments).map(|_| ())
}

fn apt(folder: &Path, options: &[String], arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new("apt-get");
    command.current_dir(folder).arg("--quiet");
    // As root it would download as another user, who may not write here.
    let fixed = ["APT::Sandbox::User=root", "Acquire::Retries=2", "Acquire::http::Timeout=30"];
    for option in fixed.into_iter().chain(options.iter().map(String::as_str)) {
        command.args(["-o", option]);
    }
    run(command.args(arguments), "apt-get")
}

/// Checks that a file is there and finds every library.
fn whole(unpacked: &Unpacked, file: &str) -> Result<()> {
    let path = unpacked.file(file)?;
    let mut command = Command::new("ldd");
    let output = run(command.arg(&path).env("LD_LIBRARY_PATH", unpacked.libraries()), "ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().find(|line| line.contains("not found")) {
        Some(line) => bail!("{file} lacks a library: {}", line.trim()),
        None => Ok(()),
    }
}

fn run(command: &mut Command, name: &str) -> Result<Output> {
    let output = command.stdin(Stdio::null()).env("LC_ALL", "C").output();
    let output = output.with_context(|| format!("cannot run {name}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said.lines().filter(|line| line.starts_with("E: ")).take(3).collect();
    ensure!(output.status.success(), "{name} failed: {}", said.join("; "));
    Ok(output)
}
