//! `kv restore`: a backup becomes a cluster of one node, which others join. See docs/RECOVERY.md.

use super::backup;
use super::options::check_address;
use super::progress::Progress;
use clap::Args;
use raft_io::ClusterId;
use raft_io::backup::{BackupError, BackupInfo, BackupReader, Restore, RestoreBackupError};
use serde_json::json;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

const DONE: u8 = 0;
const DAMAGED: u8 = 1;
const NOT_DONE: u8 = 2;

/// Options of `restore`.
#[derive(Args, Clone, Debug)]
pub(crate) struct RestoreOptions {
    /// The backup; `-` for standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Only read the backup to its end and say what it holds. Writes nothing
    #[arg(long, conflicts_with_all = ["id", "data", "address", "snapshots", "cluster_id"])]
    pub(crate) check: bool,
    /// The node that it becomes: an id that no node of the old cluster ever had
    #[arg(long, value_name = "N", required_unless_present = "check")]
    pub(crate) id: Option<u64>,
    /// The directory for its log: empty or missing
    #[arg(long, value_name = "DIR", required_unless_present = "check")]
    pub(crate) data: Option<PathBuf>,
    /// The directory for its snapshots: empty or missing; `snapshots` in --data unless given
    #[arg(long, value_name = "DIR")]
    pub(crate) snapshots: Option<PathBuf>,
    /// Where the nodes that are added later reach it, as its --peer-listen
    #[arg(long, value_name = "HOST:PORT", required_unless_present = "check")]
    pub(crate) address: Option<String>,
    /// The identity of the cluster from now on; that of the backup unless given
    #[arg(long, value_name = "N")]
    pub(crate) cluster_id: Option<u64>,
    /// Print what was restored, or found, as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Why nothing was restored.
enum Failure {
    /// The backup is damaged, was cut, or is none.
    Damaged(String),
    Other(String),
}

/// Restores, or only looks. The exit code.
pub(crate) fn restore(options: &RestoreOptions) -> u8 {
    match run(options) {
        Ok(text) => {
            // Nobody may be listening any more: it is done all the same.
            let _ = io::stdout().write_all(text.as_bytes());
            DONE
        }
        Err(Failure::Damaged(message)) => {
            eprintln!("restore: {message}");
            DAMAGED
        }
        Err(Failure::Other(message)) => {
            eprintln!("restore: {message}");
            NOT_DONE
        }
    }
}

/// Counts what is read of a backup.
struct Counted<R> {
    from: R,
    progress: Progress,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.progress.advance(count as u64);
        Ok(count)
    }
}

fn run(options: &RestoreOptions) -> Result<String, Failure> {
    let shown = options.file.display();
    let of_backup = |error: BackupError| match error {
        BackupError::Io { source } => Failure::Other(format!("{shown}: {source}")),
        BackupError::OtherFormat { .. } => Failure::Other(format!("{shown}: {error}")),
        error => Failure::Damaged(format!("{shown}: {error}")),
    };
    let (from, bytes) = source(&options.file).map_err(|error| Failure::Other(format!("{shown}: {error}")))?;
    let mut counted = Counted { from, progress: Progress::new("restore", bytes) };
    let backup = BackupReader::open(&mut counted).map_err(of_backup)?;
    if options.check {
        let checked = backup.verify();
        counted.progress.end();
        let info = checked.map_err(of_backup)?;
        return Ok(if options.json { format!("{:#}\n", backup::json(&info)) } else { whole(&options.file, &info) });
    }
    let plan = plan(options, backup.info()).map_err(Failure::Other)?;
    let data = options.data.clone().unwrap_or_default();
    let snapshots = options.snapshots.clone().unwrap_or_else(|| data.join("snapshots"));
    let restored = plan.carry_out(backup, &data, &snapshots);
    counted.progress.end();
    restored.map_err(|error| match error {
        RestoreBackupError::Backup(error) => of_backup(error),
        error => Failure::Other(format!("{error}; nothing was restored")),
    })?;
    Ok(if options.json { format!("{:#}\n", restored_json(&plan)) } else { done(options, &plan, &data) })
}

/// The backup, and how large it is, if that is known.
fn source(file: &Path) -> io::Result<(Box<dyn Read>, Option<u64>)> {
    if file == Path::new("-") {
        return Ok((Box::new(io::stdin().lock()), None));
    }
    let file = File::open(file)?;
    let bytes = file.metadata()?.len();
    Ok((Box::new(io::BufReader::with_capacity(1 << 20, file)), Some(bytes)))
}

fn plan(options: &RestoreOptions, info: &BackupInfo) -> Result<Restore, String> {
    let (id, address) = (options.id.unwrap_or_default(), options.address.clone().unwrap_or_default());
    check_address(&address, false).map_err(|reason| format!("--address {address}: {reason}"))?;
    let plan = Restore::plan(info, id).and_then(|plan| plan.with_address(address));
    let plan = plan.map_err(|error| format!("{error}; nothing was restored"))?;
    Ok(match options.cluster_id {
        Some(cluster) => plan.with_cluster(ClusterId(cluster)),
        None => plan,
    })
}

fn whole(file: &Path, info: &BackupInfo) -> String {
    let mut lines = vec![format!("whole: {}", file.display())];
    lines.extend(backup::text(info).into_iter().map(|line| format!("  {line}")));
    lines.join("\n") + "\n"
}

fn restored_json(plan: &Restore) -> serde_json::Value {
    json!({
        "backup": backup::json(&plan.backup), "id": plan.id.0, "cluster": plan.cluster.map(|cluster| cluster.0),
        "entry": { "index": plan.entry.index.0, "term": plan.entry.term.0 },
        "history": plan.history.id().to_string(), "parent": plan.history.parent().map(|parent| parent.to_string()),
    })
}

fn done(options: &RestoreOptions, plan: &Restore, data: &Path) -> String {
    let (id, data) = (plan.id, data.display());
    let address = plan.membership.address(plan.id).unwrap_or_default();
    let mut lines = vec![format!("restored: node {id} in {data}")];
    lines.extend(backup::text(&plan.backup).into_iter().map(|line| format!("  {line}")));
    let parent = plan.history.parent().map_or(String::new(), |parent| format!(", a child of {parent}"));
    lines.push(format!("  from entry {} on in history {}{parent}", plan.entry, plan.history.id()));
    let cluster =
        plan.cluster.filter(|cluster| cluster.0 != 1).map_or(String::new(), |id| format!(" --cluster-id {id}"));
    let snapshots = options.snapshots.as_ref().map_or(String::new(), |path| format!(" --snapshots {}", path.display()));
    lines.push("It is a cluster of one node. Start it:".into());
    lines.push(format!(
        "  kv serve --id {id} --listen HOST:PORT --peer-listen {address} --peers {id}={address} --data {data}{snapshots}{cluster}"
    ));
    lines.push(format!(
        "Then add others: start each with an empty directory, --join and an id that was never used, and send RAFT.ADD to node {id}."
    ));
    lines.push("No server of the old cluster ever joins this one with what it holds.".into());
    lines.join("\n") + "\n"
}
