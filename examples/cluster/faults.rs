//! What goes wrong while the members stay the same: a killed leader, an isolated leader, restarts.

use crate::stage::{Stage, milliseconds};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// SIGKILL to the leader; the others elect one.
pub(crate) fn kill_leader(stage: &mut Stage) -> Result<(), String> {
    let (victim, old_term) = stage.nodes.leader().ok_or("no node leads just before the kill")?;
    stage.events.killed_node = victim;
    stage.events.killed = stage.now();
    stage.nodes.kill(victim).map_err(|error| error.to_string())?;
    stage.events.gone = stage.now();
    stage.screen.say(&format!("SIGKILL to node {}, the leader of term {old_term}", victim + 1));
    let (node, term) = await_leader_beyond(stage, victim, old_term).ok_or("the survivors elect no leader")?;
    stage.events.new_leader = stage.now();
    stage.events.new_leader_node = node;
    let after = milliseconds(stage.events.new_leader - stage.events.killed);
    stage.screen.say(&format!("node {} leads term {term}, {after} after the kill", node + 1));
    Ok(())
}

/// Another node that leads a later term.
fn await_leader_beyond(stage: &mut Stage, old: usize, old_term: u64) -> Option<(usize, u64)> {
    let others: Vec<usize> = stage.nodes.serving().into_iter().filter(|node| *node != old).collect();
    let mut watching: Vec<_> = others.into_iter().map(|node| (node, None)).collect();
    stage.await_some("no leader", |nodes| {
        watching.iter_mut().find_map(|(node, client)| {
            if client.is_none() {
                *client = crate::client::Client::connect(nodes.port(*node)).ok();
            }
            let status = client.as_mut()?.status()?;
            (status.leads && status.term > old_term).then_some((*node, status.term))
        })
    })
}

/// The killed node comes back with its log.
pub(crate) fn restart_killed(stage: &mut Stage) -> Result<(), String> {
    let node = stage.events.killed_node;
    stage.nodes.restart(node).map_err(|error| error.to_string())?;
    stage.events.restarted = stage.now();
    stage.screen.say(&format!("node {} restarts from its log", node + 1));
    stage.events.lag = stage.wait_caught_up(node)?;
    stage.events.caught_up = stage.now();
    stage.load.call_home();
    let after = milliseconds(stage.events.caught_up - stage.events.restarted);
    stage.screen.say(&format!("node {} has caught up, {after} after its restart", node + 1));
    Ok(())
}

/// The leader is cut off from the others, not from its clients: it must step down, and not answer from the past.
pub(crate) fn isolate_leader(stage: &mut Stage, pause: Duration) -> Result<(), String> {
    let (old, old_term) = stage.leader()?;
    stage.nodes.isolate(old);
    let text = format!("node {}, the leader of term {old_term}, is cut off from the others", old + 1);
    let cut = stage.mark("kill", format!("node {} cut off", old + 1), &text);
    let found = await_leader_beyond(stage, old, old_term);
    let (leader, term) = found.ok_or("the majority elects no leader when its leader is cut off")?;
    let elected = stage.now() - cut;
    let text = format!("node {} leads term {term}, {} after the cut", leader + 1, milliseconds(elected));
    stage.mark("leader", format!("node {} leads", leader + 1), &text);
    let down = stage.await_some("an isolated leader", |nodes| (!nodes.status(old)?.leads).then_some(()));
    down.ok_or("the isolated leader does not step down")?;
    let stepped_down = stage.now() - cut;
    let isolated_commit = stage.nodes.status(old).map_or(0, |status| status.commit_index);
    stage.screen.say(&format!("node {} has stepped down, {} after the cut", old + 1, milliseconds(stepped_down)));
    let before = stage.load.shared.completed.load(Relaxed);
    stage.keep_loading("the leader is cut off", pause)?;
    let answered = stage.load.shared.completed.load(Relaxed) - before;
    let still = stage.nodes.status(old).ok_or("the isolated node does not answer")?;
    let frozen = still.commit_index == isolated_commit && !still.leads;
    stage.nodes.heal(old);
    let healed = stage.mark("restart", "healed".into(), &format!("node {} is connected again", old + 1));
    stage.wait_caught_up(old)?;
    stage.load.call_home();
    let rejoined = stage.now() - healed;
    let text = format!("node {} has caught up, {} after that", old + 1, milliseconds(rejoined));
    stage.mark("caught", "caught up".into(), &text);
    stage.figure("cut to new leader", milliseconds(elected), String::new());
    stage.figure("cut to old leader's end", milliseconds(stepped_down), "it steps down by itself".into());
    stage.figure("healed to caught up", milliseconds(rejoined), String::new());
    stage.check(
        "partition survived",
        frozen && answered > 0,
        format!(
            "node {} led in place of node {}, which committed nothing alone and is back; {answered} operations meanwhile",
            leader + 1,
            old + 1
        ),
    );
    stage.end_phase("the leader is cut off", cut);
    Ok(())
}

/// Every node is stopped and started again, one at a time.
pub(crate) fn restart_all(stage: &mut Stage, pause: Duration) -> Result<(), String> {
    let began = stage.now();
    let nodes = stage.nodes.serving();
    for node in &nodes {
        let led = stage.nodes.leader().is_some_and(|(leader, _)| leader == *node);
        stage.nodes.stop(*node).map_err(|error| error.to_string())?;
        let role = if led { ", which handed its leadership over," } else { "" };
        let text = format!("node {}{role} has stopped, and restarts", node + 1);
        stage.mark("restart", format!("{} restarts", node + 1), &text);
        stage.nodes.restart(*node).map_err(|error| error.to_string())?;
        stage.wait_caught_up(*node)?;
        stage.load.call_home();
        stage.keep_loading("a rolling restart", pause / 4)?;
    }
    let took = stage.now() - began;
    let text = format!("all {} nodes have restarted", nodes.len());
    stage.mark("caught", "all restarted".into(), &text);
    stage.figure("rolling restart", milliseconds(took), format!("{} nodes", nodes.len()));
    stage.check("rolling restart", true, format!("{} nodes stopped, restarted and caught up, one by one", nodes.len()));
    stage.end_phase("rolling restart", began);
    Ok(())
}
