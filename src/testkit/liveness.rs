//! Whether a cluster lives once nothing goes wrong any more: soon one server leads, and all logs are equal.
//!
//! No client asks for anything meanwhile. A proposal makes a leader send, and with that it hides a follower that nothing
//! else would ever bring up to date.

use super::cluster::Cluster;
use crate::log::LogView;
use crate::protocol::Protocol;
use crate::types::NodeId;
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

/// Rounds of time (`run 1`) within which a healed cluster must come to rest: 100 minimum election timeouts.
pub const ROUNDS_MAX: usize = 1000;

/// The commands that mend everything: every way is open and every server runs.
#[must_use]
pub fn healing(cluster: &Cluster) -> Vec<String> {
    let down = cluster.ids().filter(|id| cluster.protocol(*id).is_none());
    core::iter::once("heal".to_string()).chain(down.map(|id| format!("restart {id}"))).collect()
}

/// What is still to come in a healed cluster that nobody asks for anything; `None` once it is at rest. Then one server leads,
/// each member holds its whole log, durable, committed and applied, every read has ended, and the configuration is one that changes no
/// more by itself.
#[must_use]
pub fn unsettled(cluster: &Cluster) -> Option<String> {
    let Some(leader) = cluster.leader().and_then(|leader| cluster.protocol(leader)) else {
        return Some("no server leads".to_string());
    };
    let (_, membership) = leader.committed_membership();
    let id = leader.id();
    if leader.membership() != membership || membership.is_joint() || !membership.promoting().is_empty() {
        return Some(format!("node {id} has not ended a change of the configuration: {:?}", leader.membership()));
    }
    if !membership.is_voter(id) {
        return Some(format!("node {id} leads without a vote"));
    }
    let behind = membership.members().into_iter().find_map(|member| behind(cluster, leader, member));
    behind.or_else(|| cluster.ids().find_map(|id| waiting_read(cluster, id)))
}

/// What a member lacks of its leader's log.
fn behind(cluster: &Cluster, leader: &Protocol, member: NodeId) -> Option<String> {
    let last = leader.last();
    let lacks =
        |what: &str| Some(format!("node {member} has not {what} {last}, the last entry of node {}", leader.id()));
    let (Some(server), Some(disk)) = (cluster.protocol(member), cluster.disk(member)) else {
        return Some(format!("node {member} is down"));
    };
    if server.last() != last || LogView::last(disk) != last {
        return lacks("stored");
    }
    if server.commit_index() != last.index {
        return lacks("learned of the commit of");
    }
    if cluster.applied(member) != Some(last.index) {
        return lacks("applied");
    }
    let same = server.committed_membership().1 == leader.committed_membership().1;
    (!same).then(|| format!("node {member} goes by another configuration"))
}

fn waiting_read(cluster: &Cluster, id: NodeId) -> Option<String> {
    let state = cluster.protocol(id)?.state();
    let waits = !state.reads.is_empty() || !state.follower_reads.is_empty();
    waits.then(|| format!("a read at node {id} has no answer"))
}
