//! Bring your own log and your own transport: a log that is a text file, and a transport of
//! channels. Three nodes agree, stop, start again from their files, and still know everything.
//!
//! `cargo run --example custom_log_and_transport`
//!
//! The text log shows the contract, not how to do it well: it keeps everything in memory, trusts
//! its file, and has no checksums. `WalLog` is the one for production.

use bytes::Bytes;
use raft_io::driver::{Raft, StateMachine};
use raft_io::log::{Locked, LogView, Memberships, Read};
use raft_io::transport::{RaftTransport, Receiver};
use raft_io::{
    Compaction, Entry, EntryId, Envelope, GroupId, HardState, Index, Membership, MemoryLog, NodeId, Payload,
    RaftConfig, RaftLog, Term, Write,
};
use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

/// A log as a text file, one line per write: `term/vote snapshot>base>configuration truncate_from entry entry …`, where
/// an entry is `index@term=command in hex` (`-` for a no-op, `+configuration` for one). A configuration is its bytes in
/// hex, none for the empty one. A line without its end was torn by a
/// crash before it was durable, and is cut. What is forgotten leaves the file with the next sync,
/// which replaces it by one that holds the rest as a single write.
struct TextLog {
    /// What the file says; all reads come from here.
    memory: MemoryLog,
    file: File,
    path: PathBuf,
    /// Whether the file holds more than the memory.
    compacted: bool,
    failed: bool,
}

impl TextLog {
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        file.set_len(whole as u64)?;
        // What was read may not be durable yet; nobody may rely on it before it is.
        file.sync_all()?;
        let mut writes = text[..whole].lines().map(parse_write).collect::<Option<Vec<_>>>().ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{} holds a line that is no write", path.display()))
        })?;
        let compacted = writes.iter().skip(1).any(|write| write.compaction.is_some());
        let mut memory = MemoryLog::new();
        let Ok(()) = memory.append(&mut writes);
        Ok(Self { memory, file, path: path.to_path_buf(), compacted, failed: false })
    }

    /// Replaces the file by one that holds what the memory holds. To an empty log the base is an entry
    /// that it does not hold: it begins anew there, and the entries follow.
    fn rewrite(&mut self) -> io::Result<()> {
        let state = Write {
            hard_state: Some(self.memory.hard_state()),
            compaction: Some(Compaction {
                snapshot: self.memory.snapshot(),
                base: self.memory.base(),
                membership: self.memory.memberships().at_snapshot.unwrap_or_default(),
            }),
            truncate_from: None,
            entries: self.memory.iter().cloned().collect(),
        };
        let new = self.path.with_extension("new");
        std::fs::write(&new, format_write(&state))?;
        let file = OpenOptions::new().append(true).open(&new)?;
        file.sync_all()?;
        // The file before is closed by that: not every system replaces one that is open.
        self.file = file;
        std::fs::rename(&new, &self.path)?;
        // A name is durable only when its directory is.
        #[cfg(unix)]
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        self.compacted = false;
        Ok(())
    }

    /// After one failure nothing is accepted any more: the kernel may have dropped what it could
    /// not write.
    fn guard<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        self.failed |= result.is_err();
        result
    }
}

impl LogView for TextLog {
    fn hard_state(&self) -> HardState {
        self.memory.hard_state()
    }

    fn base(&self) -> EntryId {
        self.memory.base()
    }

    fn snapshot(&self) -> EntryId {
        self.memory.snapshot()
    }

    fn memberships(&self) -> Memberships {
        self.memory.memberships()
    }

    fn last(&self) -> EntryId {
        self.memory.last()
    }

    fn term(&self, index: Index) -> Option<Term> {
        self.memory.term(index)
    }

    fn read(&self, first: Index, end: Index, bytes_max: usize) -> Read {
        self.memory.read(first, end, bytes_max)
    }
}

impl RaftLog for TextLog {
    type Error = io::Error;

    fn append(&mut self, writes: &mut Vec<Write>) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("this log failed earlier"));
        }
        let text: String = writes.iter().map(format_write).collect();
        let written = self.file.write_all(text.as_bytes());
        self.guard(written)?;
        self.compacted |= writes.iter().any(|write| write.compaction.is_some());
        let Ok(()) = self.memory.append(writes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("this log failed earlier"));
        }
        let synced = if self.compacted { self.rewrite() } else { self.file.sync_data() };
        self.guard(synced)
    }

    fn read_blocking(&self, first: Index, end: Index, bytes_max: usize) -> io::Result<Read> {
        Ok(self.memory.read(first, end, bytes_max))
    }
}

fn format_write(write: &Write) -> String {
    let state = write.hard_state.map_or("-".into(), |state| {
        let vote = state.vote.map_or(String::new(), |vote| vote.to_string());
        format!("{}/{vote}", state.term)
    });
    let compaction = write.compaction.as_ref().map_or("-".into(), |Compaction { snapshot, base, membership }| {
        format!("{snapshot}>{base}>{}", format_membership(membership))
    });
    let truncate = write.truncate_from.map_or("-".into(), |index| index.to_string());
    let entries: String = write.entries.iter().map(format_entry).collect();
    format!("{state} {compaction} {truncate}{entries}\n")
}

fn format_entry(entry: &Entry) -> String {
    let payload = match &entry.payload {
        Payload::Command(command) => format_hex(command),
        Payload::Membership(membership) => format!("+{}", format_membership(membership)),
        _ => String::from("-"),
    };
    format!(" {}={payload}", entry.id)
}

fn format_membership(membership: &Membership) -> String {
    if *membership == Membership::default() { String::new() } else { format_hex(&membership.encode()) }
}

fn format_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_write(line: &str) -> Option<Write> {
    let mut words = line.split(' ');
    let hard_state = match words.next()? {
        "-" => None,
        state => {
            let (term, vote) = state.split_once('/')?;
            let vote = if vote.is_empty() { None } else { Some(NodeId(vote.parse().ok()?)) };
            Some(HardState { term: Term(term.parse().ok()?), vote })
        }
    };
    let compaction = match words.next()? {
        "-" => None,
        compaction => {
            let (snapshot, rest) = compaction.split_once('>')?;
            let (base, membership) = rest.split_once('>')?;
            let membership = parse_membership(membership)?;
            Some(Compaction { snapshot: parse_id(snapshot)?, base: parse_id(base)?, membership })
        }
    };
    let truncate_from = match words.next()? {
        "-" => None,
        index => Some(Index(index.parse().ok()?)),
    };
    let entries = words.map(parse_entry).collect::<Option<Vec<_>>>()?.into();
    Some(Write { hard_state, compaction, truncate_from, entries })
}

fn parse_id(word: &str) -> Option<EntryId> {
    let (index, term) = word.split_once('@')?;
    Some(EntryId::new(index.parse::<u64>().ok()?, term.parse::<u64>().ok()?))
}

fn parse_entry(word: &str) -> Option<Entry> {
    let (id, payload) = word.split_once('=')?;
    let id = parse_id(id)?;
    let payload = match payload.strip_prefix('+') {
        Some(membership) => Payload::Membership(parse_membership(membership)?),
        None if payload == "-" => Payload::Noop,
        None => Payload::Command(parse_hex(payload)?.into()),
    };
    Some(Entry { id, payload })
}

fn parse_membership(hex: &str) -> Option<Arc<Membership>> {
    if hex.is_empty() { Some(Arc::default()) } else { Membership::decode(&parse_hex(hex)?).ok().map(Arc::new) }
}

fn parse_hex(hex: &str) -> Option<Vec<u8>> {
    let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    (0..hex.len()).step_by(2).map(byte).collect()
}

/// That it keeps the contract is not left to a look at it: `cargo test --features testkit --example
/// custom_log_and_transport`.
#[cfg(all(test, feature = "testkit"))]
mod tests {
    use super::{Path, TextLog};
    use raft_io::testkit::log_suite::{self, Fixture};

    struct Folder {
        place: tempfile::TempDir,
        created: u32,
    }

    impl Folder {
        fn open(&self) -> TextLog {
            let path: &Path = self.place.path();
            TextLog::open(&path.join(format!("{}.log", self.created))).expect("a log opens")
        }
    }

    impl Fixture for Folder {
        type Log = TextLog;

        fn create(&mut self) -> TextLog {
            self.created += 1;
            self.open()
        }

        fn reopen(&mut self, log: TextLog) -> TextLog {
            drop(log);
            self.open()
        }
    }

    #[test]
    fn the_text_log_keeps_the_contract() {
        log_suite::run(&mut Folder { place: tempfile::tempdir().expect("a place for the logs"), created: 0 });
    }
}

/// The mailboxes of all nodes.
type Mailboxes = Arc<Mutex<BTreeMap<NodeId, Sender<(GroupId, Envelope)>>>>;

/// A transport of channels: a mailbox per node, and a thread that empties it.
struct Channels {
    id: NodeId,
    mailboxes: Mailboxes,
    delivery: Mutex<Option<JoinHandle<()>>>,
}

impl Channels {
    fn new(id: NodeId, mailboxes: &Mailboxes) -> Self {
        Self { id, mailboxes: Arc::clone(mailboxes), delivery: Mutex::new(None) }
    }
}

impl RaftTransport for Channels {
    fn start(&self, receiver: Arc<dyn Receiver>) {
        let (sender, mailbox) = channel();
        self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner).insert(self.id, sender);
        let delivery = std::thread::spawn(move || {
            for (group, envelope) in mailbox {
                receiver.receive(group, envelope);
            }
        });
        *self.delivery.lock().unwrap_or_else(PoisonError::into_inner) = Some(delivery);
    }

    fn send(&self, group: GroupId, envelope: Envelope) {
        let mailboxes = self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mailbox) = mailboxes.get(&envelope.to) {
            // A closed mailbox is a node that is down: the message is lost, as it may be.
            let _ = mailbox.send((group, envelope));
        }
    }

    fn shutdown(&self) {
        // Without its sender the mailbox ends, and with it the thread.
        self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        if let Some(delivery) = self.delivery.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = delivery.join();
        }
    }
}

/// Remembers every word.
#[derive(Default)]
struct Words(Vec<String>);

impl StateMachine for Words {
    type Response = usize;

    fn apply(&mut self, _id: EntryId, command: &Bytes) -> usize {
        self.0.push(String::from_utf8_lossy(command).into_owned());
        self.0.len()
    }
}

fn start(folder: &Path, mailboxes: &Mailboxes, id: u64) -> Result<Raft<Words>, Box<dyn Error>> {
    let mut config = RaftConfig::new(id, [1, 2, 3]);
    config.tick = Duration::from_millis(10);
    let log = TextLog::open(&folder.join(format!("node-{id}.log")))?;
    Ok(Raft::start(config, Locked::new(log), Channels::new(NodeId(id), mailboxes), Words::default())?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    for life in 1..=2 {
        let mailboxes = Mailboxes::default();
        let nodes = (1..=3).map(|id| start(folder.path(), &mailboxes, id)).collect::<Result<Vec<Raft<Words>>, _>>()?;
        let led = nodes[0].wait_for(PATIENCE, |status| status.leader.is_some())?;
        let leader = led.leader.ok_or("a leader was waited for")?.id;
        let leader = nodes.iter().find(|node| node.id() == leader).ok_or("the leader is one of the nodes")?;
        let applied = leader.propose(format!("life {life}")).wait(PATIENCE)?;
        println!("node {} leads; word {} is entry {}", leader.id(), applied.response, applied.id);
        for node in &nodes {
            node.wait_for(PATIENCE, |status| status.applied_index >= applied.id.index)?;
            println!("  node {} knows {:?}", node.id(), node.stale_read(|words| words.0.clone())?);
        }
        nodes.iter().for_each(Raft::shutdown);
    }
    Ok(())
}
