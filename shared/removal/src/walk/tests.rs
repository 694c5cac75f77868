use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;

use rustix::fs::{mkdirat, mknodat};

use super::*;
use crate::remove_tree;

/// Makes `depth` folders, each in the one before, in a folder that is there. Returns the last one.
fn nest(top: &Path, depth: usize) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = openat(CWD, top, flags, Mode::empty()).expect("the top");
    for _ in 0..depth {
        mkdirat(&at, c"d", Mode::RWXU).expect("a folder");
        at = openat(&at, c"d", flags, Mode::empty()).expect("the folder");
    }
    at
}

fn file(at: &OwnedFd, name: &CStr) {
    mknodat(at, name, FileType::RegularFile, Mode::RUSR, 0).expect("a file");
}

/// Removes it step by step.
fn removed(path: &Path) -> std::result::Result<(), NotRemoved> {
    let mut walk = Walk::new(path)?;
    while walk.step() {
        assert!(walk.way.len() <= OPEN_FOLDERS, "{} folders are open", walk.way.len());
    }
    walk.outcome()
}

#[test]
fn twenty_thousand_nested_folders_are_removed_with_a_small_stack_and_few_descriptors() {
    let place = tempfile::tempdir().expect("a folder");
    let top = place.path().join("top");
    fs::create_dir(&top).expect("the top");
    file(&nest(&top, 20_000), c"at the end");
    let small = std::thread::Builder::new().stack_size(64 << 10);
    let thread = small.spawn({
        let top = top.clone();
        move || removed(&top)
    });
    thread.expect("a thread").join().expect("no overflow").expect("removed");
    assert!(!top.exists());
}

#[test]
fn what_lies_deep_is_moved_up_whatever_is_there_already() {
    let place = tempfile::tempdir().expect("a folder");
    let top = place.path().join("top");
    fs::create_dir(&top).expect("the top");
    // Names that folders get when they are moved up.
    fs::write(top.join("0"), "x").expect("a file");
    fs::create_dir_all(top.join("1/full")).expect("a full folder");
    fs::create_dir(top.join("2")).expect("an empty folder");
    symlink("/", top.join("3")).expect("a link");
    for depth in [OPEN_FOLDERS - 2, OPEN_FOLDERS - 1, OPEN_FOLDERS, 2 * OPEN_FOLDERS, 100] {
        let branch = top.join(format!("to {depth}"));
        fs::create_dir(&branch).expect("a folder");
        let deep = nest(&branch, depth);
        for name in [c"a", c"b", c"c"] {
            file(&deep, name);
            let name = CString::new([name.to_bytes(), b" folder"].concat()).expect("a name");
            mkdirat(&deep, name, Mode::RWXU).expect("a folder");
        }
    }
    removed(&top).expect("removed");
    assert!(!top.exists());
}

#[test]
fn links_are_removed_and_what_they_lead_to_stays() {
    let place = tempfile::tempdir().expect("a folder");
    let (top, outside) = (place.path().join("top"), place.path().join("outside"));
    fs::create_dir_all(top.join("in")).expect("a folder");
    fs::create_dir_all(outside.join("folder")).expect("a folder");
    fs::write(outside.join("file"), "precious").expect("a file");
    for (to, name) in [("../../outside", "a"), ("../../outside/file", "b"), ("/", "c"), ("d", "d")]
    {
        symlink(to, top.join("in").join(name)).expect("a link");
    }
    fs::hard_link(outside.join("file"), top.join("same")).expect("a second name");
    let odd = OsStr::from_bytes(b"in/\xff\xfe \n\x01").to_owned();
    fs::create_dir(top.join(&odd)).expect("a folder");
    fs::write(top.join(odd).join(OsStr::from_bytes(b"\x80")), "x").expect("a file");
    let at = openat(CWD, &top, OFlags::PATH, Mode::empty()).expect("the top");
    mknodat(&at, c"pipe", FileType::Fifo, Mode::RUSR, 0).expect("a pipe");
    mknodat(&at, c"socket", FileType::Socket, Mode::RUSR, 0).expect("a socket");

    let link = place.path().join("link");
    symlink(&top, &link).expect("a link");
    remove_tree(&link).expect("removed");
    assert!(!link.is_symlink() && top.join("in").exists(), "only the link goes");
    remove_tree(&top).expect("removed");
    assert!(!top.exists());
    assert_eq!(fs::read_to_string(outside.join("file")).expect("still there"), "precious");
    assert!(outside.join("folder").exists());

    remove_tree(&top).expect("nothing is there");
    remove_tree(&top.join("not/there")).expect("nothing is there either");
    remove_tree(&outside.join("file")).expect("a file");
    assert!(!outside.join("file").exists());
    remove_tree(Path::new("/")).expect_err("no name");
}

#[test]
fn a_folder_that_is_swapped_for_a_link_at_any_moment_leads_nowhere() {
    let content = |folder: &Path| -> BTreeSet<_> {
        let entries = fs::read_dir(folder).expect("a folder");
        entries.map(|entry| entry.expect("an entry").file_name()).collect()
    };
    for swapped in ["top", "top/a", "top/a/b", "top/a/b/c"] {
        for moment in 0.. {
            let place = tempfile::tempdir().expect("a folder");
            let (top, outside) = (place.path().join("top"), place.path().join("outside"));
            fs::create_dir_all(top.join("a/b/c/d")).expect("folders");
            // The names are those of the folders that are swapped.
            fs::create_dir_all(outside.join("a/b/c/d")).expect("folders");
            for folder in ["", "a", "a/b", "a/b/c", "a/b/c/d"] {
                fs::write(top.join(folder).join("file"), "x").expect("a file");
                fs::write(outside.join(folder).join("file"), "precious").expect("a file");
            }
            let mut walk = Walk::new(&top).expect("begun");
            let steps = (0..moment).take_while(|_| walk.step()).count();
            let (at, away) = (place.path().join(swapped), place.path().join("away"));
            let was_there = fs::rename(&at, &away).is_ok();
            if was_there {
                symlink(&outside, &at).expect("a link");
            }
            while walk.step() {}
            walk.outcome().unwrap_or_else(|error| panic!("{swapped} at {moment}: {error}"));
            for folder in ["", "a", "a/b", "a/b/c", "a/b/c/d"] {
                let name = format!("{swapped} at {moment}: {folder}");
                assert!(content(&outside.join(folder)).contains(OsStr::new("file")), "{name}");
            }
            assert!(!top.exists() && !top.is_symlink(), "{swapped} at {moment}");
            if steps < moment {
                break;
            }
        }
    }
}
