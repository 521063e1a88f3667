//! What can happen to the disks of a cluster: crashes, wipes, and copies that are put back.

use super::{Cluster, State};
use crate::facts::Facts;
use crate::tables::{Code, Copies, ServerId};

impl Cluster {
    /// Whether a server that belonged to nobody at first was removed, and has something on its disk that may be wiped.
    fn may_be_wiped(&self, copies: &Copies, state: &State, facts: &Facts) -> bool {
        let joined = self.initial.members() & 1 << facts.position == 0;
        let is_removed = |&id: &ServerId| copies.facts(id).has_removed(facts.position);
        joined && facts.holds_something() && self.present(state).iter().any(is_removed)
    }

    /// What can happen to a server's disk, whatever the server does.
    pub(super) fn disk_codes(&self, copies: &Copies, facts: &Facts, state: &State, mut offer: impl FnMut(Code)) {
        let configuration = &self.configuration;
        if state.crashes < configuration.crashes_max {
            (0..=facts.pending).for_each(|survive| offer(Code::Crash(survive)));
        }
        if state.losses < configuration.wipes_max && self.may_be_wiped(copies, state, facts) {
            offer(Code::Wipe);
        }
        let (restorable, lost) = (configuration.is_restorable(facts.position), facts.lost);
        if restorable && !facts.rolled_back && !facts.has_backup && !lost {
            offer(Code::BackUp);
        }
        if facts.may_roll_back {
            offer(Code::RollBack);
        }
    }
}
