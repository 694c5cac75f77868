//! The bare fork between the runner and an agent.
//!
//! It is the "subreaper" of its tree: a process whose parent dies becomes its child, whatever
//! sessions, groups and double forks there were. So the tree is always known, and the guardian
//! ends exactly when nothing of the tree is left. It dies with the runner, and the agent with it.
//!
//! It is a fork without exec of a process with many threads: only system calls from here on,
//! no allocation, no locks.

use std::io;
use std::os::fd::RawFd;

/// Called between fork and exec. Returns in the process that becomes the agent; the calling
/// process turns into the guardian and never returns.
///
/// The guardian writes to `report` the agent's pid, and later its wait status: 4 bytes each.
///
/// # Safety
/// Only in a child between fork and exec. `report` is open, is closed on exec, and is above 2.
pub(super) unsafe fn split(runner: libc::pid_t, report: RawFd) -> io::Result<()> {
    // SAFETY: system calls on plain numbers.
    unsafe {
        check(libc::setsid())?;
        die_with(runner)?;
        check(libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))?;
        let guardian = libc::getpid();
        // The raw call: the C library's fork takes locks that another thread may hold.
        let agent = libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0);
        match libc::pid_t::try_from(agent) {
            Ok(0) => {
                check(libc::setsid())?;
                die_with(guardian)
            }
            Ok(pid) if pid > 0 => guard(pid, report),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// KILL when `parent` ends; at once if it has ended already.
///
/// # Safety
/// As [`split`].
unsafe fn die_with(parent: libc::pid_t) -> io::Result<()> {
    // SAFETY: system calls on plain numbers.
    unsafe {
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
        if libc::getppid() != parent {
            libc::_exit(1);
        }
    }
    Ok(())
}

/// Reaps until there are no children left.
///
/// # Safety
/// As [`split`].
unsafe fn guard(agent: libc::pid_t, report: RawFd) -> ! {
    // SAFETY: system calls on plain numbers and on local variables.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        // The agent's pipes, and everything that the runner has open.
        close_all_but(report);
        tell(report, agent);
        loop {
            let mut status = 0;
            let pid = libc::waitpid(-1, &raw mut status, 0);
            if pid == agent {
                tell(report, status);
            } else if pid < 0 && *libc::__errno_location() != libc::EINTR {
                libc::_exit(0);
            }
        }
    }
}

/// # Safety
/// As [`split`].
unsafe fn tell(report: RawFd, number: i32) {
    let bytes = number.to_ne_bytes();
    // SAFETY: the pointer and the length are those of `bytes`. A pipe takes 4 bytes at once,
    // and if nobody reads any more nobody needs them.
    unsafe {
        libc::write(report, bytes.as_ptr().cast(), bytes.len());
    }
}

/// # Safety
/// As [`split`].
unsafe fn close_all_but(kept: RawFd) {
    let kept = kept.unsigned_abs();
    for (first, last) in [(0, kept - 1), (kept + 1, u32::MAX)] {
        // SAFETY: a system call on plain numbers. Kernels before 5.9 do not know it.
        if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } != 0 {
            for fd in first..=last.min(65_536) {
                // SAFETY: nothing here uses the descriptor any more.
                unsafe { libc::close(fd.cast_signed()) };
            }
        }
    }
}

fn check(answer: libc::c_int) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
