//! What a node says about itself: an owned value, never a guard.

use super::contain::{CodePlace, contain};
use super::error::{LeaderHint, RequestError};
use super::held_up::HeldUp;
use super::node::{Guard, Node};
use super::raft::StateMachine;
use super::stopped::{NodeRole, StopReason};
use super::sync::atomic::Ordering;
use super::sync::lock;
use crate::error::ChangeError;
use crate::history::HistoryId;
use crate::log::{LogView, SharedLog};
use crate::membership::Membership;
use crate::protocol::ProgressState;
use crate::transport::RaftTransport;
use crate::types::{EntryId, Index, NodeId, Term};
use std::fmt::{self, Display, Write};
use std::string::String;
use std::sync::Arc;
use std::time::Duration;
use std::vec::Vec;

/// A node's state at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Status {
    /// This node.
    pub id: NodeId,
    /// Its current term.
    pub term: Term,
    /// Its role in that term; [`NodeRole::Stopped`] from its end on.
    pub role: NodeRole,
    /// The leader of that term, as far as known; this node itself when it leads. A stopped node knows of none.
    pub leader: Option<LeaderHint>,
    /// The first index that the log holds, or would hold if it is empty.
    pub first_index: Index,
    /// The last index, durable or not.
    pub last_index: Index,
    /// The last index that is durable on this node.
    pub durable_index: Index,
    /// The highest index known committed.
    pub commit_index: Index,
    /// The highest index that the state machine has applied.
    pub applied_index: Index,
    /// Who belongs to the cluster.
    pub membership: MembershipStatus,
    /// The identity of the history that this node's log is known to belong to: one for the whole cluster, which its first
    /// leader drew. `None` until the entry that brought it is known to be committed.
    pub history: Option<HistoryId>,
    /// Snapshots of this node.
    pub snapshot: SnapshotStatus,
    /// On a leader: each other member, ascending by id. Empty in other roles.
    pub peers: Vec<PeerStatus>,
    /// On a leader: the node that it hands its leadership over to; proposals are refused meanwhile.
    pub transfer_target: Option<NodeId>,
    /// On a leader: what it proposed and has not yet committed, in bytes.
    pub uncommitted_bytes: usize,
    /// The log is short of space: it found none for its next segment, and goes on in the one that it has. A snapshot is
    /// taken, and all that it covers leaves the log; if that is not enough, free some space on the log's volume.
    pub log_short_of_space: bool,
    /// What the state machine needs next, committed entries or the snapshot that stands for them, cannot be read at the moment, for
    /// a reason that passes (too many open files, for example): what the log or the store said. They are read again at each tick, until that has lasted for 60
    /// minimum election timeouts; then the node stops. It does not lead meanwhile. `None` while they can be read.
    pub log_unreadable: Option<String>,
    /// How many proposals have no answer yet.
    pub open_proposals: usize,
    /// How many linearizable reads have no answer yet.
    pub open_reads: usize,
    /// Why the node stopped; `None` while it works.
    pub stopped: Option<StopReason>,
    /// Why the node stopped for good, in words; `None` while it works, and when it was shut down.
    pub fatal: Option<String>,
    /// The node is shut down, or shutting down.
    pub shutdown: bool,
    /// Why the recording of a trace ended before the node did; `None` while it goes on, and without one.
    #[cfg(feature = "trace")]
    pub trace_stopped: Option<String>,
    /// The latest panic of code that the node was given and goes on without; see [`Counters::panics_survived`].
    pub last_panic: Option<String>,
    /// What happened since the start.
    pub counters: Counters,
}

/// What a node knows of the cluster's members.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct MembershipStatus {
    /// The configuration in force on this node, committed or not.
    pub in_force: Arc<Membership>,
    /// The index of its entry, or of the snapshot with which it came.
    pub index: Index,
    /// It is known to be committed. A change is done when it is that and not a joint one.
    pub is_committed: bool,
    /// What this node is in it.
    pub part: MemberPart,
    /// How many requests for a change are open on this node.
    pub open_changes: usize,
    /// What the first of them that is not in the log waits for.
    pub waiting_for: Option<ChangeError>,
    /// The members that `RaftConfig` names, if they are others than the log's, which prevail.
    pub overruled: Option<Arc<Membership>>,
}

/// What a server is in a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum MemberPart {
    /// It has a vote.
    Voter,
    /// It gets the log and has no vote.
    Learner,
    /// It is no member: not yet, or no more.
    None,
}

impl MemberPart {
    pub(super) fn of(membership: &Membership, id: NodeId) -> Self {
        if membership.is_voter(id) {
            Self::Voter
        } else if membership.is_learner(id) {
            Self::Learner
        } else {
            Self::None
        }
    }

    /// Its name in one lower-case word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Voter => "voter",
            Self::Learner => "learner",
            Self::None => "none",
        }
    }
}

/// What a leader knows of another member.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct PeerStatus {
    /// The member.
    pub id: NodeId,
    /// What it is in the configuration in force.
    pub part: MemberPart,
    /// Highest index known durable on it.
    pub match_index: Index,
    /// The next index to send to it.
    pub next_index: Index,
    /// How appends are sent to it.
    pub state: ProgressState,
    /// It answered since the last quorum check.
    pub active: bool,
    /// Appends on their way to it.
    pub inflight_messages: usize,
    /// Their entries, in bytes.
    pub inflight_bytes: usize,
    /// Why it does not catch up; `None` if it has, or is about to.
    pub held_up: Option<HeldUp>,
}

/// What a node says of its snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct SnapshotStatus {
    /// The last entry of the one that the log begins with, durably; `None` without any.
    pub last: Option<EntryId>,
    /// Its size in bytes.
    pub bytes: Option<u64>,
    /// The last entry of the one that is being written.
    pub taking: Option<EntryId>,
    /// The one that is being fetched from the leader.
    pub fetching: Option<FetchStatus>,
    /// The latest error of taking, fetching or serving one, if there was any. Those are tried again.
    pub last_error: Option<String>,
    /// How many could not be taken since the last that could.
    pub failures: u32,
    /// How long until one that failed is tried again: a second after the first failure, then twice as long each time, a
    /// minute at most. `None` if nothing failed, and while one is being taken.
    pub retry_after: Option<Duration>,
    /// How many backups are being read. Of each the store keeps the snapshot.
    pub backups: usize,
}

/// A snapshot that is being fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct FetchStatus {
    /// From whom.
    pub from: NodeId,
    /// The last entry that it covers.
    pub last: EntryId,
    /// What has arrived, in bytes.
    pub bytes: u64,
    /// The size of the whole in bytes, once a chunk told it.
    pub total_bytes: Option<u64>,
}

/// Counts since the start; each only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Counters {
    /// Commands appended by this node as leader.
    pub commands_proposed: u64,
    /// Commands refused: not the leader, overloaded, too large.
    pub commands_refused: u64,
    /// Entries given to the state machine.
    pub commands_applied: u64,
    /// Linearizable reads answered from the state machine.
    pub reads_answered: u64,
    /// Reads taken and not answered: leadership or the leader was lost, the reader's deadline passed, or the node
    /// stopped.
    pub reads_aborted: u64,
    /// Reads refused: not the leader or none known, overloaded, stopping.
    pub reads_refused: u64,
    /// Messages handed to the transport.
    pub messages_sent: u64,
    /// Messages taken from the transport.
    pub messages_received: u64,
    /// Messages of peers that broke the protocol, dropped.
    pub messages_misbehaved: u64,
    /// Changes of role, term or known leader.
    pub role_changes: u64,
    /// Writes made durable.
    pub log_writes: u64,
    /// Syncs that made them durable.
    pub log_syncs: u64,
    /// How often this node gave up its leadership because its log's disk stalled.
    pub disk_stalls: u64,
    /// Appends whose entries were read from the log for a lagging follower.
    pub cold_reads: u64,
    /// Entries that a peer could not be sent because it takes less in one message.
    pub entries_too_large: u64,
    /// Such reads dropped because too many waited or the log had changed meanwhile.
    pub cold_reads_dropped: u64,
    /// Reads of the log, for a peer or for the state machine, that failed for a reason that passes, and snapshots that could not
    /// be opened for it. Each is tried again.
    pub log_reads_failed: u64,
    /// Snapshots taken of the state machine.
    pub snapshots_taken: u64,
    /// Snapshots lost to an error of the image or the store.
    pub snapshots_failed: u64,
    /// Snapshots fetched from a leader.
    pub snapshots_fetched: u64,
    /// How often the log gave up what it kept for a peer that fetches a snapshot, because it was too much.
    pub log_holds_given_up: u64,
    /// Backups that were ended before they were read, because too much was kept for them. See
    /// [`BackupEnded`](super::BackupEnded).
    pub backups_given_up: u64,
    /// Fetches given up; the leader's next offer is taken up.
    pub snapshot_fetches_failed: u64,
    /// Panics of code that the node was given, after which it goes on: see [`CodePlace`].
    pub panics_survived: u64,
}

impl Status {
    /// The status in the Prometheus text exposition format, version 0.0.4. Every sample is labelled
    /// with this node's id.
    #[must_use]
    pub fn prometheus(&self) -> String {
        let mut page = Page { node: self.id, text: String::with_capacity(4096) };
        page.family("raft_role", "gauge", "1 for the present role, 0 for the others.");
        for role in NodeRole::ALL {
            page.sample("raft_role", &[("role", &role.name())], u64::from(role == self.role));
        }
        let leader = self.leader.as_ref().map_or(0, |leader| leader.id.0);
        let transfer = self.transfer_target.map_or(0, |id| id.0);
        let snapshot = &self.snapshot;
        let fetch = snapshot.fetching;
        let members = &self.membership.in_force;
        let gauges = [
            ("raft_term", "The current term.", self.term.0),
            ("raft_has_leader", "1 if a leader is known.", u64::from(self.leader.is_some())),
            ("raft_leader_id", "The leader's id; 0 while none is known.", leader),
            ("raft_transfer_target", "The id that leadership is handed over to; 0 without a transfer.", transfer),
            ("raft_first_index", "The first index that the log holds.", self.first_index.0),
            ("raft_last_index", "The last index of the log, durable or not.", self.last_index.0),
            ("raft_durable_index", "The last index that is durable on this node.", self.durable_index.0),
            ("raft_commit_index", "The highest index known committed.", self.commit_index.0),
            ("raft_applied_index", "The highest index applied.", self.applied_index.0),
            ("raft_membership_index", "The index of the configuration in force.", self.membership.index.0),
            (
                "raft_membership_changing",
                "1 while the configuration in force is a joint one or not committed.",
                u64::from(members.is_joint() || !self.membership.is_committed),
            ),
            (
                "raft_voters",
                "Servers with a vote, in a joint configuration the new ones.",
                members.voters().len() as u64,
            ),
            ("raft_learners", "Servers that get the log and have no vote.", members.learners().len() as u64),
            ("raft_is_voter", "1 if this node has a vote.", u64::from(self.membership.part == MemberPart::Voter)),
            (
                "raft_snapshot_index",
                "The last index that the snapshot covers.",
                snapshot.last.map_or(0, |id| id.index.0),
            ),
            ("raft_snapshot_bytes", "The size of the snapshot.", snapshot.bytes.unwrap_or(0)),
            ("raft_snapshot_taking", "1 while a snapshot is being written.", u64::from(snapshot.taking.is_some())),
            ("raft_snapshot_fetching", "1 while a snapshot is being fetched.", u64::from(fetch.is_some())),
            ("raft_snapshot_fetched_bytes", "What has arrived of it.", fetch.map_or(0, |fetch| fetch.bytes)),
            (
                "raft_snapshot_fetch_bytes",
                "Its size; 0 until known.",
                fetch.and_then(|fetch| fetch.total_bytes).unwrap_or(0),
            ),
            ("raft_backups_running", "Backups that are being read.", self.snapshot.backups as u64),
            ("raft_uncommitted_bytes", "Bytes proposed and not yet committed.", self.uncommitted_bytes as u64),
            ("raft_open_proposals", "Proposals without an answer yet.", self.open_proposals as u64),
            ("raft_open_reads", "Linearizable reads without an answer yet.", self.open_reads as u64),
            (
                "raft_log_unreadable",
                "1 while the log cannot be read for the state machine.",
                u64::from(self.log_unreadable.is_some()),
            ),
            ("raft_fatal", "1 if the node has stopped for good.", u64::from(self.fatal.is_some())),
        ];
        for (name, help, value) in gauges {
            page.family(name, "gauge", help);
            page.sample(name, &[], value);
        }
        page.family("raft_stopped", "gauge", "1 for the reason why the node stopped, 0 for the others.");
        let stopped = self.stopped.as_ref().map(StopReason::name);
        for name in StopReason::NAMES {
            page.sample("raft_stopped", &[("reason", &name)], u64::from(stopped == Some(name)));
        }
        self.counters(&mut page);
        self.peers(&mut page);
        page.text
    }

    fn counters(&self, page: &mut Page) {
        let counters = &self.counters;
        let families = [
            ("raft_commands_proposed_total", "Commands appended as leader.", counters.commands_proposed),
            ("raft_commands_refused_total", "Commands refused.", counters.commands_refused),
            ("raft_commands_applied_total", "Commands applied.", counters.commands_applied),
            ("raft_reads_answered_total", "Linearizable reads answered.", counters.reads_answered),
            ("raft_reads_aborted_total", "Reads taken and not answered.", counters.reads_aborted),
            ("raft_reads_refused_total", "Reads refused.", counters.reads_refused),
            ("raft_messages_sent_total", "Messages handed to the transport.", counters.messages_sent),
            ("raft_messages_received_total", "Messages taken from the transport.", counters.messages_received),
            ("raft_messages_misbehaved_total", "Messages that broke the protocol.", counters.messages_misbehaved),
            ("raft_role_changes_total", "Changes of role, term or leader.", counters.role_changes),
            ("raft_disk_stalls_total", "Leaderships given up because the disk stalled.", counters.disk_stalls),
            ("raft_log_writes_total", "Writes made durable.", counters.log_writes),
            ("raft_log_syncs_total", "Syncs of the log.", counters.log_syncs),
            ("raft_cold_reads_total", "Appends read from the log for laggards.", counters.cold_reads),
            ("raft_entries_too_large_total", "Entries that a peer does not take.", counters.entries_too_large),
            ("raft_cold_reads_dropped_total", "Such reads that were dropped.", counters.cold_reads_dropped),
            ("raft_log_reads_failed_total", "Reads of the log that are tried again.", counters.log_reads_failed),
            ("raft_snapshots_taken_total", "Snapshots taken.", counters.snapshots_taken),
            ("raft_snapshots_failed_total", "Snapshots lost to an error.", counters.snapshots_failed),
            ("raft_snapshots_fetched_total", "Snapshots fetched from a leader.", counters.snapshots_fetched),
            (
                "raft_log_holds_given_up_total",
                "Fetching peers that the log kept too much for.",
                counters.log_holds_given_up,
            ),
            ("raft_backups_given_up_total", "Backups ended, too much kept.", counters.backups_given_up),
            ("raft_snapshot_fetches_failed_total", "Fetches given up.", counters.snapshot_fetches_failed),
            ("raft_panics_survived_total", "Panics of code that the node was given.", counters.panics_survived),
        ];
        for (name, help, value) in families {
            page.family(name, "counter", help);
            page.sample(name, &[], value);
        }
    }

    /// A family without a sample would be legal too, but it says nothing.
    fn peers(&self, page: &mut Page) {
        if self.peers.is_empty() {
            return;
        }
        type Field = fn(&PeerStatus) -> u64;
        let families: [(&str, &str, Field); 4] = [
            ("raft_peer_match_index", "Highest index known durable on the peer.", |peer| peer.match_index.0),
            ("raft_peer_next_index", "The next index to send to the peer.", |peer| peer.next_index.0),
            ("raft_peer_active", "1 if the peer answered since the last quorum check.", |peer| u64::from(peer.active)),
            ("raft_peer_inflight_bytes", "Entry bytes on their way to the peer.", |peer| peer.inflight_bytes as u64),
        ];
        for (name, help, field) in families {
            page.family(name, "gauge", help);
            for peer in &self.peers {
                page.sample(name, &[("peer", &peer.id)], field(peer));
            }
        }
        let name = "raft_peer_held_up";
        page.family(name, "gauge", "1 for why the peer does not catch up, 0 for the other reasons.");
        for peer in &self.peers {
            for reason in HeldUp::NAMES {
                let is = peer.held_up.as_ref().is_some_and(|held_up| held_up.name() == reason);
                page.sample(name, &[("peer", &peer.id), ("reason", &reason)], u64::from(is));
            }
        }
    }
}

impl<M: StateMachine, L: SharedLog, T: RaftTransport> Node<M, L, T> {
    /// What a peer advertises to clients. Not under the lock: it asks the transport.
    pub(super) fn client_address(&self, peer: NodeId) -> Option<String> {
        self.panics.survive(CodePlace::TransportAddress, || self.transport.client_address(peer)).flatten()
    }

    /// Where this node believes the leader to be.
    pub(super) fn leader_hint(&self, leader: Option<NodeId>) -> Option<LeaderHint> {
        leader.map(|id| LeaderHint { id, client_address: self.client_address(id) })
    }

    /// Adds the leader's address to an error that names a leader. Not under the lock: it asks the
    /// transport.
    pub(super) fn name_leader(&self, error: &mut RequestError) {
        if let RequestError::NotLeader { leader: Some(leader), .. }
        | RequestError::TransferInProgress { target: leader, .. } = error
        {
            leader.client_address = self.client_address(leader.id);
        }
    }

    /// The state, and where the log begins: as its reader says, which is not ours.
    fn lock_with_base(&self) -> (Guard<'_, M>, EntryId) {
        let mut state = lock(&self.state);
        match contain(|| self.view.base()) {
            Ok(base) => (state, base),
            Err(message) => {
                self.fail_at(&mut state, CodePlace::LogView, message);
                self.release(state);
                (lock(&self.state), EntryId::ZERO)
            }
        }
    }

    pub(super) fn status_now(&self) -> Status {
        let (state, base) = self.lock_with_base();
        let protocol = &state.protocol;
        let in_force = Arc::clone(protocol.membership());
        let stopped = state.stopped.clone();
        let works = stopped.is_none();
        let peers = protocol.progress().filter(|_| works).map(|(id, progress)| PeerStatus {
            id,
            part: MemberPart::of(&in_force, id),
            match_index: progress.match_index,
            next_index: progress.next_index,
            state: progress.state,
            active: progress.active,
            inflight_messages: progress.inflight_messages(),
            inflight_bytes: progress.inflight_bytes(),
            held_up: self.held_up(&state, id, progress),
        });
        let peers = peers.collect();
        let index = protocol.membership_index();
        let membership = MembershipStatus {
            index,
            is_committed: index <= protocol.commit_index(),
            part: MemberPart::of(&in_force, self.id),
            in_force: Arc::new(in_force.without_history()),
            open_changes: state.changes.open(),
            waiting_for: state.changes.refusal(),
            overruled: state.members.overruled.clone(),
        };
        let leader = protocol.leader().filter(|_| works);
        let mut status = Status {
            id: self.id,
            term: protocol.term(),
            role: if works { protocol.role().into() } else { NodeRole::Stopped },
            leader: None,
            first_index: base.index.next(),
            last_index: protocol.last().index,
            durable_index: protocol.durable_index(),
            commit_index: protocol.commit_index(),
            applied_index: self.applied_index.load(Ordering::SeqCst).into(),
            membership,
            history: protocol.history().map(|history| history.id()),
            snapshot: state.snapshots.status(self.backups().count()),
            peers,
            transfer_target: protocol.transfer_target().filter(|_| works),
            uncommitted_bytes: if works { protocol.uncommitted_bytes() } else { 0 },
            log_unreadable: state.obstacles.unreadable.status().filter(|_| works),
            log_short_of_space: self.log_short.load(Ordering::Relaxed),
            open_proposals: self.open.load(Ordering::SeqCst),
            open_reads: self.reads.open.load(Ordering::SeqCst),
            stopped,
            fatal: state.fatal(),
            shutdown: state.draining,
            #[cfg(feature = "trace")]
            trace_stopped: state.recording.stopped(),
            counters: state.counters,
            last_panic: self.panics.last(),
        };
        drop(state);
        status.leader = self.leader_hint(leader);
        for peer in &mut status.peers {
            self.explain(peer.id, &mut peer.held_up);
        }
        status.counters.commands_applied = self.commands_applied.load(Ordering::Relaxed);
        status.counters.reads_answered = self.reads.answered.load(Ordering::Relaxed);
        status.counters.reads_aborted = self.reads.aborted.load(Ordering::Relaxed);
        status.counters.panics_survived = self.panics.count();
        status.counters.log_syncs = self.log_syncs.load(Ordering::Relaxed);
        status.counters.cold_reads = self.cold_reads_done.load(Ordering::Relaxed);
        status.counters.cold_reads_dropped = self.cold_reads_dropped.load(Ordering::Relaxed);
        status
    }
}

struct Page {
    node: NodeId,
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &dyn Display)], value: u64) {
        let node = self.node;
        self.line(format_args!("{name}{{node=\"{node}\""));
        for (label, value) in labels {
            self.line(format_args!(",{label}=\"{value}\""));
        }
        self.line(format_args!("}} {value}\n"));
    }

    fn line(&mut self, text: fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.text.write_fmt(text);
    }
}
