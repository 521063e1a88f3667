//! What a node makes of the configurations in its log: the first of them, and whom its transport has to reach.
//!
//! A cluster is told once who belongs to it. `RaftConfig::membership` becomes a record at the start of a log that holds
//! nothing; from then on the log says who belongs to the cluster, whatever the program is configured with (§4).

use super::contain::CodePlace;
use super::node::{Node, State};
use super::raft::StateMachine;
use super::start_error::StartError;
use super::sync::lock;
use super::trace::trace_event;
use crate::action::{Action, Compaction, Write};
use crate::config::RaftConfig;
use crate::event::Event;
use crate::history::{History, HistoryId};
use crate::log::{Memberships, RaftLog, SharedLog};
use crate::membership::Membership;
use crate::protocol::Protocol;
use crate::transport::RaftTransport;
use crate::types::{EntryId, Index, NodeId};
use std::borrow::Cow;
use std::boxed::Box;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::string::{String, ToString};
use std::sync::Arc;

/// The members, each with its address if one is known.
pub(super) type Reachable = BTreeMap<NodeId, Option<String>>;

/// What a transport is to be told, before the next message.
#[derive(Default)]
pub(super) struct Told {
    members: Option<Reachable>,
    history: Option<Arc<History>>,
}

/// What a transport is told of the configurations in the log.
pub(super) struct Members {
    /// What `RaftConfig` names and the log does not.
    pub(super) overruled: Option<Arc<Membership>>,
    /// The configuration in force and the last committed one, as the transport knows them, or is about to.
    told: Option<(Arc<Membership>, Index)>,
    /// It goes out as soon as the lock is released.
    due: Told,
    /// The history that the transport knows, or is about to.
    told_history: Option<HistoryId>,
    /// The history that the log's oldest configuration names, as written or on its way to the disk.
    recorded: Option<HistoryId>,
}

impl Members {
    pub(super) fn new(overruled: Option<Arc<Membership>>, protocol: &Protocol) -> Self {
        Self { overruled, told: None, due: Told::default(), told_history: None, recorded: recorded(protocol) }
    }

    pub(super) const fn is_due(&self) -> bool {
        self.due.members.is_some() || self.due.history.is_some()
    }

    pub(super) fn take(&mut self) -> Told {
        std::mem::take(&mut self.due)
    }

    pub(super) fn forget(&mut self) {
        self.due = Told::default();
    }

    /// If the history is settled since the last write, a write among these actions says so, which the last step of the
    /// protocol decided: the oldest configuration in the log names it from then on, whatever becomes of the entry that
    /// brought it. That takes no write, and no sync, of its own.
    #[inline]
    pub(super) fn record_history(&mut self, protocol: &Protocol, actions: &mut [Action]) {
        if self.recorded != protocol.history().map(|history| history.id()) {
            self.record_settled_history(protocol, actions);
        }
    }

    #[cold]
    fn record_settled_history(&mut self, protocol: &Protocol, actions: &mut [Action]) {
        let Some((_, membership)) = protocol.memberships().next() else { return };
        let Some(history) = membership.history() else { return };
        let mut writes = actions
            .iter_mut()
            .filter_map(|action| if let Action::Persist(write) = action { Some(write) } else { None });
        let Some(first) = writes.next() else { return };
        let compaction = first.compaction.as_ref().or_else(|| writes.find_map(|write| write.compaction.as_ref()));
        match compaction {
            // Where a write stands in their order that comes before it, the log begins elsewhere.
            Some(compaction) if compaction.membership.history() != Some(history) => return,
            Some(_) => {}
            None => {
                let (snapshot, base) = (protocol.snapshot(), protocol.base());
                first.compaction = Some(Compaction { snapshot, base, membership: Arc::clone(membership) });
            }
        }
        self.recorded = Some(history.id());
    }
}

/// Writes down who belongs to the cluster, if the log does not know, and waits until that is durable. The configuration to
/// start with, and its membership if the log prevails over that.
pub(super) fn bootstrap<'a, L: SharedLog>(
    config: &'a RaftConfig,
    log: &mut L,
) -> Result<(Cow<'a, RaftConfig>, Option<Arc<Membership>>), StartError> {
    let Memberships { at_snapshot, later } = log.memberships();
    let configured = &config.membership;
    let begins = at_snapshot.is_none() && later.is_empty();
    if begins && !configured.is_empty() {
        // A log from before memberships were recorded gets the same record at its snapshot.
        let membership = Arc::new(configured.clone());
        let compaction = Compaction { snapshot: log.snapshot(), base: log.base(), membership };
        let mut writes = std::vec![Write { compaction: Some(compaction), ..Write::default() }];
        let written = log.append(&mut writes).and_then(|()| RaftLog::sync(log));
        written.map_err(|error| StartError::Bootstrap { source: Box::new(error) })?;
        trace_event!(info, node = config.id.0, "the cluster begins with: {configured}");
        return Ok((Cow::Borrowed(config), None));
    }
    let known = later.last().map(|(_, membership)| membership).or(at_snapshot.as_ref());
    let differs = !configured.is_empty() && known.is_some_and(|known| known.without_history() != *configured);
    if differs {
        // No warning: a configuration names those that the cluster began with, and goes on naming them.
        trace_event!(
            info,
            node = config.id.0,
            "the log knows the members; the configuration, which does not count any more, names others: {configured}"
        );
    }
    let overruled = differs.then(|| Arc::new(configured.clone()));
    if at_snapshot.is_some() || later.is_empty() {
        return Ok((Cow::Borrowed(config), overruled));
    }
    // A server that joined knows of no configuration before the first in its log, whatever it is configured with now.
    Ok((Cow::Owned(RaftConfig { membership: Membership::default(), joins: true, ..config.clone() }), overruled))
}

/// The identity that a node gives the cluster's history if it leads an empty log.
pub(super) fn draw_history() -> HistoryId {
    // The standard library's random keys, the only randomness that it offers; each has its own.
    let word = || u128::from(RandomState::new().build_hasher().finish());
    HistoryId::from_bits(word() << 64 | word())
}

/// The history that the oldest configuration names which the protocol knows.
fn recorded(protocol: &Protocol) -> Option<HistoryId> {
    protocol.memberships().next().and_then(|(_, membership)| membership.history()).map(|history| history.id())
}

/// Everybody who may still have to be reached: the members of the last committed configuration and of those after it. The
/// newest one says where.
fn reachable(protocol: &Protocol) -> Reachable {
    let committed = protocol.committed_membership().0;
    let mut reachable = Reachable::new();
    for (_, membership) in protocol.memberships().filter(|(index, _)| *index >= committed) {
        for id in membership.members() {
            let address = membership.address(id).map(ToString::to_string);
            let known = reachable.entry(id).or_default();
            *known = address.or(known.take());
        }
    }
    reachable
}

impl<M: StateMachine, L: SharedLog, T: RaftTransport> Node<M, L, T> {
    /// Before anything runs.
    pub(super) fn introduce_members(&self) {
        let mut state = lock(&self.state);
        self.note_members(&mut state);
        let told = state.members.take();
        drop(state);
        self.tell(&told);
    }

    /// Never by two threads at a time.
    pub(super) fn tell(&self, told: &Told) {
        let group = self.options.group;
        if let Some(history) = &told.history {
            self.transport.history(group, history);
        }
        if let Some(members) = &told.members {
            self.transport.members(group, members);
        }
    }

    /// A tick passed. The leader of a cluster that is older than histories gives it one, once it knows that every member
    /// understands what that is: during a rolling upgrade an older server would refuse the entry, and all after it.
    pub(super) fn tick_history(&self) {
        let state = lock(&self.state);
        let lacks_one = |state: &State<M>| state.leading.is_some() && state.protocol.membership().history().is_none();
        if !lacks_one(&state) {
            return;
        }
        let membership = Arc::clone(state.protocol.membership());
        // The transport is the user's code: not under the lock.
        drop(state);
        let known = |peer: NodeId| peer == self.id || self.transport.knows_histories(peer);
        let all = || membership.members().into_iter().all(known);
        if !self.panics.survive(CodePlace::TransportAddress, all).unwrap_or(false) {
            return;
        }
        let mut state = lock(&self.state);
        if lacks_one(&state) && Arc::ptr_eq(state.protocol.membership(), &membership) {
            // The protocol says which entry brings it.
            let history = History::new(draw_history(), EntryId::ZERO);
            let target = Arc::new(membership.settled().with_history(Arc::new(history)));
            // Refused as long as another change is under way, or the leader has committed nothing: the next tick asks again.
            let _ = self.step(&mut state, Event::ChangeMembership { target });
        }
        self.release(state);
    }

    /// After a step: the transport is told if another configuration is in force or committed, or another history.
    #[inline]
    pub(super) fn note_members(&self, state: &mut State<M>) {
        let (in_force, committed) = (state.protocol.membership(), state.protocol.committed_membership().0);
        // By identity: an entry of a later leader may have replaced one at the same index.
        let told = state.members.told.as_ref();
        if !told.is_some_and(|(membership, index)| Arc::ptr_eq(membership, in_force) && *index == committed) {
            state.members.told = Some((Arc::clone(in_force), committed));
            state.members.due.members = Some(reachable(&state.protocol));
        }
        let history = state.protocol.history();
        if history.map(|history| history.id()) != state.members.told_history {
            state.members.told_history = history.map(|history| history.id());
            state.members.due.history = history.cloned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Locked, LogView, MemoryLog};
    use crate::types::{Entry, EntryId, HardState, Payload, Term};

    /// A log with this configuration as its second entry, as a server that joined has it.
    fn joined(membership: &Membership) -> Locked<MemoryLog> {
        let noop = Entry { id: EntryId::new(1, 1), payload: Payload::Noop };
        let change = Entry { id: EntryId::new(2, 1), payload: Payload::Membership(Arc::new(membership.clone())) };
        let hard_state = Some(HardState { term: Term(1), vote: None });
        let mut log = Locked::new(MemoryLog::new());
        let entries = [noop, change].into_iter().collect();
        let Ok(()) = log.append(&mut std::vec![Write { hard_state, entries, ..Write::default() }]);
        log
    }

    #[test]
    fn a_configuration_is_recorded_once_in_an_empty_log() {
        let mut log = Locked::new(MemoryLog::new());
        let three = RaftConfig::new(1, [1, 2, 3]);
        let (begins, overruled) = bootstrap(&three, &mut log).expect("a memory log does not fail");
        assert_eq!((begins.membership.voters().len(), overruled), (3, None));
        assert_eq!(log.memberships().at_snapshot.as_deref(), Some(&three.membership));
        let four = RaftConfig::new(1, [1, 2, 3, 4]);
        let (_, overruled) = bootstrap(&four, &mut log).expect("a memory log does not fail");
        assert_eq!(overruled.as_deref(), Some(&four.membership));
        assert_eq!(log.memberships().at_snapshot.as_deref(), Some(&three.membership), "recorded once");
    }

    /// Configured like the newest configuration in its log, a server took that for the one that had always been in force.
    #[test]
    fn whoever_joined_knows_of_no_configuration_before_the_first_in_its_log() {
        let known = Membership::new([1, 2, 3_u64]);
        for (configured, differs) in [(known.clone(), false), (Membership::new([1, 2_u64]), true)] {
            let config = RaftConfig { membership: configured, ..RaftConfig::joining(1) };
            let (begins, overruled) = bootstrap(&config, &mut joined(&known)).expect("a memory log does not fail");
            assert!(begins.membership.is_empty(), "{}", begins.membership);
            assert_eq!(overruled.is_some(), differs);
        }
    }
}
