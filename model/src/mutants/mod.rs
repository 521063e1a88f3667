//! Mutants: one mistake each, made in the real code, which must break the law that is there to forbid it.
//!
//! A mutant is a file in `model/mutants`: a header that says what is wrong and which law must find it within which
//! bounds, and the unified diff that makes the mistake. `model/mutants/README.md` says how to add one.
//!
//! Lives here: what such a file says. The scratch copy that is patched, built and checked: [`scratch`].

pub mod configurations;
pub mod patch;
pub mod scratch;

use crate::config::Configuration;
use crate::laws::Law;
use crate::simulate::{self, CONVERGENCE};
use patch::{FilePatch, PatchError};
use raft_io::testkit::invariants;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// One mistake.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// Its number in the catalogue.
    pub number: u32,
    /// Its name: that of its file, without number and extension.
    pub name: String,
    /// What is wrong, in a sentence.
    pub does: String,
    /// Whether it is one of the few that stand for all.
    pub representative: bool,
    /// What must come of it.
    pub expectations: Vec<Expectation>,
    /// The mistake itself.
    pub files: Vec<FilePatch>,
}

/// What must come of a mutant in one configuration.
#[derive(Clone, Debug)]
pub enum Expectation {
    /// It breaks this law.
    Dies {
        /// The law; no other one counts.
        law: Law,
        /// For [`Law::ServerLaws`], the name that the failed assertion begins with.
        assertion: Option<String>,
        /// Within these bounds.
        configuration: &'static Configuration,
    },
    /// Random walks through a cluster break this law of the simulation, or [`CONVERGENCE`].
    DiesOnWalks {
        /// The law's name in `docs/INVARIANTS.md`.
        law: String,
        /// The name of the setup; see `raft-model simulate --list`.
        setup: String,
    },
    /// It does not break this law.
    Survives {
        /// The law; all of them if none is named.
        law: Option<Law>,
        /// Within these bounds.
        configuration: &'static Configuration,
        /// Why that is right.
        reason: String,
    },
}

impl Expectation {
    /// The bounds; a walk has none.
    #[must_use]
    pub fn configuration(&self) -> Option<&'static Configuration> {
        match self {
            Self::Dies { configuration, .. } | Self::Survives { configuration, .. } => Some(configuration),
            Self::DiesOnWalks { .. } => None,
        }
    }

    /// The name of the configuration, or of the setup of the walks.
    #[must_use]
    pub fn place(&self) -> &str {
        match self {
            Self::Dies { configuration, .. } | Self::Survives { configuration, .. } => configuration.name,
            Self::DiesOnWalks { setup, .. } => setup,
        }
    }

    /// The only law of the model that counts, if not all do.
    #[must_use]
    pub fn law(&self) -> Option<Law> {
        match self {
            Self::Dies { law, .. } => Some(*law),
            Self::Survives { law, .. } => *law,
            Self::DiesOnWalks { .. } => None,
        }
    }

    /// The name of the law that must break or must not.
    #[must_use]
    pub fn law_name(&self) -> &str {
        match self {
            Self::Dies { assertion: Some(assertion), .. } => assertion,
            Self::DiesOnWalks { law, .. } => law,
            _ => self.law().map_or(ALL_LAWS, Law::name),
        }
    }
}

/// What is wrong with a mutant's file, or with their folder.
#[derive(Debug, Error)]
pub enum MutantError {
    /// The folder is not here or above.
    #[error("there is no folder {0} here or above; run this within the repository")]
    NoFolder(&'static str),
    /// Something could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file's name is not a number and words.
    #[error("{0}: the name must be like 04-ignore-voted-for.patch")]
    Name(String),
    /// A line of the header.
    #[error("{file}: {problem}")]
    Header {
        /// The file's name.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// The diff.
    #[error("{file}: {source}")]
    Patch {
        /// The file's name.
        file: String,
        /// What is wrong.
        source: PatchError,
    },
    /// Two files have one number.
    #[error("number {0} is there twice")]
    Twice(u32),
}

/// Where the mutants are, from the root of the repository.
const FOLDER: &str = "model/mutants";

/// The root of the repository: this folder or one above it.
///
/// # Errors
/// None of them has mutants.
pub fn root() -> Result<PathBuf, MutantError> {
    let here = std::env::current_dir().map_err(io(Path::new(".")))?;
    let found = here.ancestors().find(|folder| folder.join(FOLDER).is_dir());
    found.map(Path::to_path_buf).ok_or(MutantError::NoFolder(FOLDER))
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> MutantError {
    let path = path.to_path_buf();
    move |source| MutantError::Io { path, source }
}

/// All mutants of the repository, by number.
///
/// # Errors
/// The first file that does not say what it must.
pub fn catalogue(root: &Path) -> Result<Vec<Mutant>, MutantError> {
    let folder = root.join(FOLDER);
    let mut mutants = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(io(&folder))? {
        let path = entry.map_err(io(&folder))?.path();
        if path.extension().is_some_and(|extension| extension == "patch") {
            let text = std::fs::read_to_string(&path).map_err(io(&path))?;
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            mutants.push(Mutant::parse(&name, &text)?);
        }
    }
    mutants.sort_by_key(|mutant| mutant.number);
    match mutants.windows(2).find(|pair| pair[0].number == pair[1].number) {
        Some(pair) => Err(MutantError::Twice(pair[0].number)),
        None => Ok(mutants),
    }
}

impl Mutant {
    /// Reads a mutant's file.
    ///
    /// # Errors
    /// What it does not say, or says wrongly.
    pub fn parse(file: &str, text: &str) -> Result<Self, MutantError> {
        let (number, name) = file
            .strip_suffix(".patch")
            .and_then(|stem| stem.split_once('-'))
            .and_then(|(number, name)| Some((number.parse().ok()?, name.to_string())))
            .ok_or_else(|| MutantError::Name(file.to_string()))?;
        let header = |problem: String| MutantError::Header { file: file.to_string(), problem };
        let mut does = None;
        let mut representative = false;
        let mut expectations = Vec::new();
        for line in text.lines().take_while(|line| !line.is_empty()) {
            let Some((key, value)) = line.split_once(": ") else {
                return Err(header(format!("{line:?} is not like `key: value`")));
            };
            match key {
                "does" => does = Some(value.to_string()),
                "representative" => representative = value == "yes",
                "dies" => expectations.push(parse_death(value).map_err(&header)?),
                "survives" => expectations.push(parse_survival(value).map_err(&header)?),
                _ => return Err(header(format!("{key:?} is none of does, dies, survives, representative"))),
            }
        }
        let does = does.ok_or_else(|| header("it does not say what it `does:`".to_string()))?;
        if expectations.is_empty() {
            return Err(header("it says neither `dies:` nor `survives:`".to_string()));
        }
        let files = patch::parse(text).map_err(|source| MutantError::Patch { file: file.to_string(), source })?;
        if files.is_empty() {
            return Err(header("there is no diff in it".to_string()));
        }
        Ok(Self { number, name, does, representative, expectations, files })
    }

    /// The files that it changes, as they are with it.
    ///
    /// # Errors
    /// A file is not there, or has not the lines that the patch is about.
    pub fn apply(&self, root: &Path) -> Result<Vec<(PathBuf, String)>, MutantError> {
        let each = |file: &FilePatch| {
            let path = root.join(&file.path);
            let source = std::fs::read_to_string(&path).map_err(io(&path))?;
            let patched = file.apply(&source).map_err(|source| MutantError::Patch { file: self.title(), source })?;
            Ok((path, patched))
        };
        self.files.iter().map(each).collect()
    }

    /// Number and name.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{:02}-{}", self.number, self.name)
    }
}

/// `Law in configuration`, or `ServerLaws/Assertion in configuration`, or `Law on walks through setup`.
fn parse_death(value: &str) -> Result<Expectation, String> {
    if let Some((law, setup)) = value.split_once(" on walks through ") {
        let is_law = law == CONVERGENCE || invariants::Law::ALL.iter().any(|known| known.to_string() == law);
        let known = is_law.then_some(()).ok_or(format!("no law of the simulation is called {law}"));
        let setup = known.and_then(|()| simulate::setup(setup).ok_or(format!("no setup is called {setup}")))?;
        return Ok(Expectation::DiesOnWalks { law: law.to_string(), setup: setup.name.to_string() });
    }
    let (law, configuration) = value.split_once(" in ").ok_or("`dies:` is not like `Law in configuration`")?;
    let (law, assertion) = match law.split_once('/') {
        Some((law, assertion)) => (law, Some(assertion.to_string())),
        None => (law, None),
    };
    let law = parse_law(law)?;
    if (law == Law::ServerLaws) != assertion.is_some() {
        return Err("an assertion is named for ServerLaws, and only there".to_string());
    }
    Ok(Expectation::Dies { law, assertion, configuration: parse_configuration(configuration)? })
}

/// How a header calls all laws at once.
const ALL_LAWS: &str = "AllLaws";

/// `Law in configuration because reason`, or `AllLaws in …`.
fn parse_survival(value: &str) -> Result<Expectation, String> {
    let (law, configuration, reason) = value
        .split_once(" in ")
        .and_then(|(law, rest)| {
            rest.split_once(" because ").map(|(configuration, reason)| (law, configuration, reason))
        })
        .ok_or("`survives:` is not like `Law in configuration because reason`")?;
    let law = if law == ALL_LAWS { None } else { Some(parse_law(law)?) };
    Ok(Expectation::Survives { law, configuration: parse_configuration(configuration)?, reason: reason.to_string() })
}

fn parse_law(name: &str) -> Result<Law, String> {
    Law::named(name).ok_or(format!("no law is called {name}"))
}

fn parse_configuration(name: &str) -> Result<&'static Configuration, String> {
    crate::configurations::named(name).ok_or(format!("no configuration is called {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIFF: &str = "\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n";

    fn parse(header: &str) -> Result<Mutant, String> {
        Mutant::parse("07-some-name.patch", &format!("{header}{DIFF}")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_header_says_what_must_come_of_the_mutant() {
        let header = "does: Something.\ndies: ServerLaws/CommitWithinLog in core\nsurvives: AllLaws in core because of that\n\
             dies: LogsConverge on walks through five\n";
        let mutant = parse(header).expect("a mutant");
        assert_eq!((mutant.number, mutant.title().as_str()), (7, "07-some-name"));
        let names: Vec<&str> = mutant.expectations.iter().map(Expectation::law_name).collect();
        assert_eq!(names, ["CommitWithinLog", "AllLaws", "LogsConverge"]);
    }

    #[test]
    fn a_header_that_names_nothing_real_is_refused() {
        for header in [
            "",
            "dies: ElectionSafety in core\n",
            "does: Something.\n",
            "does: Something.\ndies: Murphy in core\n",
            "does: Something.\ndies: ElectionSafety in nowhere\n",
            "does: Something.\ndies: ServerLaws in core\n",
            "does: Something.\nsurvives: AllLaws in core\n",
            "does: Something.\nkills: ElectionSafety in core\n",
            "does: Something.\ndies: Murphy on walks through five\n",
            "does: Something.\ndies: ElectionSafety on walks through nowhere\n",
        ] {
            assert!(parse(header).is_err(), "{header:?}");
        }
    }
}
