//! Nodes come and go under load.

use crate::stage::{Stage, milliseconds};
use std::time::Duration;

/// How long the clients of a node that is to end have to go elsewhere.
const FAREWELL: Duration = Duration::from_millis(200);

/// Two nodes are added.
pub(crate) fn grow(stage: &mut Stage) -> Result<(), String> {
    let began = stage.now();
    let before = stage.nodes.serving().len();
    for _ in 0..2 {
        let (node, members) = add(stage)?;
        let text = format!("node {} has a vote: {members}", node + 1);
        stage.mark("caught", format!("node {} joined", node + 1), &text);
    }
    let after = stage.nodes.serving().len();
    let took = stage.now() - began;
    stage.figure("3 → 5 members", milliseconds(took), "started, added, caught up, with votes".into());
    stage.end_phase("3 → 5 members", began);
    if after != before + 2 { Err(format!("{after} members instead of {}", before + 2)) } else { Ok(()) }
}

/// Starts a node under a new id, and gives it a vote.
fn add(stage: &mut Stage) -> Result<(usize, String), String> {
    let node = stage.nodes.join().map_err(|error| error.to_string())?;
    let up = stage.await_some("a node starts", |nodes| nodes.status(node).map(drop));
    up.ok_or_else(|| format!("node {} does not answer; see {}", node + 1, stage.nodes.log_path(node).display()))?;
    let (id, address) = ((node + 1).to_string(), stage.nodes.peer_address(node));
    let members = stage.ask_leader(&["RAFT.ADD", &id, &address])?;
    stage.nodes.set_serving(node, true);
    stage.load.call_home();
    Ok((node, members))
}

/// Two nodes are removed: the leader, and one that does not lead then.
pub(crate) fn shrink(stage: &mut Stage) -> Result<(), String> {
    let began = stage.now();
    let mut members = String::new();
    for leads in [true, false] {
        let (leader, _) = stage.leader()?;
        let follower = stage.nodes.serving().into_iter().find(|node| *node != leader);
        let node = if leads { leader } else { follower.ok_or("there is nobody left to remove")? };
        members = stage.ask_leader(&["RAFT.REMOVE", &(node + 1).to_string()])?;
        let role = if leads { ", the leader," } else { "" };
        let text = format!("node {}{role} is removed: {members}", node + 1);
        stage.mark("restart", format!("node {} removed", node + 1), &text);
        stage.nodes.set_serving(node, false);
        stage.load.call_home();
        stage.keep_loading("a node leaves", FAREWELL)?;
        stage.nodes.stop(node).map_err(|error| error.to_string())?;
    }
    let took = stage.now() - began;
    stage.figure("5 → 3 members", milliseconds(took), "the leader is one that leaves".into());
    let serving = stage.nodes.serving().len();
    stage.check("members 3 → 5 → 3", serving == 3, format!("under load, the leader removed too; at last {members}"));
    stage.end_phase("5 → 3 members", began);
    Ok(())
}

/// A follower loses its data. Under its old id nobody lets it in; under a new one it is back through a snapshot.
/// `docs/RECOVERY.md`, "A server lost its data".
pub(crate) fn replace_wiped(stage: &mut Stage) -> Result<(), String> {
    let (leader, _) = stage.leader()?;
    let victim = stage.nodes.serving().into_iter().find(|node| *node != leader).ok_or("there is no follower")?;
    let id = (victim + 1).to_string();
    stage.nodes.kill(victim).map_err(|error| error.to_string())?;
    stage.nodes.set_serving(victim, false);
    stage.nodes.wipe(victim).map_err(|error| error.to_string())?;
    let text = format!("SIGKILL to node {id}, a follower, and its directory is deleted");
    let began = stage.mark("kill", format!("node {id} wiped"), &text);
    stage.nodes.restart(victim).map_err(|error| error.to_string())?;
    let watched: Vec<_> = stage.nodes.serving().into_iter().chain([victim]).collect();
    let refusal = stage.await_some("a wiped node knocks", |nodes| {
        watched.iter().find_map(|node| {
            let log = std::fs::read_to_string(nodes.log_path(*node)).ok()?;
            let refuses = |line: &&str| {
                line.contains("data directory") && (line.contains("wiped") || line.contains("older copy"))
            };
            log.lines().find(refuses).map(str::to_owned)
        })
    });
    let refusal = refusal.ok_or_else(|| format!("nobody refuses node {id}, which comes back without its data"))?;
    stage.screen.say(&format!("it is refused under its old id. {refusal}"));
    let knows = stage.nodes.status(victim).map_or(0, |status| status.applied_index);
    stage.nodes.kill(victim).map_err(|error| error.to_string())?;
    let members = stage.ask_leader(&["RAFT.REMOVE", &id])?;
    stage.screen.say(&format!("node {id} is removed: {members}"));
    let (node, members) = add(stage)?;
    stage.wait_caught_up(node)?;
    let fetched = stage.nodes.status(node).map_or(0, |status| status.snapshots_fetched);
    let took = stage.now() - began;
    let text = format!("it is back as node {}, through a snapshot: {members}", node + 1);
    stage.mark("caught", format!("back as node {}", node + 1), &text);
    stage.figure("wiped to replaced", milliseconds(took), format!("snapshots fetched: {fetched}"));
    let detail = format!("refused as node {id}, back as node {} through a snapshot: {members}", node + 1);
    let detail = if fetched > 0 { detail } else { format!("node {} came without a snapshot", node + 1) };
    stage.check("wiped follower replaced", fetched > 0 && knows == 0, detail);
    stage.end_phase("a wiped follower", began);
    Ok(())
}
