//! Which history the log belongs to: how it gets one, and when that is settled.
//!
//! No part of the dissertation, in which there is one cluster; of the spec neither, whose states hold no random bits. The
//! first leader of an empty log names the history in its first entry, in the place of the no-op: the configuration that is in
//! force anyway, with the identity. So followers, snapshots and checkpoints get it with the configuration, and a truncation
//! takes an uncommitted one back. Once that entry is committed the history is settled, and the oldest configuration that
//! this server remembers says so too: from then on a compaction keeps it.

use super::Protocol;
use crate::action::ActionSink;
use crate::history::History;
use crate::membership::Membership;
use crate::types::{EntryId, Payload};
use alloc::sync::Arc;

impl Protocol {
    /// The first entry of an empty log, if this server has an identity for the history that begins with it.
    pub(super) fn found_history(&mut self, since: EntryId, actions: &mut impl ActionSink) -> Option<Payload> {
        let id = self.settings.history?;
        let present = self.membership();
        if self.tail.last() != EntryId::ZERO || present.history().is_some() {
            return None;
        }
        let membership = Arc::new(present.with_history(Arc::new(History::new(id, since))));
        // The largest configurations leave no room for it. Such a cluster has no history, as before there were any.
        if membership.encoded_len() > Membership::ENCODED_BYTES_MAX {
            return None;
        }
        self.configurations.push(since.index, Arc::clone(&membership));
        self.report_membership(actions);
        Some(Payload::Membership(membership))
    }

    /// The history that this log is known to belong to: an entry that is committed brought it, or the snapshot did.
    #[inline]
    #[must_use]
    pub const fn history(&self) -> Option<&Arc<History>> {
        self.configurations.history()
    }

    /// What is committed may have brought a history.
    #[inline]
    pub(super) fn advance_history(&mut self) {
        if self.configurations.history_due() <= self.commit_index {
            self.configurations.settle_history(self.commit_index);
        }
    }
}
