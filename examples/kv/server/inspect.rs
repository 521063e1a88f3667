//! `kv inspect`: what a node's directory holds, and what is damaged where. It writes nothing and locks nothing.

use clap::Args;
use raft_io::EntryId;
use raft_io::log::wal::{self, ShadowDirectory, WalContent, WalError, WalInspection};
use raft_io::snapshot::files::{SnapshotFiles, SnapshotOptions};
use raft_io::snapshot::{SnapshotError, SnapshotInfo, SnapshotStore as _};
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How many lives a person is shown; the newest comes first.
const LIVES_SHOWN: usize = 3;
const CLEAN: u8 = 0;
const DAMAGED: u8 = 1;
const CANNOT_LOOK: u8 = 2;

/// Options of `inspect`.
#[derive(Args, Clone, Debug)]
pub(crate) struct InspectOptions {
    /// The directory of a node's log, as given to serve with --data
    #[arg(value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// The directory of its snapshots; `snapshots` in DIR unless given
    #[arg(long, value_name = "DIR")]
    pub(crate) snapshots: Option<PathBuf>,
    /// Print what was found as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What was found.
struct Findings {
    data: PathBuf,
    log: WalInspection,
    snapshot_dir: PathBuf,
    snapshots: Vec<Result<SnapshotInfo, SnapshotError>>,
    /// The process that has the log open.
    process: Option<u64>,
    /// What is wrong, a sentence each.
    damage: Vec<String>,
}

/// Looks, prints, and gives the exit code.
pub(crate) fn inspect(options: &InspectOptions) -> u8 {
    match look(options) {
        Ok(findings) => {
            let text = if options.json { format!("{:#}\n", findings.json()) } else { findings.text() };
            // Nobody may be listening any more: that is no fault of the directory.
            let _ = io::Write::write_all(&mut io::stdout(), text.as_bytes());
            if findings.damage.is_empty() { CLEAN } else { DAMAGED }
        }
        Err(message) => {
            eprintln!("inspect: {message}");
            CANNOT_LOOK
        }
    }
}

fn look(options: &InspectOptions) -> Result<Findings, String> {
    let data = options.data.clone();
    let log = wal::inspect(&data).map_err(|error| format!("{}: {error}", data.display()))?;
    let snapshot_dir = options.snapshots.clone().unwrap_or_else(|| data.join("snapshots"));
    let snapshots = look_at_snapshots(&snapshot_dir).map_err(|error| format!("{}: {error}", snapshot_dir.display()))?;
    let mut damage: Vec<String> = log.content.as_ref().err().map(ToString::to_string).into_iter().collect();
    damage.extend(snapshots.iter().filter_map(|found| found.as_ref().err()).map(ToString::to_string));
    if let Ok(content) = &log.content {
        let is_there = snapshots.iter().flatten().any(|info| info.last >= content.snapshot);
        if content.snapshot != EntryId::ZERO && !is_there {
            let dir = snapshot_dir.display();
            damage.push(format!("the log begins with the snapshot {}, and {dir} has none so new", content.snapshot));
        }
    }
    let process = process_at_work(&data.join("LOCK"));
    Ok(Findings { data, log, snapshot_dir, snapshots, process, damage })
}

/// Every snapshot, read to its end.
fn look_at_snapshots(dir: &Path) -> Result<Vec<Result<SnapshotInfo, SnapshotError>>, String> {
    let shadow = match ShadowDirectory::new(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        shadow => shadow.map_err(|error| error.to_string())?,
    };
    let store = SnapshotFiles::open_in(Arc::new(shadow), SnapshotOptions::new()).map_err(|error| error.to_string())?;
    let whole = |info: SnapshotInfo| {
        let mut reader = store.open(info.last)?;
        match io::copy(&mut reader, &mut io::sink()) {
            Ok(_) => Ok(info),
            Err(error) => Err(SnapshotError::Io { operation: "reading", file: dir.to_path_buf(), source: error }),
        }
    };
    let listed: Vec<_> = store.list().into_iter().map(whole).collect();
    let mut found: Vec<_> = store.damaged().into_iter().map(Err).collect();
    // What is damaged in the middle is found by reading, and noted by the store as well.
    found.extend(listed.into_iter().filter(|outcome| outcome.is_ok() || store.damaged().is_empty()));
    Ok(found)
}

/// The process that holds the lock of the log, if the system tells without its being taken.
#[cfg(target_os = "linux")]
fn process_at_work(lock: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let inode = std::fs::metadata(lock).ok()?.ino();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    // 1: FLOCK  ADVISORY  WRITE 4711 08:01:1234 0 EOF
    let holder = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|word| word.matches(':').count() == 2)?;
        let same = words[at].rsplit(':').next()?.parse::<u64>().ok()? == inode;
        words.get(at.checked_sub(1)?).filter(|_| same)?.parse::<u64>().ok()
    };
    let process = locks.lines().find_map(holder)?;
    // Inodes of several volumes may be equal: the process has this file open.
    let files = std::fs::read_dir(format!("/proc/{process}/fd")).ok()?;
    let lock = lock.canonicalize().ok()?;
    files.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|target| target == lock)).then_some(process)
}

#[cfg(not(target_os = "linux"))]
fn process_at_work(_lock: &Path) -> Option<u64> {
    None
}

fn size(bytes: u64) -> String {
    match bytes {
        0..=9999 => format!("{bytes} bytes"),
        10_000..=9_999_999 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

impl Findings {
    /// For a person who wants to know first whether it is well, then what it is, then the rest.
    fn text(&self) -> String {
        let mut lines = Vec::new();
        let data = self.data.display();
        let whose = match &self.log.identity {
            Some(identity) => format!("node {} of cluster {}", identity.node, identity.cluster),
            None => "nobody knows whose".into(),
        };
        let verdict = if self.damage.is_empty() { "clean" } else { "DAMAGED" };
        lines.push(format!("{verdict}: {data}, {whose}"));
        lines.extend(self.damage.iter().map(|damage| format!("  ! {damage}")));
        if let Err(WalError::Corrupt { first, last, .. }) = &self.log.content {
            let before = first.0.saturating_sub(1);
            lines.push(match last {
                Some(last) => format!(
                    "  entries {first} to {last} were acknowledged and may be lost; those up to {before} are intact"
                ),
                None => format!("  entries up to {before} are intact; nobody knows how many there were behind"),
            });
        }
        match (self.process, self.log.in_motion) {
            (Some(process), _) => lines.push(format!("  process {process} is at work on it: this was one moment")),
            (None, true) => lines.push("  a node is at work on it: this was one moment".into()),
            (None, false) => {}
        }
        if !self.damage.is_empty() {
            lines.push("  nothing was changed. The others have what this node acknowledged: docs/RECOVERY.md, \"A server lost its data\"".into());
        }
        lines.push(String::new());
        self.log_text(&mut lines);
        lines.push(String::new());
        self.snapshots_text(&mut lines);
        lines.push(String::new());
        lines.join("\n")
    }

    fn log_text(&self, lines: &mut Vec<String>) {
        lines.push("log".into());
        if let Some(identity) = &self.log.identity {
            let (openings, incarnation) = (identity.openings, identity.incarnation);
            lines.push(format!("  opened {openings} times, incarnation {incarnation:016x}"));
        }
        for life in self.log.lives.iter().rev().take(LIVES_SHOWN) {
            let (count, term, last) = (life.count, life.hard_state.term, life.last);
            lines.push(format!("  life {count} began in term {term} with entries up to {last}"));
        }
        if let Ok(content) = &self.log.content {
            let WalContent { hard_state, snapshot, base, last, membership, .. } = content;
            let vote = hard_state.vote.map_or("no vote in it".into(), |vote| format!("its vote in it for node {vote}"));
            lines.push(format!("  term {}, {vote}", hard_state.term));
            lines.push(match content.entries() {
                0 => format!("  no entries behind {base}"),
                count => format!("  entries {} to {}, {count} of them, the last {last}", base.index.next(), last.index),
            });
            if *snapshot != EntryId::ZERO {
                lines.push(format!("  begins with the snapshot {snapshot}"));
            }
            if let Some((index, membership)) = membership {
                lines.push(format!("  members since entry {index}: {membership}"));
                let addresses: Vec<_> =
                    membership.addresses().map(|(id, address)| format!("{id} at {address}")).collect();
                lines.extend((!addresses.is_empty()).then(|| format!("    {}", addresses.join(", "))));
                if let Some(history) = membership.history() {
                    let (id, since) = (history.id(), history.since());
                    let parent = history.parent().map_or(String::new(), |parent| format!(", a child of {parent}"));
                    lines.push(format!("  history {id} since entry {since}{parent}"));
                }
            }
        }
        for segment in &self.log.segments {
            let name = segment.file.file_name().unwrap_or_default().to_string_lossy();
            let found = match segment.bytes_found {
                None => "MISSING".into(),
                Some(found) if found < segment.bytes => format!("SHORT: {found} of {} bytes", segment.bytes),
                Some(found) => size(found),
            };
            let first = segment.first.map_or(String::new(), |first| format!(", entries from {first} on"));
            lines.push(format!("  {name}  {found}{first}"));
        }
        lines.extend(self.log.foreign.iter().map(|file| format!("  not of this log, left alone: {}", file.display())));
    }

    fn snapshots_text(&self, lines: &mut Vec<String>) {
        lines.push(format!("snapshots in {}", self.snapshot_dir.display()));
        if self.snapshots.is_empty() {
            lines.push("  none".into());
        }
        for found in &self.snapshots {
            lines.push(match found {
                Ok(info) => format!("  {}  {}, intact to its end", info.last, size(info.bytes)),
                Err(error) => format!("  DAMAGED: {error}"),
            });
        }
    }

    fn json(&self) -> Value {
        let id = |id: &EntryId| json!({ "index": id.index.0, "term": id.term.0 });
        let identity = self.log.identity.as_ref().map(|identity| {
            json!({
                "cluster": identity.cluster.0, "node": identity.node.0, "group": identity.group.0,
                "openings": identity.openings, "incarnation": format!("{:016x}", identity.incarnation),
            })
        });
        let content = self.log.content.as_ref().ok().map(|content| {
            let membership = content.membership.as_ref().map(|(index, membership)| {
                let ids = |ids: &[raft_io::NodeId]| ids.iter().map(|id| id.0).collect::<Vec<_>>();
                let (voters, learners) = (ids(membership.voters()), ids(membership.learners()));
                let history = membership.history().map(|history| {
                    let ancestors: Vec<_> = history.ancestors().iter().map(|known| known.id.to_string()).collect();
                    json!({ "id": history.id().to_string(), "since": id(&history.since()), "ancestors": ancestors })
                });
                json!({
                    "index": index.0, "voters": voters, "learners": learners, "text": membership.to_string(),
                    "history": history,
                })
            });
            json!({
                "term": content.hard_state.term.0, "vote": content.hard_state.vote.map(|vote| vote.0),
                "snapshot": id(&content.snapshot), "base": id(&content.base), "last": id(&content.last),
                "entries": content.entries(), "membership": membership,
            })
        });
        let lives = self.log.lives.iter().map(|life| {
            json!({
                "count": life.count, "id": format!("{:016x}", life.id), "term": life.hard_state.term.0,
                "vote": life.hard_state.vote.map(|vote| vote.0), "last": id(&life.last),
            })
        });
        let segments = self.log.segments.iter().map(|segment| {
            json!({
                "file": segment.file, "position": segment.position, "bytes": segment.bytes,
                "bytes_found": segment.bytes_found, "first_index": segment.first.map(|first| first.0),
            })
        });
        let snapshots = self.snapshots.iter().map(|found| match found {
            Ok(info) => json!({ "last": id(&info.last), "bytes": info.bytes, "damage": null }),
            Err(error) => json!({ "damage": error.to_string() }),
        });
        let place = match &self.log.content {
            Err(WalError::Corrupt { file, offset, first, last, reason }) => json!({
                "file": file, "offset": offset, "first_index": first.0, "last_acknowledged": last.map(|last| last.0),
                "reason": reason,
            }),
            _ => Value::Null,
        };
        json!({
            "directory": self.data, "clean": self.damage.is_empty(), "damage": self.damage, "damaged_at": place,
            "process": self.process, "in_motion": self.log.in_motion, "identity": identity, "log": content,
            "lives": lives.collect::<Vec<_>>(), "segments": segments.collect::<Vec<_>>(), "foreign": self.log.foreign,
            "snapshots": snapshots.collect::<Vec<_>>(),
        })
    }
}
