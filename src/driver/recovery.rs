//! The way back when a majority of the voters is lost for good: a configuration of the survivors, written by hand.
//!
//! This is no part of the protocol, and gives up what it guarantees: entries that only the lost servers held are gone, though
//! clients may have been told that they are committed. It runs on the log of one server that is stopped, the survivor that
//! holds most. The other survivors stay as they are: the recovered server has the longest log and the highest term, so it
//! leads, and they follow it.
//!
//! The fence is the term. The configuration is appended in one so far beyond the last that no lost server can have led it, whatever
//! went on where this one could not see it; so no log that one of them brings back is as up to date as this one (§3.6.1), and
//! none of their leaders is heard any more.
//!
//! And what goes on is another history, a child of the one before: survivors adopt it, the lost ones never do, and two
//! recoveries of one cluster are two histories, though their entries may be numbered alike.

use super::members::draw_history;
use crate::action::Write;
use crate::error::{ConfigProblem, RestoreError};
use crate::history::History;
use crate::log::{LogView, RaftLog};
use crate::membership::Membership;
use crate::types::{Entries, Entry, EntryId, HardState, NodeId, Payload, Term};
use std::string::ToString;
use std::sync::Arc;
use std::vec::Vec;
use thiserror::Error;

/// How many terms are skipped: more than any cluster goes through while part of it is out of sight.
const TERMS_SKIPPED: u64 = 1 << 20;

/// What would be written. Nothing is, before [`Recovery::carry_out`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// The server whose log it is.
    pub id: NodeId,
    /// The configuration in force in the log.
    pub before: Arc<Membership>,
    /// That of the survivors.
    pub after: Arc<Membership>,
    /// The last entry of the log: of the survivors, the one where this is the highest, by term and then by index, is the one
    /// to recover.
    pub last: EntryId,
    /// The term before.
    pub term: Term,
    /// Where the new configuration is appended.
    pub entry: EntryId,
    /// The history that begins with it, and names those that are given up.
    pub history: Arc<History>,
}

/// Why a log cannot be recovered this way. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RecoveryError {
    /// The log knows of no cluster.
    #[error("the log knows of no cluster: there is nothing to recover")]
    Empty,
    /// The server whose log it is has to be one of the survivors.
    #[error("node {id}, whose log this is, must be one of the survivors")]
    NotASurvivor {
        /// The server.
        id: NodeId,
    },
    /// A survivor that the cluster never had. Recover first, then add it.
    #[error("node {server} is not a member of the cluster ({membership}); recover first, then add it")]
    NotAMember {
        /// The server.
        server: NodeId,
        /// The configuration in the log.
        membership: Arc<Membership>,
    },
    /// Behind the log's term there are not enough terms left. No cluster gets there by elections: restore a backup from before
    /// it came to that.
    #[error(
        "the log's term, {term}, is too near the largest that there is; restore a backup from before it came to that"
    )]
    TermsUsedUp {
        /// The log's term.
        term: Term,
    },
    /// The log has lost its hard state: it must not be trusted with this either.
    #[error(transparent)]
    Damaged(#[from] RestoreError),
}

impl Recovery {
    /// What it takes to go on with these voters alone, `id` among them, from this log of a server that is stopped.
    ///
    /// # Errors
    /// Why it cannot be done.
    pub fn plan<I>(log: &impl LogView, id: impl Into<NodeId>, survivors: I) -> Result<Self, RecoveryError>
    where
        I: IntoIterator,
        I::Item: Into<NodeId>,
    {
        let (id, last, term) = (id.into(), log.last(), log.hard_state().term);
        let memberships = log.memberships();
        let known: Vec<_> = memberships.at_snapshot.iter().chain(memberships.later.iter().map(|(_, m)| m)).collect();
        let before = Arc::clone(known.last().ok_or(RecoveryError::Empty)?);
        if last.term > term {
            return Err(RestoreError::HardStateLost { last, term }.into());
        }
        let mut after = Membership::default();
        for server in survivors.into_iter().map(Into::into) {
            if !before.contains(server) {
                return Err(RecoveryError::NotAMember { server, membership: before });
            }
            after = after.with_voter(server);
            if let Some(address) = before.address(server) {
                after = after.with_address(server, address);
            }
        }
        if !after.is_voter(id) {
            return Err(RecoveryError::NotASurvivor { id });
        }
        // The recovered server leads in a later term still.
        if term.0 >= Term::MAX.0 - TERMS_SKIPPED {
            return Err(RecoveryError::TermsUsedUp { term });
        }
        let entry = EntryId { index: last.index.next(), term: Term(term.0 + TERMS_SKIPPED) };
        let lost = before.members().into_iter().filter(|server| !after.contains(*server));
        let parent = before.history().map(|history| &**history);
        let history = Arc::new(History::child(parent, draw_history(), entry, lost));
        let after = Arc::new(after.with_history(Arc::clone(&history)));
        Ok(Self { id, before, after, last, term, entry, history })
    }

    /// The same, with a survivor at another address than it had.
    ///
    /// # Errors
    /// It is no survivor, or the configuration becomes too large.
    pub fn with_address(self, id: impl Into<NodeId>, address: impl ToString) -> Result<Self, ConfigProblem> {
        let (id, address) = (id.into(), address.to_string());
        let after = self.after.with_address(id, address.clone());
        let problem = |value, rule| Err(ConfigProblem { field: "address", value, rule });
        if !after.contains(id) {
            return problem(id.to_string(), "must be that of a survivor");
        }
        if after.encoded_len() > Membership::ENCODED_BYTES_MAX {
            return problem(address, "must leave the configuration within 48 KiB");
        }
        Ok(Self { after: Arc::new(after), ..self })
    }

    /// Writes it, durably. The server starts as ever then, and its log prevails over whatever it is configured with.
    ///
    /// # Errors
    /// The log's; it holds all of it or nothing.
    pub fn carry_out<L: RaftLog>(&self, log: &mut L) -> Result<(), L::Error> {
        let hard_state = Some(HardState { term: self.entry.term, vote: Some(self.id) });
        let entries = Entries::one(Entry { id: self.entry, payload: Payload::Membership(Arc::clone(&self.after)) });
        log.append(&mut std::vec![Write { hard_state, compaction: None, truncate_from: None, entries }])?;
        log.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Compaction, MemoryLog};

    fn log() -> MemoryLog {
        let membership = Membership::new([1, 2, 3, 4, 5_u64]).with_address(2, "two:1");
        let compaction = Compaction { snapshot: EntryId::ZERO, base: EntryId::ZERO, membership: Arc::new(membership) };
        let entry = |index: u64| Entry { id: EntryId::new(index, 3_u64), payload: Payload::Noop };
        let mut log = MemoryLog::new();
        let Ok(()) = log.append(&mut std::vec![Write {
            hard_state: Some(HardState { term: Term(4), vote: None }),
            compaction: Some(compaction),
            truncate_from: None,
            entries: (1..=7).map(entry).collect(),
        }]);
        log
    }

    #[test]
    fn the_survivors_are_what_the_log_says_then() {
        let mut log = log();
        let recovery = Recovery::plan(&log, 1, [1, 2_u64]).unwrap();
        assert_eq!(recovery.entry, EntryId::new(8, 4 + TERMS_SKIPPED));
        let recovery = recovery.with_address(2, "two:2").unwrap();
        let Ok(()) = recovery.carry_out(&mut log);
        let (index, membership) = log.memberships().later.pop().unwrap();
        assert_eq!((index, membership.to_string()), (recovery.entry.index, "voters 1 2".to_string()));
        assert_eq!(membership.address(NodeId(2)), Some("two:2"));
        assert_eq!((log.last(), log.hard_state().term), (recovery.entry, recovery.entry.term));
        let lost = [2, 3, 4, 5_u64].map(NodeId);
        // A second time is another one.
        let second = Recovery::plan(&log, 1, [1_u64]).unwrap();
        assert!(second.entry.term > recovery.entry.term);
        assert_eq!((second.history.parent(), second.history.lost()), (Some(recovery.history.id()), &lost[..]));
    }

    #[test]
    fn what_goes_on_is_a_child_of_the_history_before() {
        let mut log = log();
        let [one, other] = [1_u64, 2].map(|survivor| Recovery::plan(&log, survivor, [survivor]).unwrap());
        assert_eq!(one.entry, other.entry);
        assert_ne!(one.history.id(), other.history.id(), "though their entries are numbered alike");
        assert_eq!((one.history.since(), one.history.parent()), (one.entry, None), "an older cluster had none");
        let lost = [2, 3, 4, 5_u64].map(NodeId);
        assert_eq!((one.history.lost(), one.after.history()), (&lost[..], Some(&one.history)));
        let Ok(()) = one.carry_out(&mut log);
        assert_eq!(Recovery::plan(&log, 1, [1_u64]).unwrap().history.parent(), Some(one.history.id()));
    }

    /// The largest term is 2^62, and a recovery skipped beyond it: no log opens with what it wrote.
    #[test]
    fn a_log_whose_terms_are_used_up_is_not_recovered() {
        let plan = |term| {
            let mut log = log();
            let hard_state = Some(HardState { term: Term(term), vote: None });
            let Ok(()) = log.append(&mut std::vec![Write { hard_state, ..Write::default() }]);
            Recovery::plan(&log, 1, [1_u64]).map(|recovery| recovery.entry.term)
        };
        let last = Term::MAX.0 - TERMS_SKIPPED - 1;
        assert_eq!(plan(last), Ok(Term(Term::MAX.0 - 1)), "it can still lead");
        for term in [last + 1, Term::MAX.0] {
            assert_eq!(plan(term), Err(RecoveryError::TermsUsedUp { term: Term(term) }));
        }
    }

    #[test]
    fn what_cannot_be_recovered_is_left_alone() {
        let none = [] as [u64; 0];
        assert_eq!(Recovery::plan(&MemoryLog::new(), 1, [1_u64]), Err(RecoveryError::Empty));
        assert_eq!(Recovery::plan(&log(), 1, none), Err(RecoveryError::NotASurvivor { id: NodeId(1) }));
        assert_eq!(Recovery::plan(&log(), 1, [2_u64]), Err(RecoveryError::NotASurvivor { id: NodeId(1) }));
        let stranger = Recovery::plan(&log(), 1, [1, 9_u64]);
        assert!(matches!(stranger, Err(RecoveryError::NotAMember { server: NodeId(9), .. })), "{stranger:?}");
        let problem = Recovery::plan(&log(), 1, [1_u64]).unwrap().with_address(2, "two:2").unwrap_err();
        assert_eq!(problem.rule, "must be that of a survivor");
    }
}
