//! What the exploration rests on, proven after it for everything that it met.
//!
//! An exploration drops dead messages and takes states that differ in the servers' names alone for one. Both are right
//! only if the protocol behaves so: here that is tried on the real step, exhaustively for all distinct servers, messages
//! and steps of the run. As these stand for all that are reachable, no state that counts was left out.

use crate::config::Configuration;
use crate::server::Input;
use crate::symmetry::Permutations;
use crate::tables::{self, Code, Copies, Outcome, ServerId, Tables, content_hash};
use raft_io::Event;
use std::collections::BTreeSet;
use std::thread;

/// How many things a proof looked at, or the first that is against it, in words.
pub type Proof = Result<u64, String>;

/// The rule of dead messages: every message that the rule calls dead to a server that was reached changes nothing there
/// and is answered by nobody. That it stays dead follows from `TermMonotonic` on the disk, which every step is checked
/// for. Looks at each pair of server and message.
///
/// # Errors
/// A message is not dead that should be.
pub fn dead_messages(tables: &Tables, configuration: &Configuration) -> Proof {
    let (servers, messages) = (tables.servers(), tables.messages());
    let mut looked = 0;
    for (server, facts) in &servers {
        for (message, message_facts) in &messages {
            if message_facts.to != facts.position || !message_facts.is_dead(facts) {
                continue;
            }
            looked += 1;
            let input = Input::Event(Event::Receive((**message).clone()));
            let nothing = server.step(configuration, &input).is_ok_and(|stepped| {
                stepped.server == **server && stepped.sent.is_empty() && stepped.actions.is_empty()
            });
            if !nothing {
                return Err(format!("{message:?} at {:?}", server.state()));
            }
        }
    }
    Ok(looked)
}

/// All servers are alike: to rename them before a step or after it leads to the same server, with the same messages and the
/// same answers to reads. Looks at each distinct step under each renaming, so that no renamed state can be reached whose
/// steps were not tried. (What else a step says, and the laws of a step, are judged under the name that was met.)
///
/// # Errors
/// A step comes out otherwise under other names.
pub fn servers_alike(
    tables: &Tables,
    configuration: &Configuration,
    permutations: &Permutations,
    threads: usize,
) -> Proof {
    let steps = tables.steps();
    let mut copies = Copies::default();
    copies.bring_up_to_date(tables, 0, 0);
    let renamed = Renamed { tables, configuration, permutations, copies: &copies };
    let share = steps.len().div_ceil(threads).max(1);
    thread::scope(|scope| {
        let parts: Vec<_> = steps.chunks(share).map(|part| scope.spawn(|| renamed.try_all(part))).collect();
        let proofs = parts.into_iter().map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        proofs.sum()
    })
}

struct Renamed<'a> {
    tables: &'a Tables,
    configuration: &'a Configuration,
    permutations: &'a Permutations,
    copies: &'a Copies,
}

impl Renamed<'_> {
    fn try_all(&self, steps: &[(ServerId, Code, Outcome)]) -> Proof {
        let mut looked = 0;
        for (id, code, outcome) in steps {
            // The first is the identity, which would show nothing.
            for at in 1..self.permutations.len() {
                self.try_one(*id, *code, outcome, at)?;
                looked += 1;
            }
        }
        Ok(looked)
    }

    fn try_one(&self, id: ServerId, code: Code, outcome: &Outcome, at: usize) -> Result<(), String> {
        let count = self.permutations.len();
        let rename = |id| self.permutations.nth(at).apply(id);
        let (server, input) = (self.tables.server(id), self.tables.input(self.configuration, id, code));
        let stepped = server.permute(rename).step(self.configuration, &input.permute(rename));
        let alike = stepped.is_ok_and(|stepped| {
            let sent: BTreeSet<u64> = stepped.sent.iter().map(content_hash).collect();
            let expected = self.copies.sent(outcome).iter().map(|&id| self.copies.message_hashes(id, count)[at]);
            tables::answers(&stepped.actions) == outcome.answers
                && content_hash(&stepped.server) == self.copies.server_hashes(outcome.next, count)[at]
                && sent == expected.collect()
        });
        if alike { Ok(()) } else { Err(format!("{} under other names at {:?}", input.name(), server.state())) }
    }
}
