//! The shortest program: one node, no transport, no storage.
//!
//! `cargo run --example single_node`

use raft_io::RaftConfig;
use raft_io::node::{Action, Event, RaftNode};
use std::collections::BTreeMap;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut node = RaftNode::new(RaftConfig::single(1))?;
    while !node.is_leader() {
        node.step(Event::Tick)?;
    }
    println!("node {} leads term {}", node.protocol().id(), node.protocol().term());

    let mut store = BTreeMap::new();
    for command in ["x=1", "y=2", "x=3"] {
        for action in node.step(Event::Propose(command.into()))? {
            if let Action::Apply { index, command, .. } = action {
                let command = String::from_utf8(command.to_vec())?;
                println!("entry {index}: {command}");
                if let Some((key, value)) = command.split_once('=') {
                    store.insert(key.to_owned(), value.to_owned());
                }
            }
        }
    }
    println!("the store holds {store:?}");
    Ok(())
}
