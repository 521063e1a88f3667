//! Three nodes in one process over a network in memory: election, a proposal, the death of the
//! leader and the next one.
//!
//! `cargo run --example in_memory_cluster`

use bytes::Bytes;
use raft_io::driver::{Raft, StateMachine};
use raft_io::log::Locked;
use raft_io::transport::{MemoryNetwork, MemoryTransport};
use raft_io::{EntryId, MemoryLog, NodeId, RaftConfig};
use std::error::Error;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

/// Adds up the numbers that are proposed.
#[derive(Default)]
struct Sum(u64);

impl StateMachine for Sum {
    type Response = u64;

    fn apply(&mut self, _id: EntryId, command: &Bytes) -> u64 {
        let number = std::str::from_utf8(command).ok().and_then(|text| text.parse::<u64>().ok());
        self.0 += number.unwrap_or(0);
        self.0
    }
}

fn start(network: &MemoryNetwork, id: u64) -> Result<Raft<Sum>, Box<dyn Error>> {
    let mut config = RaftConfig::new(id, [1, 2, 3]);
    config.tick = Duration::from_millis(10);
    let transport: MemoryTransport = network.transport(id);
    Ok(Raft::start(config, Locked::new(MemoryLog::new()), transport, Sum::default())?)
}

/// The id of the node that all of these agree on as their leader.
fn leader_of(nodes: &[Raft<Sum>]) -> Result<NodeId, Box<dyn Error>> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let led = nodes[0].wait_for(PATIENCE, |status| status.leader.is_some())?;
        let leader = led.leader.map(|leader| leader.id);
        let agrees = |node: &Raft<Sum>| node.status().leader.map(|leader| leader.id) == leader;
        if let (Some(leader), true) = (leader, nodes.iter().all(agrees)) {
            return Ok(leader);
        }
        std::thread::yield_now();
    }
    Err("no leader within ten seconds".into())
}

fn main() -> Result<(), Box<dyn Error>> {
    let network = MemoryNetwork::new();
    let mut nodes = (1..=3).map(|id| start(&network, id)).collect::<Result<Vec<_>, _>>()?;

    let first = leader_of(&nodes)?;
    println!("node {first} leads");
    let leader = nodes.iter().position(|node| node.id() == first).ok_or("the leader is one of the nodes")?;
    for number in ["1", "20", "300"] {
        let applied = nodes[leader].propose(number).wait(PATIENCE)?;
        println!("entry {}: the sum is {}", applied.id, applied.response);
    }

    nodes.remove(leader).shutdown();
    println!("node {first} is gone");
    for node in &nodes {
        node.wait_for(PATIENCE, |status| status.leader.as_ref().is_some_and(|leader| leader.id != first))?;
    }
    let second = leader_of(&nodes)?;
    println!("node {second} leads");
    let leader = nodes.iter().find(|node| node.id() == second).ok_or("the leader is one of the nodes")?;
    let applied = leader.propose("4000").wait(PATIENCE)?;
    println!("entry {}: the sum is {}", applied.id, applied.response);

    for node in &nodes {
        // A follower asks the leader how much it has to have applied.
        println!("node {}: the sum is {}", node.id(), node.follower_read(|sum| sum.0).wait(PATIENCE)?);
    }
    nodes.iter().for_each(Raft::shutdown);
    Ok(())
}
