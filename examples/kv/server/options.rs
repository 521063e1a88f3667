//! The command line of a server, checked as a whole: every problem is reported at once.

use super::places::lanes_max;
use super::replies;
use super::resp;
use clap::{Args, ValueEnum};
use raft_io::RaftConfig;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Options of `serve`. The first start on an empty directory creates the node, and writes down who belongs to the cluster; at a
/// restart what is written down counts, and what has changed since.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServeOptions {
    /// This node's id; one of --peers. Never give a new node the id of one that was removed or lost
    #[arg(long, value_name = "N")]
    pub(crate) id: u64,
    /// Where clients connect
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: String,
    /// Where the other nodes connect
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) peer_listen: String,
    /// Every node that the cluster begins with, this one among them: 1=HOST:PORT,2=HOST:PORT,...
    #[arg(long, value_name = "LIST", required_unless_present = "join", conflicts_with = "join")]
    pub(crate) peers: Option<String>,
    /// Join a cluster that runs: send RAFT.ADD with this node's id and --peer-listen to its leader
    #[arg(long)]
    pub(crate) join: bool,
    /// The directory of the log; created if missing
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// The directory of the snapshots, which belong to the log; `snapshots` in --data unless given
    #[arg(long, value_name = "DIR")]
    pub(crate) snapshots: Option<PathBuf>,
    /// Take a snapshot, and shorten the log, after so many commands
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub(crate) snapshot_commands: usize,
    /// Take a snapshot once so much was added to the log, in MiB, if that comes first
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    pub(crate) snapshot_mib: u64,
    /// How many commands the log keeps behind a snapshot, for nodes that are a little behind
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub(crate) snapshot_trail: usize,
    /// The most that is fetched of another node's snapshot, in MiB per second; no limit unless given
    #[arg(long, value_name = "MIB")]
    pub(crate) snapshot_fetch_mib: Option<u64>,
    /// What a node that does not lead does with commands for the leader
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = OnFollower::Forward)]
    pub(crate) on_follower: OnFollower,
    /// Answer reads on this node even while another leads, linearizably: they ask the leader how much they have to see, and
    /// wait until that is here. Such reads are neither forwarded nor -MOVED; a leader of version 0.4 does not answer them
    #[arg(long)]
    pub(crate) follower_reads: bool,
    /// What the other nodes tell clients of this one; --listen unless given
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Option<String>,
    /// The identity of the cluster, the same on every node and for ever
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) cluster_id: u64,
    /// The heartbeat interval; elections begin after 10 to 20 of them without a leader
    #[arg(long, value_name = "MS", default_value_t = 50)]
    pub(crate) tick_ms: u64,
    /// Answer reads without asking the other nodes for so many ticks after they confirmed the leader, less than 10 and the same on
    /// all nodes: linearizable while no clock is 9/N times as fast as another. Every read asks unless given
    #[arg(long, value_name = "N")]
    pub(crate) lease_ticks: Option<u32>,
    /// How readily this node campaigns, 0 to 3; 0: it leads only when leadership is handed to it
    #[arg(long, value_name = "N", default_value_t = RaftConfig::PRIORITY_MAX)]
    pub(crate) priority: u8,
    /// The seed of the election timeouts, mixed with the id
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// How long a command waits for a leader before -CLUSTERDOWN; a node that is told to stop waits as long for its clients' commands
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    pub(crate) leader_wait_ms: u64,
    /// How long a proposed command waits for its result before -UNKNOWN, and a read before -CLUSTERDOWN
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    pub(crate) result_wait_ms: u64,
    /// How many clients may be connected at a time; fewer if the limit of open files is lower
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub(crate) connections_max: usize,
    /// How much unfinished requests of all clients may hold together, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    pub(crate) request_memory_mib: usize,
    /// How much the replies to all clients may hold together, in MiB, until the clients have read them: 64 KiB for each
    /// connection, and the rest shared
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    pub(crate) reply_memory_mib: usize,
    /// When the node stops for good, because its disk failed for example, keep the process up for somebody to look. Without
    /// this it ends with exit code 3
    #[arg(long)]
    pub(crate) stay: bool,
    /// Record every step in this directory, one file per life of the node; needs a build with the feature `trace`
    #[arg(long, value_name = "DIR")]
    pub(crate) trace: Option<PathBuf>,
    /// Stop when standard input ends: a supervisor's death then takes its nodes along
    #[arg(long, hide = true)]
    pub(crate) until_stdin_ends: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnFollower {
    /// Pass them on and answer for the leader
    Forward,
    /// Answer -MOVED with the leader's address
    Moved,
}

/// Options that make sense together.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) options: ServeOptions,
    pub(crate) config: RaftConfig,
    pub(crate) peers: BTreeMap<u64, String>,
    /// What clients are told.
    pub(crate) advertised: String,
    pub(crate) leader_wait: Duration,
    pub(crate) result_wait: Duration,
    /// What replies may hold beyond what each connection may.
    pub(crate) reply_bytes_shared: usize,
}

impl ServeOptions {
    /// Checks every option, alone and together.
    pub(crate) fn check(self) -> Result<Settings, Vec<String>> {
        let mut problems = Vec::new();
        for (name, address) in [("--listen", &self.listen), ("--peer-listen", &self.peer_listen)] {
            if let Err(reason) = check_address(address, true) {
                problems.push(format!("{name} {address}: {reason}"));
            }
        }
        let advertised = self.advertise.clone().unwrap_or_else(|| self.listen.clone());
        if let Some(address) = &self.advertise {
            if let Err(reason) = check_address(address, false) {
                problems.push(format!("--advertise {address}: {reason}"));
            }
        } else if ["0.0.0.0", "[::]"].contains(&host_of(&self.listen)) {
            problems.push(format!(
                "--listen {}: clients cannot be sent to it; name a reachable address with --advertise",
                self.listen
            ));
        }
        let list = self.peers.as_deref();
        let peers = list.map_or_else(BTreeMap::new, |list| parse_peers("--peers", list, &mut problems));
        if !peers.is_empty() && !peers.contains_key(&self.id) {
            problems.push(format!("--id {}: is not in --peers {}", self.id, list.unwrap_or_default()));
        }
        if self.trace.is_some() && !cfg!(feature = "trace") {
            problems.push("--trace: this build records no traces; build it with --features trace".into());
        }
        let counts = [
            ("--snapshot-commands", self.snapshot_commands as u64),
            ("--snapshot-mib", self.snapshot_mib),
            ("--snapshot-fetch-mib", self.snapshot_fetch_mib.unwrap_or(1)),
        ];
        for (name, _) in counts.iter().filter(|(_, value)| *value == 0) {
            problems.push(format!("{name} 0: must be at least 1"));
        }
        if self.connections_max == 0 {
            problems.push("--connections-max 0: must be at least 1".into());
        }
        let own_bytes = replies::OWN_BYTES.saturating_mul(self.connections_max.saturating_add(lanes_max(peers.len())));
        let least_bytes = own_bytes.saturating_add(replies::ReplyMemory::LEAST_BYTES);
        let reply_bytes = self.reply_memory_mib.saturating_mul(1 << 20);
        if reply_bytes < least_bytes {
            problems.push(format!(
                "--reply-memory-mib {}: with --connections-max {} it must be at least {}: 64 KiB for each connection, the \
                 nodes' included, and one large reply",
                self.reply_memory_mib,
                self.connections_max,
                least_bytes.div_ceil(1 << 20),
            ));
        }
        let mut config = RaftConfig::new(self.id, peers.keys().copied());
        config.joins = peers.is_empty();
        for (id, address) in &peers {
            config.membership = config.membership.with_address(*id, address.clone());
        }
        config.tick = Duration::from_millis(self.tick_ms);
        config.seed = self.seed;
        (config.lease_ticks, config.priority) = (self.lease_ticks, self.priority);
        config.command_bytes_max = super::command::COMMAND_BYTES_MAX;
        if let Err(error) = config.validate() {
            // Membership and id have been reported in the words of the command line.
            let rest = error.problems.into_iter().filter(|problem| !["membership", "id"].contains(&problem.field));
            problems.extend(rest.map(|problem| format!("{} = {}: {}", problem.field, problem.value, problem.rule)));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let leader_wait = Duration::from_millis(self.leader_wait_ms);
        let result_wait = Duration::from_millis(self.result_wait_ms);
        let reply_bytes_shared = reply_bytes.saturating_sub(own_bytes);
        Ok(Settings { options: self, config, peers, advertised, leader_wait, result_wait, reply_bytes_shared })
    }
}

pub(crate) fn parse_peers(option: &str, list: &str, problems: &mut Vec<String>) -> BTreeMap<u64, String> {
    let mut peers: BTreeMap<u64, String> = BTreeMap::new();
    for item in list.split(',') {
        let mut problem = |reason: String| problems.push(format!("{option} {item:?}: {reason}"));
        let Some((id, address)) = item.split_once('=') else {
            problem("is not of the form ID=HOST:PORT".into());
            continue;
        };
        let Ok(id) = id.trim().parse::<u64>() else {
            problem(format!("{id:?} is not a node id, a number from 0 on"));
            continue;
        };
        if let Err(reason) = check_address(address, false) {
            problem(reason);
        }
        if let Some((other, _)) = peers.iter().find(|(_, known)| *known == address) {
            problem(format!("node {other} has the same address"));
        }
        if peers.insert(id, address.to_owned()).is_some() {
            problem(format!("node {id} occurs twice"));
        }
    }
    peers
}

/// Checks the form; whether the name resolves shows when it is used.
pub(crate) fn check_address(address: &str, zero_port: bool) -> Result<(), String> {
    let Some((host, port)) = address.rsplit_once(':') else {
        return Err("is not of the form HOST:PORT".into());
    };
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err("names no host".into());
    }
    match port.parse::<u16>() {
        Ok(0) if !zero_port => Err("port 0 is no port to connect to".into()),
        Ok(_) => Ok(()),
        Err(_) => Err(format!("{port:?} is not a port, a number up to 65535")),
    }
}

fn host_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

impl Settings {
    /// Where the snapshots are.
    pub(crate) fn snapshots(&self) -> PathBuf {
        self.options.snapshots.clone().unwrap_or_else(|| self.options.data.join("snapshots"))
    }

    /// The advertised address in the two halves that cluster commands want.
    pub(crate) fn split_address(address: &str) -> (&str, i64) {
        let (host, port) = address.rsplit_once(':').unwrap_or((address, "0"));
        (host.trim_start_matches('[').trim_end_matches(']'), port.parse().unwrap_or(0))
    }
}

// Forwarded batches are requests too: a batch and its framing must fit into one.
const _: () = assert!(super::command::COMMAND_BYTES_MAX + (2 << 20) <= resp::REQUEST_BYTES_MAX);
