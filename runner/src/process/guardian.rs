//! The bare fork between the runner and an agent.
//!
//! It is the "subreaper" of its tree: a process whose parent dies becomes its child, whatever
//! sessions, groups and double forks there were. So the tree is always known, and the guardian
//! ends exactly when nothing of the tree is left. When the runner dies, even by SIGKILL, the
//! guardian ends the tree itself, with the processes in it that have escaped: nobody else knows
//! them any more. While it lives it holds a lock on the attempt's folder. The next runner waits
//! for that lock, and so for the end of the tree.
//!
//! It is a fork without exec of a process with many threads: only system calls from here on,
//! no allocation, no locks.

use std::ffi::CStr;
use std::io;
use std::os::fd::RawFd;

/// Called between fork and exec. Returns in the process that becomes the agent; the calling
/// process turns into the guardian and never returns.
///
/// The guardian writes to `report` the agent's pid, and later its wait status: 4 bytes each. It
/// locks `folder`, shared, until it ends.
///
/// # Safety
/// Only in a child between fork and exec. `report` is open, is closed on exec, and is above 2.
pub(super) unsafe fn split(runner: libc::pid_t, report: RawFd, folder: &CStr) -> io::Result<()> {
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
            Ok(pid) if pid > 0 => guard(runner, pid, report, folder),
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

/// Reaps until there are no children left; ends them when the runner has ended.
///
/// # Safety
/// As [`split`].
unsafe fn guard(runner: libc::pid_t, agent: libc::pid_t, report: RawFd, folder: &CStr) -> ! {
    // SAFETY: system calls on plain numbers and on local variables.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        // The agent's pipes, and everything that the runner has open.
        close_all_but(report);
        // Before this process survives the runner. The agent does not share the lock: it has been
        // forked already.
        let lock = libc::open(folder.as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY);
        libc::flock(lock, libc::LOCK_SH);
        // From here on the runner's death is a signal to handle. Before, it ended this process too.
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGUSR1, 0, 0, 0);
        // Not in the agent's folder: the runner's next start kills processes there.
        libc::chdir(c"/".as_ptr());
        write_report(report, agent);
        loop {
            let mut status = 0;
            let pid = libc::waitpid(-1, &raw mut status, libc::WNOHANG);
            if pid == agent {
                write_report(report, status);
            } else if pid == 0 {
                let runner_died = libc::getppid() != runner;
                if runner_died {
                    end_children(agent);
                }
                // Wait until a child or the runner ends; briefly while the children are being
                // ended.
                let (seconds, nanoseconds) = if runner_died { (0, 2_000_000) } else { (1, 0) };
                let timeout = libc::timespec { tv_sec: seconds, tv_nsec: nanoseconds };
                libc::sigtimedwait(&raw const all, std::ptr::null_mut(), &raw const timeout);
            } else if pid < 0 && *libc::__errno_location() != libc::EINTR {
                libc::_exit(0);
            }
        }
    }
}

/// Sends KILL to every child. Their children become ours when they end; the next call kills them.
///
/// # Safety
/// As [`split`].
unsafe fn end_children(agent: libc::pid_t) {
    let mut list = [0_u8; 4096];
    // SAFETY: system calls on a constant path, and on a buffer with its own length.
    let read = unsafe {
        let file = libc::open(c"/proc/thread-self/children".as_ptr(), libc::O_RDONLY);
        let read = libc::read(file, list.as_mut_ptr().cast(), list.len());
        libc::close(file);
        read
    };
    let Ok(length @ 1..) = usize::try_from(read) else {
        // The kernel has no such list: then only the agent's own group is killed.
        // SAFETY: system calls on plain numbers.
        unsafe {
            libc::kill(-agent, libc::SIGKILL);
            libc::_exit(1);
        }
    };
    let mut pid: libc::pid_t = 0;
    for byte in &list[..length] {
        if byte.is_ascii_digit() {
            pid = pid.wrapping_mul(10).wrapping_add(libc::pid_t::from(byte - b'0'));
            continue;
        }
        if pid > 1 {
            // SAFETY: a system call on plain numbers; the child is ours, and is not reaped yet.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        pid = 0;
    }
}

/// # Safety
/// As [`split`].
unsafe fn write_report(report: RawFd, number: i32) {
    let bytes = number.to_ne_bytes();
    // SAFETY: the pointer and the length are those of `bytes`. A pipe takes 4 bytes at once,
    // and if nobody reads it the number is not needed.
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
