//! Scenes that run in a process of their own: this program again, which is told the scene.

use std::env;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::time::Instant;

use rdev_testkit::tools::needs::NotRun;
use rustix::process::geteuid;

use crate::world::{PATIENCE, World};

/// The scene to play.
const SCENE: &str = "RDEV_TEST_SCENE";
/// Its folder.
const FOLDER: &str = "RDEV_TEST_FOLDER";
/// The user to become first.
const USER: &str = "RDEV_TEST_USER";

/// A user who is not root and whom no machine has files of.
pub(crate) const SOMEBODY: u32 = 64_321;

/// What a scene does in its folder.
pub(crate) type Play = fn(PathBuf) -> Pin<Box<dyn Future<Output = ()>>>;

/// Scenes by name.
pub(crate) type Scenes = &'static [(&'static str, Play)];

/// A process that plays a scene.
pub(crate) struct Child {
    command: Command,
}

impl Child {
    pub(crate) fn new(scene: &str, folder: &Path) -> Self {
        Self::below(&[], scene, folder)
    }

    /// In a process that has mounts of its own.
    pub(crate) fn with_mounts(scene: &str, folder: &Path) -> Result<Self, NotRun> {
        Ok(Self::below(mounts_of_its_own()?, scene, folder))
    }

    fn below(wrapper: &[&str], scene: &str, folder: &Path) -> Self {
        let program = env::current_exe().expect("this program");
        let mut words = wrapper.iter().map(AsRef::as_ref).chain([program.as_os_str()]);
        let mut command = Command::new(words.next().expect("at least this program"));
        command.args(words).env(SCENE, scene).env(FOLDER, folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        Self { command }
    }

    pub(crate) fn of_somebody(mut self) -> Self {
        self.command.env(USER, SOMEBODY.to_string());
        self
    }

    pub(crate) fn start(mut self) -> std::process::Child {
        self.command.spawn().expect("a process")
    }

    /// Plays the scene to its end; what it has logged.
    pub(crate) fn log(self) -> String {
        let output = self.start().wait_with_output().expect("a process");
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{}:\n{log}", output.status);
        log
    }
}

/// Plays the scene that this process was told, if any.
pub(crate) fn run(all: &[Scenes]) -> bool {
    let Ok(scene) = env::var(SCENE) else { return false };
    if let Ok(user) = env::var(USER) {
        become_user(user.parse().expect("a user's number"));
    }
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let folder = PathBuf::from(env::var_os(FOLDER).expect("a folder"));
    let mut scenes = all.iter().copied().flatten();
    let (_, play) = scenes.find(|(name, _)| *name == scene).expect("a scene of that name");
    tokio::runtime::Runtime::new().expect("a runtime").block_on(play(folder));
    true
}

pub(crate) fn root() -> Result<(), NotRun> {
    if geteuid().is_root() { Ok(()) } else { Err(NotRun::needs("root")) }
}

/// The program that gives another one mounts of its own.
fn mounts_of_its_own() -> Result<&'static [&'static str], NotRun> {
    const ROOT: &[&str] = &["unshare", "--mount"];
    const ANYBODY: &[&str] = &["unshare", "--user", "--map-root-user", "--mount"];
    let folder = tempfile::tempdir().expect("a folder");
    let works = |wrapper: &&[&str]| {
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).args(["mount", "-t", "tmpfs", "none"]).arg(folder.path());
        command.output().is_ok_and(|output| output.status.success())
    };
    let needed = "mounts of its own: root, or user namespaces for everybody";
    [ROOT, ANYBODY].into_iter().find(works).ok_or_else(|| NotRun::needs(needed))
}

/// Mounts a small disk.
pub(crate) fn mount_disk(folder: &Path, megabytes: usize) {
    std::fs::create_dir_all(folder).expect("a folder");
    mount(&["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "small"], folder);
}

pub(crate) fn mount(how: &[&str], folder: &Path) {
    let output = Command::new("mount").args(how).arg(folder).output().expect("mount runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Builds something with this runner's world, as a proof that it works.
pub(crate) async fn a_build_works(world: &World) {
    let name = format!("p{}", crate::world::ulid().to_string().to_lowercase());
    let site = world.project(&name, &[("a", "1\n")]).await;
    let id = world.build(&site, "echo 2 > a").await;
    world.succeeded(id).await;
}

/// Waits until this process has removed, after the end of its runner, what it can remove: until
/// the thread that does it has ended.
pub(crate) async fn until_trash_is_seen_to() {
    let is_its_thread = |path: &PathBuf| {
        std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name == "trash\n")
    };
    let end = Instant::now() + PATIENCE;
    while entries(Path::new("/proc/self/task")).iter().any(is_its_thread) {
        assert!(Instant::now() < end, "the trash is never empty");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

pub(crate) fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

/// Before any other thread is there.
fn become_user(user: u32) {
    // SAFETY: system calls on plain numbers. The last one lets this process look at itself in
    // `/proc` again, as a program can that was started by that user.
    let done = unsafe {
        libc::setgroups(0, std::ptr::null()) == 0
            && libc::setgid(user) == 0
            && libc::setuid(user) == 0
            && libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) == 0
    };
    assert!(done, "{}", std::io::Error::last_os_error());
}
