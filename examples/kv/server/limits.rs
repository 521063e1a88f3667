//! The limits that the system sets to a process: the size of its files, and how many it may have open.

/// A write beyond `ulimit -f` ends the process by the signal SIGXFSZ, unless that is blocked: then it is an error of the write
/// (`EFBIG`), which the log and the snapshots report as any other. Threads take this over from the one that starts them, so
/// it is called before any is started.
#[cfg(unix)]
pub(crate) fn make_oversize_an_error() -> Result<(), String> {
    use nix::sys::signal::{SigSet, Signal};
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGXFSZ);
    signals.thread_block().map_err(|error| format!("SIGXFSZ cannot be blocked: {error}"))
}

#[cfg(not(unix))]
pub(crate) fn make_oversize_an_error() -> Result<(), String> {
    Ok(())
}

/// How many files this process may have open; `None` if that is unlimited or not known.
#[cfg(unix)]
pub(crate) fn open_files_max() -> Option<u64> {
    use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    (soft != RLIM_INFINITY).then_some(soft)
}

#[cfg(not(unix))]
pub(crate) fn open_files_max() -> Option<u64> {
    None
}
