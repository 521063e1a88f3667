//! Answers about this node and its cluster.

use super::command::Local;
use super::connection::Session;
use super::members::{self, cluster_info, node_name, nodes, shards, slots};
use super::node::Server;
use super::options::Settings;
use super::resp::{self, Request};
use raft_io::RoleKind;
use raft_io::driver::{FetchStatus, LeadershipTransferError, NodeRole, Status};
use raft_io::error::TransferError;
use std::fmt::Write as _;

/// How many hash slots a Redis cluster has. All of them belong to the leader.
pub(crate) const SLOTS: u16 = 16384;

/// Answers a local command.
pub(crate) fn answer(server: &Server, session: &mut Session, local: Local, request: &Request<'_>, out: &mut Vec<u8>) {
    match local {
        Local::Ping if server.why_stopped().is_some() => {
            resp::write_error(out, server.why_stopped().unwrap_or_default());
        }
        Local::Ping if request.len() > 1 => resp::write_bulk(out, request.get(1)),
        Local::Ping => resp::write_simple(out, "PONG"),
        Local::Echo => resp::write_bulk(out, request.get(1)),
        Local::Hello => hello(server, request, out),
        Local::Select if request.get(1) == b"0" => resp::write_simple(out, "OK"),
        Local::Select => resp::write_error(out, "ERR DB index is out of range: there is one database, 0"),
        Local::Client => client(session, request, out),
        Local::Quit => {
            session.closing = true;
            resp::write_simple(out, "OK");
        }
        Local::Command => resp::write_array(out, 0),
        Local::Config => config(request, out),
        Local::Info => resp::write_bulk(out, info(server, request.get(1)).as_bytes()),
        Local::RaftStatus => raft_status(server, out),
        Local::RaftMembers => members::list(server, out),
        Local::RaftChange(change) => members::change(server, change, request, out),
        Local::RaftTransfer => raft_transfer(server, request.get(1), out),
        Local::RaftSnapshot => snapshot(server, out),
        // Streamed by the connection, which takes the request if it is one.
        Local::RaftBackup => resp::write_error(out, "ERR RAFT.BACKUP takes nothing, or STALE"),
        Local::Cluster => cluster(server, request, out),
        Local::ReadOnly | Local::ReadWrite => {
            session.stale_reads = local == Local::ReadOnly;
            resp::write_simple(out, "OK");
        }
    }
}

fn hello(server: &Server, request: &Request<'_>, out: &mut Vec<u8>) {
    if request.len() > 1 && request.get(1) != b"2" {
        return resp::write_error(out, "NOPROTO unsupported protocol version: this server speaks RESP2");
    }
    let fields = [
        ("server", "raft-io-kv"),
        ("version", env!("CARGO_PKG_VERSION")),
        ("proto", "2"),
        ("mode", "cluster"),
        ("role", redis_role(server.raft.status().role)),
    ];
    resp::write_array(out, fields.len() * 2);
    for (name, value) in fields {
        resp::write_bulk(out, name.as_bytes());
        match value.parse() {
            Ok(number) if name == "proto" => resp::write_integer(out, number),
            _ => resp::write_bulk(out, value.as_bytes()),
        }
    }
}

fn client(session: &Session, request: &Request<'_>, out: &mut Vec<u8>) {
    match request.get(1).to_ascii_lowercase().as_slice() {
        b"id" => resp::write_integer(out, session.id as i64),
        b"getname" => resp::write_bulk(out, b""),
        b"list" | b"info" => resp::write_bulk(out, format!("id={}\n", session.id).as_bytes()),
        _ => resp::write_simple(out, "OK"),
    }
}

/// The two parameters that redis-benchmark asks for, as they truly are: no dumps, and a log.
fn config(request: &Request<'_>, out: &mut Vec<u8>) {
    if !request.get(1).eq_ignore_ascii_case(b"get") {
        return resp::write_error(out, "ERR only CONFIG GET is supported");
    }
    let known = [("save", ""), ("appendonly", "yes")];
    let asked = |name: &str| request.from(2).any(|pattern| pattern.eq_ignore_ascii_case(name.as_bytes()));
    let found: Vec<_> = known.into_iter().filter(|(name, _)| asked(name)).collect();
    resp::write_array(out, found.len() * 2);
    for (name, value) in found {
        resp::write_bulk(out, name.as_bytes());
        resp::write_bulk(out, value.as_bytes());
    }
}

fn redis_role(role: NodeRole) -> &'static str {
    match role {
        NodeRole::Leader => "master",
        NodeRole::Stopped => "stopped",
        _ => "slave",
    }
}

/// Takes a snapshot of this node's state now, leader or not, and waits until the log begins with it.
pub(crate) fn snapshot(server: &Server, out: &mut Vec<u8>) {
    match server.raft.snapshot().wait(server.settings.result_wait) {
        Ok(info) => {
            resp::write_simple(out, &format!("OK up to entry {} in {} bytes", info.last, info.bytes));
        }
        Err(error) => resp::write_error(out, &format!("ERR {error}")),
    }
}

/// The text of INFO, whole or one section.
fn info(server: &Server, section: &[u8]) -> String {
    let wanted = |name: &str| {
        section.is_empty()
            || ["all", "everything", "default", name].iter().any(|word| section.eq_ignore_ascii_case(word.as_bytes()))
    };
    let mut text = String::new();
    // Writing to a String cannot fail.
    if wanted("server") {
        let _ = write!(
            text,
            "# Server\r\nserver_name:raft-io-kv\r\nredis_version:{version}\r\nredis_mode:cluster\r\n\
             process_id:{pid}\r\ntcp_port:{port}\r\nuptime_in_seconds:{uptime}\r\n\r\n",
            version = env!("CARGO_PKG_VERSION"),
            pid = std::process::id(),
            port = Settings::split_address(&server.settings.advertised).1,
            uptime = server.started.elapsed().as_secs(),
        );
    }
    if wanted("clients") {
        let _ = write!(
            text,
            "# Clients\r\nconnected_clients:{}\r\nmaxclients:{}\r\n\r\n",
            server.places.taken(),
            server.places.clients_max()
        );
    }
    if wanted("replication") {
        replication(server, &mut text);
    }
    if wanted("persistence") {
        persistence(server, &mut text);
    }
    if wanted("cluster") {
        text.push_str("# Cluster\r\ncluster_enabled:1\r\n");
    }
    text
}

fn persistence(server: &Server, text: &mut String) {
    let Status { snapshot, counters, first_index, .. } = server.raft.status();
    let _ = write!(
        text,
        "# Persistence\r\nraft_first_index:{first_index}\r\nraft_snapshot_index:{}\r\nraft_snapshot_bytes:{}\r\n\
         raft_snapshot_in_progress:{}\r\nraft_snapshots_taken:{}\r\nraft_snapshots_fetched:{}\r\n\r\n",
        snapshot.last.map_or(0, |last| last.index.0),
        snapshot.bytes.unwrap_or(0),
        u8::from(snapshot.taking.is_some()),
        counters.snapshots_taken,
        counters.snapshots_fetched,
    );
}

fn replication(server: &Server, text: &mut String) {
    let status = server.raft.status();
    let _ = write!(text, "# Replication\r\nrole:{}\r\n", redis_role(status.role));
    if status.role == RoleKind::Leader {
        let active = status.peers.iter().filter(|peer| peer.active).count();
        let _ = write!(text, "connected_slaves:{active}\r\n");
        for (position, peer) in status.peers.iter().enumerate() {
            let address = server.address_of(peer.id).unwrap_or_default();
            let (host, port) = Settings::split_address(&address);
            let state = if peer.active { "online" } else { "wait" };
            let offset = peer.match_index;
            let _ = write!(text, "slave{position}:ip={host},port={port},state={state},offset={offset},lag=0\r\n");
        }
    } else {
        let leader = status.leader.as_ref().and_then(|leader| leader.client_address.clone());
        let (host, port) = leader.as_deref().map_or(("", 0), Settings::split_address);
        let link = if leader.is_some() { "up" } else { "down" };
        let _ = write!(text, "master_host:{host}\r\nmaster_port:{port}\r\nmaster_link_status:{link}\r\n");
    }
    let _ = write!(
        text,
        "raft_stopped:{}\r\nmaster_repl_offset:{}\r\nraft_id:{}\r\nraft_role:{}\r\nraft_term:{}\r\nraft_leader:{}\r\n\
         raft_commit_index:{}\r\nraft_applied_index:{}\r\nraft_last_index:{}\r\n\r\n",
        status.stopped.as_ref().map_or("no".into(), |reason| reason.to_string().replace(['\r', '\n'], " ")),
        status.commit_index,
        status.id,
        status.role.name(),
        status.term,
        status.leader.as_ref().map_or("none".into(), |leader| leader.id.to_string()),
        status.commit_index,
        status.applied_index,
        status.last_index,
    );
}

/// Names and values, as HGETALL would give them. Position and hashes belong to one moment.
fn raft_status(server: &Server, out: &mut Vec<u8>) {
    let status = server.raft.status();
    let print = server.raft.stale_read(super::store::Store::fingerprint);
    let text = |text: String| Field::Text(text);
    let number = |number: u64| Field::Number(number as i64);
    let leader = status.leader.as_ref();
    let mut fields = vec![
        ("id", number(status.id.0)),
        ("role", text(status.role.name().into())),
        ("term", number(status.term.0)),
        ("leader", leader.map_or(text("none".into()), |leader| number(leader.id.0))),
        ("transfer_target", status.transfer_target.map_or(text("none".into()), |target| number(target.0))),
        ("leader_address", text(leader_address(server, &status).unwrap_or_default())),
        ("members", text(status.membership.in_force.to_string())),
        ("members_index", number(status.membership.index.0)),
        ("members_committed", text(if status.membership.is_committed { "yes" } else { "no" }.into())),
        ("part", text(status.membership.part.name().into())),
        ("members_waiting_for", text(status.membership.waiting_for.map_or("none".into(), |why| why.to_string()))),
        ("members_overruled", text(status.membership.overruled.as_ref().map_or("none".into(), |of| of.to_string()))),
        ("history", text(status.history.map_or("none".into(), |history| history.to_string()))),
        ("first_index", number(status.first_index.0)),
        ("last_index", number(status.last_index.0)),
        ("durable_index", number(status.durable_index.0)),
        ("commit_index", number(status.commit_index.0)),
        ("applied_index", number(status.applied_index.0)),
        ("snapshot", text(status.snapshot.last.map_or("none".into(), |last| last.to_string()))),
        ("snapshot_bytes", number(status.snapshot.bytes.unwrap_or(0))),
        ("snapshot_taking", text(status.snapshot.taking.map_or("none".into(), |last| last.to_string()))),
        ("snapshot_fetching", text(status.snapshot.fetching.map_or("none".into(), |fetch| fetching(&fetch)))),
        ("snapshots_taken", number(status.counters.snapshots_taken)),
        ("snapshots_fetched", number(status.counters.snapshots_fetched)),
        ("backups", number(status.snapshot.backups as u64)),
        ("backups_given_up", number(status.counters.backups_given_up)),
        ("snapshot_error", text(status.snapshot.last_error.clone().unwrap_or_default())),
        ("open_proposals", number(status.open_proposals as u64)),
        ("open_reads", number(status.open_reads as u64)),
        ("connections", number(server.places.taken() as u64)),
        ("request_bytes", number(server.request_bytes() as u64)),
        ("reply_bytes", number(server.replies.taken() as u64)),
    ];
    match print {
        Ok(print) => fields.extend([
            ("keys", number(print.keys as u64)),
            ("sessions", number(print.sessions as u64)),
            ("hash_index", number(print.applied.index.0)),
            ("state_hash", text(format!("{:032x}", print.state))),
            ("history_hash", text(format!("{:032x}", print.history))),
        ]),
        Err(error) => fields.push(("state_machine", text(error.to_string()))),
    }
    fields.push(("fatal", text(status.fatal.unwrap_or_default())));
    write_fields(out, fields);
}

/// Names and values in turn.
pub(crate) fn write_fields(out: &mut Vec<u8>, fields: Vec<(&str, Field)>) {
    resp::write_array(out, fields.len() * 2);
    for (name, value) in fields {
        resp::write_bulk(out, name.as_bytes());
        match value {
            Field::Text(text) => resp::write_bulk(out, text.as_bytes()),
            Field::Number(number) => resp::write_integer(out, number),
        }
    }
}

/// Has another node lead, and answers once it does. Whoever waits for a write meanwhile goes on waiting.
fn raft_transfer(server: &Server, target: &[u8], out: &mut Vec<u8>) {
    let Some(target) = std::str::from_utf8(target).ok().and_then(|text| text.parse::<u64>().ok()) else {
        return resp::write_error(out, "ERR RAFT.TRANSFER takes the id of the node that is to lead");
    };
    match server.raft.transfer_leadership(target).wait(server.settings.result_wait) {
        Ok(_) => resp::write_simple(out, "OK"),
        Err(error) => {
            let code = match &error {
                LeadershipTransferError::NotLeader { .. } => "NOTLEADER",
                LeadershipTransferError::Refused(TransferError::NotAVoter { .. }) => "ERR",
                LeadershipTransferError::Refused(_) | LeadershipTransferError::TimedOut { .. } => "TRYAGAIN",
                LeadershipTransferError::OtherLeader { .. } => "ERR",
                _ => "UNKNOWN",
            };
            resp::write_error(out, &format!("{code} {error}"));
        }
    }
}

fn fetching(fetch: &FetchStatus) -> String {
    let total = fetch.total_bytes.map_or("?".into(), |total| total.to_string());
    format!("{} from {}: {} of {total} bytes", fetch.last, fetch.from, fetch.bytes)
}

pub(crate) enum Field {
    Text(String),
    Number(i64),
}

impl From<&str> for Field {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<u64> for Field {
    fn from(number: u64) -> Self {
        Self::Number(number as i64)
    }
}

fn leader_address(server: &Server, status: &Status) -> Option<String> {
    server.address_of(status.leader.as_ref()?.id)
}

fn cluster(server: &Server, request: &Request<'_>, out: &mut Vec<u8>) {
    match request.get(1).to_ascii_lowercase().as_slice() {
        b"slots" => slots(server, out),
        b"shards" => shards(server, out),
        b"nodes" => resp::write_bulk(out, nodes(server).as_bytes()),
        b"info" => resp::write_bulk(out, cluster_info(server).as_bytes()),
        b"myid" => resp::write_bulk(out, node_name(server.raft.id()).as_bytes()),
        b"keyslot" if request.len() == 3 => resp::write_integer(out, slot(request.get(2)).into()),
        b"keyslot" => resp::write_error(out, "ERR wrong number of arguments for 'cluster|keyslot' command"),
        _ => resp::write_error(out, "ERR CLUSTER knows SLOTS, SHARDS, NODES, INFO, MYID and KEYSLOT"),
    }
}

/// The hash slot of a key: CRC-16/XMODEM of its hash tag, as the Redis cluster specification has it.
pub(crate) fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|byte| *byte == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    let crc = tag.unwrap_or(key).iter().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| if crc & 0x8000 != 0 { crc << 1 ^ 0x1021 } else { crc << 1 })
    });
    crc % SLOTS
}
