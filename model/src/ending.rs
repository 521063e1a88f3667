//! How a run ends when a signal ends it: the programs that it started end with it, and its folders are removed.
//!
//! A run of TLC is a process of its own that may take hours and all cores. SIGTERM, SIGINT and SIGHUP kill it, remove what it
//! kept on disk, and end this program with exit code 2, because a run that was cut short shows nothing. The handler is
//! installed with the first folder or process; a command that has neither ends as the system has it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

/// What must not be left behind.
struct Left {
    processes: BTreeMap<u64, Child>,
    folders: BTreeSet<PathBuf>,
}

static LEFT: Mutex<Left> = Mutex::new(Left { processes: BTreeMap::new(), folders: BTreeSet::new() });

/// Numbers the folders and processes of this run.
fn next_number() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

fn left() -> MutexGuard<'static, Left> {
    static HANDLER: Once = Once::new();
    HANDLER.call_once(|| {
        if let Err(error) = ctrlc::set_handler(end) {
            eprintln!("a signal will leave java and temporary folders behind: {error}");
        }
    });
    // A panic while it was locked changes nothing about what must be removed.
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs on a thread of its own when a signal arrives. The lock is never released, so that nothing new is started.
fn end() {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    for process in left.processes.values_mut() {
        // One that has ended already cannot be killed, and need not be.
        let _ = process.kill();
        let _ = process.wait();
    }
    for folder in &left.folders {
        let _ = std::fs::remove_dir_all(folder);
    }
    eprintln!("ended by a signal: this run shows nothing");
    std::process::exit(2);
}

/// A temporary folder of this run's own; removed when it is dropped, or when a signal ends the run.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes an empty folder among the system's temporary files; `name` ends its name.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(name: &str) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("raft-model-{}-{}-{name}", std::process::id(), next_number()));
        left().folders.insert(path.clone());
        let folder = Self { path };
        // An earlier run that had the same process id may have been killed.
        let _ = std::fs::remove_dir_all(&folder.path);
        std::fs::create_dir_all(&folder.path)?;
        Ok(folder)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // If it cannot be removed it stays among the system's temporary files, where it harms nobody.
        let _ = std::fs::remove_dir_all(&self.path);
        left().folders.remove(&self.path);
    }
}

/// A running program; killed when it is dropped, or when a signal ends the run.
#[derive(Debug)]
pub struct Process {
    number: u64,
}

impl Process {
    /// Starts a program.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        let number = next_number();
        // Between the start and the entry no signal may be handled.
        let mut left = left();
        left.processes.insert(number, command.spawn()?);
        Ok(Self { number })
    }

    /// Takes the program's standard output, if it is piped.
    #[must_use]
    pub fn take_stdout(&self) -> Option<ChildStdout> {
        left().processes.get_mut(&self.number)?.stdout.take()
    }

    /// Waits until the program ends. It should have closed its output before, as programs do that are about to end: from
    /// here on a signal does not kill it.
    ///
    /// # Errors
    /// The system does not say how it ended.
    pub fn wait(self) -> io::Result<ExitStatus> {
        self.take().map_or_else(|| Err(io::ErrorKind::NotFound.into()), |mut child| child.wait())
    }

    fn take(&self) -> Option<Child> {
        left().processes.remove(&self.number)
    }

    /// Runs a program to its end, and returns what it printed.
    ///
    /// # Errors
    /// It cannot be started, or what it prints cannot be read.
    pub fn output(command: &mut Command) -> io::Result<Output> {
        let process = Self::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))?;
        let errors = left().processes.get_mut(&process.number).and_then(|child| child.stderr.take());
        let read_errors = std::thread::spawn(move || read_all(errors));
        let stdout = read_all(process.take_stdout())?;
        let stderr = read_errors.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?;
        Ok(Output { status: process.wait()?, stdout, stderr })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(mut child) = self.take() else { return };
        // One that has ended already cannot be killed, and need not be.
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn read_all(from: Option<impl Read>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut from) = from {
        from.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_there_until_it_is_dropped() {
        let folder = Folder::new("test").expect("a folder");
        let path = folder.path().to_path_buf();
        std::fs::write(path.join("file"), "text").expect("a file");
        drop(folder);
        assert!(!path.exists());
        assert!(!left().folders.contains(&path));
    }

    #[test]
    fn what_a_program_prints_is_read_from_both_of_its_outputs() {
        let output = Process::output(Command::new(std::env::current_exe().expect("this program")).arg("--nonsense"));
        let output = output.expect("it runs");
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("nonsense"));
        assert!(left().processes.is_empty());
    }
}
