//! Who belongs to the cluster: changing it, and telling clients.

use super::admin::{SLOTS, write_fields};
use super::node::Server;
use super::options::{Settings, check_address};
use super::resp::{self, Request};
use raft_io::driver::{LeaderHint, MembershipChange, MembershipChangeError as Error, Status};
use raft_io::error::ChangeError;
use raft_io::{Membership, NodeId};
use std::fmt::Write as _;

/// The commands that change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Add,
    Promote,
    Demote,
    Remove,
    Address,
}

/// Changes the membership and answers once that is committed.
pub(crate) fn change(server: &Server, change: Change, request: &Request<'_>, out: &mut Vec<u8>) {
    match begin(server, change, request) {
        Ok(begun) => match begun.wait() {
            Ok(membership) => resp::write_simple(out, &format!("OK {membership}")),
            Err(error) => resp::write_error(out, &explain(&error)),
        },
        Err(message) => resp::write_error(out, &message),
    }
}

fn begin(server: &Server, change: Change, request: &Request<'_>) -> Result<MembershipChange, String> {
    let id = text(request, 1).and_then(|text| text.parse::<u64>().ok());
    let id = id.ok_or("ERR the first argument is the id of a node, a number from 0 on")?;
    let (raft, timeout) = (&server.raft, server.settings.result_wait);
    let address = || {
        let address = text(request, 2).unwrap_or_default();
        let checked = check_address(address, false);
        checked.map_err(|reason| {
            format!("ERR {}: {reason}; name the node's --peer-listen", request.get(2).escape_ascii())
        })?;
        Ok::<_, String>(address)
    };
    Ok(match change {
        Change::Add if request.len() == 3 => raft.add_voter(id, address()?, timeout),
        Change::Add if request.get(3).eq_ignore_ascii_case(b"learner") && request.len() == 4 => {
            raft.add_learner(id, address()?, timeout)
        }
        Change::Add => return Err("ERR RAFT.ADD takes an id, an address and perhaps LEARNER".into()),
        Change::Promote => raft.promote(id, timeout),
        Change::Demote => raft.demote(id, timeout),
        Change::Remove => raft.remove(id, timeout),
        Change::Address => raft.set_address(id, address()?, timeout),
    })
}

fn text<'a>(request: &Request<'a>, at: usize) -> Option<&'a str> {
    std::str::from_utf8(request.get(at)).ok()
}

/// The first word tells an operator what to do next, the rest why.
fn explain(error: &Error) -> String {
    match error {
        Error::NotLeader { leader: Some(LeaderHint { client_address: Some(_), .. }), .. } => {
            format!("NOTLEADER {error}; nothing changed, send it there")
        }
        Error::NotLeader { .. } => format!("NOTLEADER {error}; nothing changed, try again in a moment"),
        Error::Refused(ChangeError::NotALearner { server }) => {
            format!("ERR node {server} is not a learner; RAFT.ADD it first")
        }
        Error::NotAMember { server } => format!("ERR node {server} is not a member; RAFT.ADD it first"),
        Error::IsVoter { server } => format!("ERR node {server} has a vote; RAFT.DEMOTE makes it a learner"),
        Error::VotePending { server, .. } => {
            format!("PENDING {error}: start it if it is down, or RAFT.REMOVE {server}")
        }
        Error::DeadlineExceeded { appended: None, .. } => format!("TRYAGAIN {error}"),
        Error::DeadlineExceeded { .. } | Error::OutcomeUnknown { .. } => {
            format!("UNKNOWN {error}; look at RAFT.MEMBERS, or send it again, which is safe")
        }
        Error::Overloaded { .. } => format!("BUSY {error}"),
        Error::Shutdown | Error::Fatal { .. } => format!("CLUSTERDOWN {error}"),
        _ => format!("ERR {error}"),
    }
}

/// What a server is, in one word.
fn part(membership: &Membership, id: NodeId) -> &'static str {
    match (membership.is_joint(), membership.voters().contains(&id), membership.outgoing().contains(&id)) {
        (true, true, false) => "incoming",
        (true, false, true) => "outgoing",
        (_, true, _) | (_, _, true) => "voter",
        _ if membership.promoting().contains(&id) => "promoting",
        _ => "learner",
    }
}

/// Each member as RAFT.STATUS gives a node: names and values.
pub(crate) fn list(server: &Server, out: &mut Vec<u8>) {
    let status = server.raft.status();
    let membership = &status.membership.in_force;
    let members = membership.members();
    resp::write_array(out, members.len());
    for id in members {
        let progress = status.peers.iter().find(|peer| peer.id == id);
        let held = if id == status.id { Some(status.durable_index) } else { progress.map(|peer| peer.match_index) };
        let leads = status.leader.as_ref().is_some_and(|leader| leader.id == id);
        // Only the leader knows.
        let online = progress.map(|peer| if peer.active { "yes" } else { "no" });
        let online = online.unwrap_or(if id == status.id { "yes" } else { "unknown" });
        write_fields(
            out,
            vec![
                ("id", id.0.into()),
                ("part", part(membership, id).into()),
                ("leads", if leads { "yes" } else { "no" }.into()),
                ("address", membership.address(id).unwrap_or_default().into()),
                ("client_address", server.address_of(id).unwrap_or_default().as_str().into()),
                ("online", online.into()),
                ("match_index", held.map_or("unknown".into(), |index| index.0.into())),
            ],
        );
    }
}

/// The leader first, then the other members; those whose client address is not known yet are left out.
fn reachable(server: &Server, status: &Status) -> Option<Vec<(NodeId, String)>> {
    let leader = status.leader.as_ref()?.id;
    let mut members = vec![(leader, server.address_of(leader)?)];
    let others = status.membership.in_force.members().into_iter().filter(|id| *id != leader);
    members.extend(others.filter_map(|id| Some((id, server.address_of(id)?))));
    Some(members)
}

/// A node's name as cluster clients expect it: forty hexadecimal digits.
pub(crate) fn node_name(id: NodeId) -> String {
    format!("{:040x}", id.0)
}

pub(crate) fn slots(server: &Server, out: &mut Vec<u8>) {
    let Some(members) = reachable(server, &server.raft.status()) else { return resp::write_array(out, 0) };
    resp::write_array(out, 1);
    resp::write_array(out, 2 + members.len());
    resp::write_integer(out, 0);
    resp::write_integer(out, i64::from(SLOTS) - 1);
    for (id, address) in members {
        let (host, port) = Settings::split_address(&address);
        resp::write_array(out, 3);
        resp::write_bulk(out, host.as_bytes());
        resp::write_integer(out, port);
        resp::write_bulk(out, node_name(id).as_bytes());
    }
}

pub(crate) fn shards(server: &Server, out: &mut Vec<u8>) {
    let Some(members) = reachable(server, &server.raft.status()) else { return resp::write_array(out, 0) };
    resp::write_array(out, 1);
    resp::write_array(out, 4);
    resp::write_bulk(out, b"slots");
    resp::write_array(out, 2);
    resp::write_integer(out, 0);
    resp::write_integer(out, i64::from(SLOTS) - 1);
    resp::write_bulk(out, b"nodes");
    resp::write_array(out, members.len());
    for (position, (id, address)) in members.iter().enumerate() {
        let (host, port) = Settings::split_address(address);
        let role = if position == 0 { "master" } else { "replica" };
        let texts = [("id", node_name(*id)), ("ip", host.into()), ("endpoint", host.into()), ("role", role.into())];
        resp::write_array(out, 2 * texts.len() + 4);
        for (name, value) in texts {
            resp::write_bulk(out, name.as_bytes());
            resp::write_bulk(out, value.as_bytes());
        }
        resp::write_bulk(out, b"port");
        resp::write_integer(out, port);
        resp::write_bulk(out, b"health");
        resp::write_bulk(out, b"online");
    }
}

pub(crate) fn nodes(server: &Server) -> String {
    let status = server.raft.status();
    let mut text = String::new();
    for (position, (id, address)) in reachable(server, &status).unwrap_or_default().into_iter().enumerate() {
        let (host, port) = Settings::split_address(&address);
        let myself = if id == status.id { "myself," } else { "" };
        let leader = node_name(status.leader.as_ref().map_or(id, |leader| leader.id));
        let (role, master, slots) =
            if position == 0 { ("master", "-", " 0-16383") } else { ("slave", leader.as_str(), "") };
        let term = status.term;
        let _ = writeln!(
            text,
            "{} {host}:{port}@{port} {myself}{role} {master} 0 0 {term} connected{slots}",
            node_name(id)
        );
    }
    text
}

pub(crate) fn cluster_info(server: &Server) -> String {
    let status = server.raft.status();
    let (state, slots) = if status.leader.is_some() { ("ok", SLOTS) } else { ("fail", 0) };
    format!(
        "cluster_state:{state}\r\ncluster_slots_assigned:{slots}\r\ncluster_slots_ok:{slots}\r\n\
         cluster_slots_pfail:0\r\ncluster_slots_fail:0\r\ncluster_known_nodes:{}\r\ncluster_size:1\r\n\
         cluster_current_epoch:{}\r\ncluster_my_epoch:{}\r\n",
        status.membership.in_force.members().len(),
        status.term,
        status.term
    )
}
