//! One node, a process of its own: a durable log, snapshots in files, TCP; and a socket on which it is told what to do.

use crate::blocks::{self, Blocks};
use raft_io::driver::{DriverOptions, MemberPart, Raft, Snapshots};
use raft_io::log::{WalLog, WalOptions};
use raft_io::snapshot::SnapshotFiles;
use raft_io::snapshot::files::SnapshotOptions;
use raft_io::transport::{TcpConfig, TcpTransport};
use raft_io::{ClusterId, Membership, NodeId, RaftConfig, RoleKind};
use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

const CLUSTER: ClusterId = ClusterId(42);
const PATIENCE: Duration = Duration::from_secs(600);
const WRITE_PATIENCE: Duration = Duration::from_secs(10);
/// What a node says once it can be told who the members are: two ports follow, for clients and for servers.
pub(crate) const READY: &str = "node is ready: ";

#[derive(Clone, Debug)]
pub(crate) struct NodeOptions {
    pub(crate) id: u64,
    pub(crate) directory: PathBuf,
    /// The most that is moved of a snapshot, in bytes per second: written, fetched, restored.
    pub(crate) bytes_per_second: Option<u64>,
    pub(crate) value_bytes: usize,
}

/// Runs until standard input ends, which is when the parent does.
pub(crate) fn serve(options: &NodeOptions) -> Result<(), Box<dyn Error>> {
    let (id, directory) = (NodeId(options.id), &options.directory);
    let log = WalLog::open(directory.join("log"), WalOptions::new(CLUSTER, id))?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let tcp = TcpConfig::new(CLUSTER, id, "127.0.0.1:0").incarnation(log.incarnation());
    let transport = TcpTransport::bind(tcp)?;
    println!("{READY}{} {}", listener.local_addr()?.port(), transport.local_addr().port());
    let mut input = BufReader::new(io::stdin());
    let mut members = String::new();
    input.read_line(&mut members)?;
    let mut config = RaftConfig::joining(id);
    config.membership = parse_members(&members)?;
    (config.tick, config.election_ticks) = (Duration::from_millis(50), 20);
    config.seed = options.id;
    let mut driver = DriverOptions::default();
    driver.snapshots = Some(Snapshots::new(SnapshotFiles::open(directory.join("snapshots"), SnapshotOptions::new())?));
    // The one snapshot that is measured is asked for.
    (driver.snapshot_entries, driver.snapshot_bytes) = (usize::MAX, u64::MAX);
    driver.snapshot_trail_entries = 100;
    driver.snapshot_fetch_bytes_per_second = options.bytes_per_second;
    let machine = Blocks::create(&directory.join("state"), options.bytes_per_second)?;
    let raft = Raft::start_with(config, driver, log, transport, machine)?;
    let (accepting, value_bytes) = (raft.clone(), options.value_bytes);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let raft = accepting.clone();
            thread::spawn(move || drop(converse(&raft, value_bytes, stream)));
        }
    });
    input.read_to_end(&mut Vec::new())?;
    std::process::exit(0);
}

/// `1=address 2=address`, or nothing for one that joins.
fn parse_members(line: &str) -> Result<Membership, Box<dyn Error>> {
    let mut members = Vec::new();
    for part in line.split_whitespace() {
        let (id, address) = part.split_once('=').ok_or("a member is id=address")?;
        members.push((id.parse::<u64>()?, address));
    }
    let voters = Membership::new(members.iter().map(|(id, _)| *id));
    Ok(members.into_iter().fold(voters, |membership, (id, address)| membership.with_address(id, address)))
}

/// One request a line, one answer a line.
fn converse(raft: &Raft<Blocks>, value_bytes: usize, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    for line in BufReader::new(stream.try_clone()?).lines() {
        let answer = match answer(raft, value_bytes, &line?) {
            Ok(answer) => format!("ok {answer}\n"),
            Err(error) => format!("error {error}\n"),
        };
        stream.write_all(answer.as_bytes())?;
    }
    Ok(())
}

fn answer(raft: &Raft<Blocks>, value_bytes: usize, line: &str) -> Result<String, Box<dyn Error>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |at: usize| words.get(at).ok_or("a number is missing")?.parse::<u64>().map_err(|_| "no number");
    match words.first().copied() {
        Some("write") => {
            let command = blocks::write(number(1)?, number(2)?, value_bytes);
            Ok(raft.propose(command).wait(WRITE_PATIENCE)?.id.index.to_string())
        }
        Some("fill") => Ok(raft.propose(blocks::fill(number(1)?, number(2)?)).wait(PATIENCE)?.id.index.to_string()),
        Some("settle") => Ok(raft.stale_read(Blocks::settle)?.map(|()| String::new())?),
        Some("snapshot") => Ok(raft.snapshot().wait(PATIENCE)?.bytes.to_string()),
        Some("add") => {
            let address = words.get(2).ok_or("an address is missing")?;
            raft.add_voter(number(1)?, *address, PATIENCE).wait()?;
            Ok(String::new())
        }
        Some("checksum") => {
            let applied = raft.status().applied_index;
            let (sum, writes) = raft.stale_read(|blocks| (blocks.checksum(), blocks.writes()))?;
            Ok(format!("{applied} {:016x} {writes}", sum?))
        }
        Some("status") => Ok(status(raft)),
        _ => Err("there is no such request".into()),
    }
}

/// The fields of `nodes::Status`, in their order.
fn status(raft: &Raft<Blocks>) -> String {
    let status = raft.status();
    let (fetched, total) =
        status.snapshot.fetching.map_or((0, 0), |fetch| (fetch.bytes, fetch.total_bytes.unwrap_or(0)));
    let numbers = [
        status.term.0,
        u64::from(status.role == RoleKind::Leader),
        status.counters.role_changes,
        status.applied_index.0,
        status.commit_index.0,
        status.first_index.0,
        u64::from(status.membership.part == MemberPart::Voter),
        u64::from(status.snapshot.last.is_some()),
        status.counters.snapshots_fetched,
        status.counters.disk_stalls,
        fetched,
        total,
        u64::from(status.fatal.is_some()),
    ];
    numbers.map(|number| number.to_string()).join(" ")
}
