//! Conformance: TLC's reachable states and transitions of the spec against those of the model over the real code.
//!
//! Both sides explore one bounded configuration completely. A state is compared as the values of the spec's variables, a
//! transition as (state, action, state). What one side has and the other has not is an error of the spec or of the code:
//! a spec that permits too much shows as well as an implementation that does something else.

mod graph;
mod model;
mod tlc_dump;

pub use graph::{Graph, StateId};
pub use tlc_dump::DumpError;

use crate::config::{Configuration, Network};
use crate::ending::Folder;
use crate::tlc::{Outcome, Run, Tlc, TlcError};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// What kept a comparison from being made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConformError {
    /// TLC could not be run.
    #[error(transparent)]
    Tlc(#[from] TlcError),
    /// TLC found the spec wrong, or did not finish.
    #[error("TLC did not complete {config}:\n{said}")]
    Incomplete {
        /// The configuration.
        config: String,
        /// What TLC said.
        said: String,
    },
    /// TLC's dump could not be read.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// The two sides do not explore the same thing.
    #[error("{config}.cfg sets {constant} = {spec}, and the model's configuration means {model}")]
    OtherBounds {
        /// The configuration.
        config: String,
        /// The constant.
        constant: &'static str,
        /// Its value in the spec's configuration; `nothing` if it is not there.
        spec: String,
        /// Its value in the model's.
        model: String,
    },
}

/// One comparison.
pub struct Comparison {
    /// The spec's side.
    pub spec: Graph,
    /// The code's side.
    pub code: Graph,
    /// How long TLC took, and the model.
    pub elapsed: [Duration; 2],
    /// The differences, shortest way first, at most as many as asked for.
    pub differences: Vec<Difference>,
    /// How many there are in all.
    pub differences_count: usize,
    /// The goals and actions that the code's side should have reached and did not: the comparison shows too little.
    pub missing: Vec<String>,
}

/// Something that one side has and the other has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Which side has it.
    pub side: Side,
    /// The actions that lead there, from the initial state; the last is the transition in question.
    pub path: Vec<String>,
    /// What differs, in lines.
    pub text: Vec<String>,
}

/// A side of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The spec, explored by TLC.
    Spec,
    /// The shipped code, explored by the model.
    Code,
}

/// Compares both sides of a configuration, and lists at most `differences_max` differences.
///
/// # Errors
/// TLC could not be run or did not complete, or both sides have different bounds.
pub fn compare(
    configuration: &Configuration,
    tlc: &Tlc,
    spec_folder: &Path,
    differences_max: usize,
    mut watch: impl FnMut(&str),
) -> Result<Comparison, ConformError> {
    let config = spec_name(configuration.name);
    check_bounds(configuration, spec_folder, &config)?;
    let start = std::time::Instant::now();
    let (code, missing) = model::explore(configuration, |states| watch(&format!("code: {states} states")));
    let code_elapsed = start.elapsed();
    // The dump may be large, and nobody needs it afterwards.
    let folder =
        Folder::new(&config).map_err(|error| TlcError::Io { doing: "making a temporary folder".to_string(), error })?;
    let dump = folder.path().join("dump.dot");
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let module = module_of(spec_folder, &config);
    let run = Run { folder: spec_folder, module: &module, config: &config, workers, dump: Some(&dump) };
    let outcome = tlc.run(&run, |_, outcome| watch(&format!("spec: {} states", outcome.states)))?;
    let spec = read_dump(&config, &outcome, &dump)?;
    drop(folder);
    watch("comparing");
    let (differences, differences_count) = graph::differences(&spec, &code, differences_max);
    Ok(Comparison { spec, code, elapsed: [outcome.elapsed, code_elapsed], differences, differences_count, missing })
}

fn read_dump(config: &str, outcome: &Outcome, dump: &Path) -> Result<Graph, ConformError> {
    if !outcome.complete {
        return Err(ConformError::Incomplete { config: config.to_string(), said: outcome.errors.join("\n") });
    }
    Ok(tlc_dump::read(dump)?)
}

/// `conform-election` is `ConformElection` in the spec's folder.
#[must_use]
pub fn spec_name(name: &str) -> String {
    let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
    name.split('-').map(capital).collect()
}

/// The module of a configuration: one of its own name, else the one that all share in which the membership changes, or in
/// which it does not.
#[must_use]
pub fn module_of(folder: &Path, config: &str) -> String {
    if folder.join(format!("{config}.tla")).is_file() {
        return config.to_string();
    }
    let text = std::fs::read_to_string(folder.join(format!("{config}.cfg"))).unwrap_or_default();
    let changes = assignments(&text).get("Targets").is_some_and(|targets| targets != "{}");
    if changes { MEMBERSHIP_MODULE.to_string() } else { "MC".to_string() }
}

const MEMBERSHIP_MODULE: &str = "MCMembership";

/// The constants of the spec that a configuration of the model stands for.
fn constants(configuration: &Configuration) -> Vec<(&'static str, String)> {
    let servers = |count: u8| names((1..=count).map(u64::from));
    let initial = configuration.initial();
    let nodes = |ids: &[raft_io::NodeId]| names(ids.iter().map(|id| id.0));
    let boolean = |value: bool| if value { "TRUE".to_string() } else { "FALSE".to_string() };
    let (network, messages_max, duplication) = match configuration.network {
        Network::Lossy { messages_max, duplication } => ("\"lossy\"", Some(messages_max), duplication),
        Network::Monotone => ("\"monotone\"", None, false),
    };
    let trails: Vec<String> = configuration.trails.iter().map(u8::to_string).collect();
    let trails = format!("{{{}}}", trails.join(", "));
    let append_max = if configuration.single_entry_appends { 1 } else { configuration.log_max };
    let mut constants = vec![
        ("Server", servers(configuration.servers)),
        ("Voters", nodes(initial.voters())),
        ("Learners", nodes(initial.learners())),
        ("Targets", configuration.targets.0.to_string()),
        ("MaxChanges", configuration.changes_max.to_string()),
        ("MaxWipes", configuration.wipes_max.to_string()),
        (
            "Restorable",
            names((1..=configuration.servers).filter(|id| configuration.is_restorable(id - 1)).map(u64::from)),
        ),
        ("Campaigners", servers(configuration.campaigners)),
        ("Readers", names((1..=configuration.servers).filter(|id| configuration.reads_at(id - 1)).map(u64::from))),
        ("MaxTerm", configuration.term_max.to_string()),
        ("MaxLogLength", configuration.log_max.to_string()),
        ("MaxPending", configuration.pending_max.to_string()),
        ("MaxCrashes", configuration.crashes_max.to_string()),
        ("MaxReads", configuration.reads_max.to_string()),
        ("MaxTransfers", configuration.transfers_max.to_string()),
        ("MaxSnapshots", configuration.snapshots_max.to_string()),
        ("Trails", trails),
        ("MaxInflight", configuration.inflight_max.to_string()),
        ("MaxAppendEntries", append_max.to_string()),
        ("PreVote", boolean(configuration.pre_vote)),
        ("CheckQuorum", boolean(configuration.check_quorum)),
        ("Leases", boolean(configuration.leases)),
        ("BoundedClocks", boolean(configuration.leases)),
        ("StepDowns", boolean(configuration.step_downs)),
        ("Heartbeats", boolean(configuration.heartbeats)),
        ("ClientRequests", boolean(configuration.client_requests)),
        ("Network", network.to_string()),
        ("Duplication", boolean(duplication)),
    ];
    if let Some(messages_max) = messages_max {
        constants.push(("MaxMessages", messages_max.to_string()));
    }
    constants
}

fn names(ids: impl Iterator<Item = u64>) -> String {
    let names: Vec<String> = ids.map(|id| format!("s{id}")).collect();
    format!("{{{}}}", names.join(", "))
}

/// What the module says of the set of targets, which a configuration file can only name.
fn check_targets(configuration: &Configuration, folder: &Path, config: &str) -> Result<(), ConformError> {
    let (name, targets) = configuration.targets;
    if targets.is_empty() {
        return Ok(());
    }
    let path = folder.join(format!("{MEMBERSHIP_MODULE}.tla"));
    let text = std::fs::read_to_string(&path)
        .map_err(|error| TlcError::Io { doing: format!("reading {}", path.display()), error })?;
    let defined = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix("=="));
    let of = |ids: &[u64]| names(ids.iter().copied());
    let targets: Vec<String> = targets
        .iter()
        .map(|each| format!("Target({}, {}, {})", of(each.voters), of(each.learners), of(each.promoting)))
        .collect();
    let model = format!("{{{}}}", targets.join(", "));
    let spec = defined.unwrap_or("nothing").trim().to_string();
    if spec.replace(' ', "") == model.replace(' ', "") {
        return Ok(());
    }
    Err(ConformError::OtherBounds { config: config.to_string(), constant: "Targets", spec, model })
}

fn check_bounds(configuration: &Configuration, folder: &Path, config: &str) -> Result<(), ConformError> {
    let path = folder.join(format!("{config}.cfg"));
    let text = std::fs::read_to_string(&path)
        .map_err(|error| TlcError::Io { doing: format!("reading {}", path.display()), error })?;
    let given = assignments(&text);
    for (constant, model) in constants(configuration) {
        let spec = given.get(constant).map_or("nothing", String::as_str);
        if spec.replace(' ', "") != model.replace(' ', "") {
            let (config, spec) = (config.to_string(), spec.to_string());
            return Err(ConformError::OtherBounds { config, constant, spec, model });
        }
    }
    check_targets(configuration, folder, config)
}

/// The `NAME = value` and `NAME <- definition` lines of a configuration file.
fn assignments(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().map(|line| line.split("\\*").next().unwrap_or("").trim());
    let pairs = lines.filter_map(|line| line.split_once("<-").or_else(|| line.split_once('=')));
    pairs
        .map(|(name, value)| {
            (
                name.trim().trim_start_matches("CONSTANTS").trim_start_matches("CONSTANT").trim().to_string(),
                value.trim().to_string(),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_read_from_a_configuration_file() {
        let read = assignments(
            "SPECIFICATION Spec\nCONSTANTS\n  s1 = s1\n  MaxTerm = 2 \\* two\nCONSTANT Server = {s1, s2}\n",
        );
        assert_eq!(read["MaxTerm"], "2");
        assert_eq!(read["Server"], "{s1, s2}");
        assert_eq!(spec_name("conform-election"), "ConformElection");
    }
}
