//! A durable, replicated key-value server that redis-cli and redis-benchmark can talk to.
//!
//! ```text
//! cargo run --release --example kv -- serve --id 1 --listen 127.0.0.1:6371 --peer-listen 127.0.0.1:7371 \
//!     --peers 1=127.0.0.1:7371,2=127.0.0.1:7372,3=127.0.0.1:7373 --data data/kv-1
//! ```
//!
//! Start nodes 2 and 3 likewise; any of them serves `redis-cli -p 6371`. `examples/cluster` starts
//! all three with one command.

#[allow(dead_code, reason = "the client's side serves examples/cluster and the tests")]
mod server;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// A durable, replicated key-value server that speaks RESP2, the protocol of Redis.
///
/// Writes go through the replicated log: an acknowledged one survives the loss of a minority of nodes.
/// Reads are answered by the leader without an entry of the log, once a majority confirmed that it
/// leads: they are linearizable (READONLY selects stale local ones). With --follower-reads any node
/// answers them, once the leader has told it how much it has to see: linearizable too. The commands of
/// one connection run in order.
///
/// Errors: -CLUSTERDOWN: no leader, or this node stops; the command did not run, ask another node. -BUSY: too much is in progress, it did
/// not run. -UNKNOWN: the answer to a write was lost, it may or may not have run; a read is tried
/// again instead. -MOVED: ask the node named.
///
/// RAFT.SESSION OPEN answers the id of a session. RAFT.CALL <session> <sequence> <lowest unanswered> <command> runs a command
/// once, however often it is sent: after -UNKNOWN or a lost connection send the same line again, to any node. Sequences
/// begin at 1; those below the lowest unanswered are never sent again. Errors: -SESSIONEXPIRED: the session was closed
/// (RAFT.SESSION CLOSE <id>) or, as the one longest without a command, evicted. -FORGOTTEN: the reply is not kept any more.
/// In neither case the command ran now. An idle client keeps its session with RAFT.SESSION KEEPALIVE <id> <lowest unanswered>.
///
/// RAFT.MEMBERS tells who belongs to the cluster. To the leader: RAFT.ADD <id> <peer address> adds a node, started with --join,
/// that gets a vote once it has caught up, or with LEARNER at the end none; RAFT.PROMOTE <id> gives a learner a vote and
/// RAFT.DEMOTE <id> takes it; RAFT.REMOVE <id> removes a node, the leader too; RAFT.ADDRESS <id> <peer address> says where one is
/// from now on. +OK and the members once that is committed; asking again is always safe. Errors: -NOTLEADER: ask the leader
/// named. -TRYAGAIN: nothing changed, and why. -PENDING: the node is a learner now and has no vote yet, and why. -UNKNOWN: it
/// may still change; look at RAFT.MEMBERS. -ERR: it cannot be.
///
/// RAFT.STATUS tells what a node knows. RAFT.TRANSFER <id>, sent to the leader, has another node lead: +OK once
/// it does; writes wait meanwhile. Its errors: -NOTLEADER: ask the leader named. -TRYAGAIN: nothing changed, or
/// the target took too long. -ERR: it is no voter, or another node came to lead. -UNKNOWN: look at RAFT.STATUS.
///
/// RAFT.BACKUP, sent to any node, answers the whole state as one bulk string, with everything that was acknowledged before; kv
/// backup writes it into a file. RAFT.BACKUP STALE takes what that node has, leader or not. -TRYAGAIN: no leader answered.
///
/// Exit codes of serve: 0: it was told to stop, and did. 2: it could not start, or the command line is
/// wrong. 3: it has stopped for good, because its disk failed for example; look at what it said last, and at docs/RECOVERY.md.
/// With --stay such a node stays up instead, refuses every command with the reason, and ends with 3 when it is told to.
/// Exit codes of recover: 0: done. 2: refused, and nothing was changed. Exit codes of inspect: 0: clean. 1: something is damaged,
/// and it says what and where. 2: it cannot look: there is no log, or it cannot be read. Exit codes of backup: 0: done. 2: not done,
/// and there is no file. Exit codes of restore: 0: done. 1: the backup is damaged, was cut or is none, and nothing was restored. 2: refused, and
/// nothing was restored.
#[derive(Parser)]
#[command(name = "kv", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one node. The first start on an empty directory creates it; a restart takes the same line
    Serve(Box<server::ServeOptions>),
    /// Go on without a majority of the nodes that is lost for good: see docs/RECOVERY.md first
    Recover(server::recover::RecoverOptions),
    /// Say what a node's directory holds and what is damaged where. Writes nothing; the node may run meanwhile
    Inspect(server::inspect::InspectOptions),
    /// Back up a cluster that runs: the whole state, from any node into a file, while everybody goes on working
    ///
    /// The file is complete when it has its name: until then it is called FILE.<process>.partial. It says of which cluster it is and up to which entry it
    /// goes, and has everything that was acknowledged before the backup began. The way back is kv restore.
    ///
    /// kv backup --from 127.0.0.1:6371 kv.backup
    Backup(server::backup::BackupOptions),
    /// Make a cluster of a backup: one node, in empty directories, which others join
    ///
    /// All of it is written or nothing. The new cluster goes on in a history of its own: no server of the old one ever
    /// follows it, so the old one may even run. See docs/RECOVERY.md.
    ///
    /// kv restore kv.backup --id 11 --data data/kv-11 --address 127.0.0.1:7371
    Restore(server::restore::RestoreOptions),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(options) => server::serve(*options).into(),
        Command::Recover(options) => server::recover::recover(&options).into(),
        Command::Inspect(options) => server::inspect::inspect(&options).into(),
        Command::Backup(options) => server::backup::backup(&options).into(),
        Command::Restore(options) => server::restore::restore(&options).into(),
    }
}
