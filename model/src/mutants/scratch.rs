//! The scratch copy of the workspace in which a mutant is made, built and checked.
//!
//! There is one copy and one build folder for all mutants, and only files that differ are written: so a mutant costs a
//! rebuild of the two crates of the workspace and nothing else.

use super::{Expectation, Mutant, MutantError, io};
use crate::ending::Process;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A copy of the workspace.
#[derive(Debug)]
pub struct Scratch {
    workspace: PathBuf,
    build: PathBuf,
    counterexamples: PathBuf,
}

/// How the check of one expectation went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// As expected.
    pub is_expected: bool,
    /// What happened, in a few words.
    pub verdict: String,
    /// The length of the way to the broken law, or the longest way of a survivor.
    pub depth: u64,
    /// Distinct states.
    pub states: u64,
    /// How long the check took, without the build.
    pub seconds: f64,
}

/// What keeps a mutant from being checked.
#[derive(Debug)]
pub enum Trouble {
    /// It does not apply, or does not build: the mutant must be brought up to date.
    Stale(String),
    /// Something around it failed.
    Broken(String),
}

impl From<MutantError> for Trouble {
    fn from(error: MutantError) -> Self {
        match error {
            // A file that a patch is about and that is gone is the patch's trouble.
            MutantError::Io { ref source, .. } if source.kind() != ErrorKind::NotFound => {
                Self::Broken(error.to_string())
            }
            _ => Self::Stale(error.to_string()),
        }
    }
}

/// How far a check may go.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Seconds for each check.
    pub timeout_seconds: u64,
    /// Threads; one makes the search strictly breadth-first, hence its counts the same every time.
    pub threads: usize,
}

impl Scratch {
    /// Makes the copy at `folder`, or brings the one that is there up to date.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn new(root: &Path, folder: &Path) -> Result<Self, MutantError> {
        let folder = std::path::absolute(folder).map_err(io(folder))?;
        let scratch = Self {
            workspace: folder.join("workspace"),
            build: folder.join("build"),
            counterexamples: folder.join("counterexamples"),
        };
        mirror(root, &scratch.workspace, &folder)?;
        Ok(scratch)
    }

    /// Makes the mutant, builds it, and gives its program to `check`; afterwards the copy is as before.
    ///
    /// # Errors
    /// The patch does not apply, or what it makes of the code does not build.
    pub fn with<T>(&self, mutant: &Mutant, check: impl FnOnce(&Program<'_>) -> T) -> Result<T, Trouble> {
        let patched = mutant.apply(&self.workspace)?;
        let mut originals = Vec::new();
        for (path, _) in &patched {
            originals.push((path, std::fs::read(path).map_err(io(path))?));
        }
        let write = || patched.iter().try_for_each(|(path, text)| std::fs::write(path, text).map_err(io(path)));
        let built = write().map_err(Trouble::from).and_then(|()| self.build());
        let result = built.map(|path| {
            check(&Program { path, out: self.counterexamples.join(mutant.title()), folder: &self.workspace })
        });
        for (path, original) in originals {
            std::fs::write(path, original).map_err(io(path))?;
        }
        result
    }

    fn build(&self) -> Result<PathBuf, Trouble> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut command = Command::new(cargo);
        command
            .args(["build", "--release", "--locked", "--quiet", "--package", "raft-model", "--target-dir"])
            .arg(&self.build)
            // These two crates are built again for each mutant, whose states are few: what counts is a fast build.
            .args(
                ["raft-io", "raft-model"]
                    .iter()
                    .flat_map(|name| ["--config".to_string(), format!("profile.release.package.{name}.opt-level=1")]),
            )
            .current_dir(&self.workspace)
            .env("CARGO_INCREMENTAL", "1")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
            .env_remove("CARGO_TARGET_DIR");
        let output =
            Process::output(&mut command).map_err(|error| Trouble::Broken(format!("cargo cannot be run: {error}")))?;
        if output.status.success() {
            return Ok(self.build.join("release").join(format!("raft-model{}", std::env::consts::EXE_SUFFIX)));
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let error = said.lines().position(|line| line.starts_with("error")).unwrap_or(0);
        let first: Vec<&str> = said.lines().skip(error).take(6).collect();
        Err(Trouble::Stale(format!("it does not build: {}", first.join("\n"))))
    }
}

/// `raft-model` with a mutant in it.
#[derive(Debug)]
pub struct Program<'a> {
    path: PathBuf,
    folder: &'a Path,
    /// Where the way to a broken law is told.
    out: PathBuf,
}

impl Program<'_> {
    /// Checks whether what must come of the mutant does.
    ///
    /// # Errors
    /// The program did not answer.
    pub fn check(&self, expectation: &Expectation, bounds: Bounds) -> Result<Outcome, Trouble> {
        let mut command = Command::new(&self.path);
        if matches!(expectation, Expectation::DiesOnWalks { .. }) {
            command.arg("simulate").args(["--walks", WALKS, "--steps", STEPS, "--shrink", "10"]);
        } else {
            command.arg("check").arg("--threads").arg(bounds.threads.to_string());
        }
        command.arg(expectation.place()).arg("--json").arg("--timeout").arg(bounds.timeout_seconds.to_string());
        if let Some(law) = expectation.law() {
            command.arg("--law").arg(law.name());
        }
        std::fs::create_dir_all(&self.out).map_err(io(&self.out))?;
        command.arg("--out").arg(&self.out).current_dir(self.folder);
        let output = Process::output(&mut command)
            .map_err(|error| Trouble::Broken(format!("{}: {error}", self.path.display())))?;
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|error| {
            let said = String::from_utf8_lossy(&output.stderr);
            Trouble::Broken(format!("the check gave no report ({error}): {}", said.trim()))
        })?;
        Ok(judge(expectation, &report))
    }
}

/// How many walks a mutant must survive that dies on one, and how long each is.
const WALKS: &str = "100";
const STEPS: &str = "5000";

/// Compares what a check reported with what must come of the mutant.
fn judge(expectation: &Expectation, report: &serde_json::Value) -> Outcome {
    let text = |key: &str| report[key].as_str().unwrap_or("").to_string();
    let list = |key: &str| report[key].as_array().cloned().unwrap_or_default();
    let laws = list("laws");
    let says = text("verdict");
    let (is_expected, verdict) = match expectation {
        Expectation::Dies { law, assertion, .. } => {
            let broken = laws.iter().any(|name| name.as_str() == Some(law.name()));
            let said = assertion.as_ref().is_none_or(|assertion| text("message").contains(assertion.as_str()));
            match (broken, said) {
                (true, true) => (true, "dead".to_string()),
                (true, false) => (false, format!("DIED OF {:?}", text("message"))),
                (false, _) => (false, format!("ALIVE: {says}")),
            }
        }
        Expectation::DiesOnWalks { law, .. } if text("law") == *law => (true, "dead".to_string()),
        Expectation::DiesOnWalks { .. } => (false, format!("ALIVE: {says}")),
        Expectation::Survives { .. } if says == "complete" => (true, "alive, as expected".to_string()),
        Expectation::Survives { .. } => (false, says),
    };
    // Of a walk: the commands that are left of it, and the moves that it made.
    let path = list("counterexample").len().max(list("script").len()) as u64;
    let depth = if path > 0 { path } else { report["depth"].as_u64().unwrap_or(0) };
    let states = report["states"].as_u64().or_else(|| report["steps"].as_u64()).unwrap_or(0);
    let seconds = report["seconds"].as_f64().unwrap_or(0.0);
    Outcome { is_expected, verdict, depth, states, seconds }
}

/// Makes the folder `to` hold just the files of `from`, but for the folder `except`; what is equal is not touched.
fn mirror(from: &Path, to: &Path, except: &Path) -> Result<(), MutantError> {
    std::fs::create_dir_all(to).map_err(io(to))?;
    let names = |folder: &Path| -> Result<Vec<OsString>, MutantError> {
        let entries = std::fs::read_dir(folder).map_err(io(folder))?;
        entries.map(|entry| Ok(entry.map_err(io(folder))?.file_name())).collect()
    };
    // Neither what was built nor what is no source: `.git` and the like.
    let is_source =
        |name: &OsString| name != "target" && !name.to_string_lossy().starts_with('.') && from.join(name) != except;
    let sources: Vec<OsString> = names(from)?.into_iter().filter(is_source).collect();
    for name in names(to)?.iter().filter(|name| !sources.contains(name)) {
        let path = to.join(name);
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.map_err(io(&path))?;
    }
    for name in sources {
        let (source, copy) = (from.join(&name), to.join(&name));
        if source.is_dir() {
            mirror(&source, &copy, except)?;
        } else if source.is_file() {
            let content = std::fs::read(&source).map_err(io(&source))?;
            if std::fs::read(&copy).ok().as_ref() != Some(&content) {
                std::fs::write(&copy, content).map_err(io(&copy))?;
            }
        }
    }
    Ok(())
}
