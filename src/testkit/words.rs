//! The words of a script's command: numbers, entries, configurations, messages.

use super::cluster::{Cluster, MoveError, Options, impossible};
use crate::config::RaftConfig;
use crate::history::HistoryId;
use crate::membership::Membership;
use crate::message::{
    AppendEntriesRequest, AppendEntriesResponse, AppendResult, ConfirmLeaderRequest, ConfirmLeaderResponse,
    InstallSnapshotRequest, Message, PreVoteRequest, PreVoteResponse, ReadIndexRequest, ReadIndexResponse,
    RequestVoteRequest, RequestVoteResponse, TimeoutNowRequest,
};
use crate::types::{DiskId, Entries, Entry, EntryId, Index, NodeId, Payload, Term};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::format;
use std::string::ToString;
use std::sync::Arc;
use std::vec::Vec;

/// A line, taken apart.
pub(super) struct Words<'a> {
    pub(super) verb: &'a str,
    pub(super) words: Vec<&'a str>,
    pub(super) options: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    pub(super) fn parse(line: &'a str) -> Result<Self, MoveError> {
        let mut parts = line.split_whitespace();
        let Some(verb) = parts.next() else { return impossible("an empty command") };
        let (mut words, mut options) = (Vec::new(), BTreeMap::new());
        for part in parts {
            match part.split_once('=') {
                Some((key, value)) => _ = options.insert(key, value),
                None => words.push(part),
            }
        }
        Ok(Self { verb, words, options })
    }

    pub(super) fn number(&self, position: usize) -> Result<u64, MoveError> {
        match self.words.get(position) {
            Some(word) => number(word),
            None => impossible(format!("{} needs another number", self.verb)),
        }
    }

    pub(super) fn node(&self, position: usize) -> Result<NodeId, MoveError> {
        self.number(position).map(NodeId)
    }

    pub(super) fn count(&self, position: usize) -> Result<usize, MoveError> {
        if self.words.len() > position { self.number(position).map(|count| count as usize) } else { Ok(usize::MAX) }
    }

    pub(super) fn option(&self, key: &str) -> Result<Option<u64>, MoveError> {
        self.options.get(key).map(|value| number(value)).transpose()
    }

    pub(super) fn required(&self, key: &str) -> Result<u64, MoveError> {
        self.option(key)?.map_or_else(|| impossible(format!("{} needs {key}=", self.verb)), Ok)
    }

    pub(super) fn id(&self, key: &str) -> Result<EntryId, MoveError> {
        self.options.get(key).map_or_else(|| impossible(format!("{} needs {key}=", self.verb)), |id| entry_id(id))
    }

    pub(super) fn nodes(&self, cluster: &Cluster) -> Result<Vec<NodeId>, MoveError> {
        match self.words.as_slice() {
            ["all"] => Ok(cluster.ids().filter(|id| cluster.protocol(*id).is_some()).collect()),
            words => words.iter().map(|word| number(word).map(NodeId)).collect(),
        }
    }

    pub(super) fn options(&self) -> Result<Options, MoveError> {
        let voters = self.number(0)?;
        let mut config = RaftConfig::new(1, 1..=voters);
        let mut options = Options {
            config: config.clone(),
            joiners: Vec::new(),
            without_pre_vote: Vec::new(),
            sync_at_once: true,
            entries_in_memory: u64::MAX,
        };
        for (key, value) in &self.options {
            match *key {
                "learners" => config.membership = membership(&self.options, config.membership.voters())?,
                "addresses" | "promoting" => {}
                "servers" => options.joiners = (voters + 1..=number(value)?).map(NodeId).collect(),
                "pre_vote" => config.pre_vote = *value == "true",
                "without_pre_vote" => options.without_pre_vote.push(NodeId(number(value)?)),
                "check_quorum" => config.check_quorum = *value == "true",
                "append_bytes_max" => config.append_bytes_max = number(value)? as usize,
                "inflight_messages_max" => config.inflight_messages_max = number(value)? as usize,
                "inflight_bytes_max" => config.inflight_bytes_max = number(value)? as usize,
                "uncommitted_bytes_max" => config.uncommitted_bytes_max = number(value)? as usize,
                "command_bytes_max" => config.command_bytes_max = number(value)? as usize,
                "lease_ticks" => config.lease_ticks = Some(number(value)? as u32),
                "election_ticks" => config.election_ticks = number(value)? as u32,
                "histories" => config.history = (*value == "true").then(|| HistoryId::from_bits(1 << 64)),
                "seed" => config.seed = number(value)?,
                "disk" => options.sync_at_once = *value != "manual",
                #[cfg(feature = "trace")]
                "trace" => {}
                "entries_in_memory" => options.entries_in_memory = number(value)?,
                _ => return impossible(format!("there is no option {key}")),
            }
        }
        options.joiners.retain(|id| !config.membership.contains(*id));
        options.config = config;
        Ok(options)
    }

    /// The configuration that `voters=1,2 outgoing=2,3 learners=4,5 promoting=5 addresses=4:host` describes.
    pub(super) fn membership(&self) -> Result<Membership, MoveError> {
        membership(&self.options, &[])
    }
}

/// A number; `max` is the largest there is and `2^62` the largest that a peer may claim.
pub(super) fn number(word: &str) -> Result<u64, MoveError> {
    match word {
        "max" => Ok(u64::MAX),
        "2^62" => Ok(1 << 62),
        _ => word.parse().map_or_else(|_| impossible(format!("{word} is not a number")), Ok),
    }
}

/// `7@3` is index 7 of term 3.
fn disk(words: &Words<'_>) -> Result<DiskId, MoveError> {
    Ok(DiskId(words.option("disk")?.unwrap_or(0) as u32))
}

fn entry_id(word: &str) -> Result<EntryId, MoveError> {
    match word.split_once('@') {
        Some((index, term)) => Ok(EntryId::new(number(index)?, number(term)?)),
        None => impossible(format!("{word} is not an entry: write index@term")),
    }
}

/// Without a list of voters they are `voters`.
fn membership(options: &BTreeMap<&str, &str>, voters: &[NodeId]) -> Result<Membership, MoveError> {
    let words = |key: &str| {
        let list: &str = options.get(key).copied().unwrap_or_default();
        list.split([',', '+']).filter(|word| !word.is_empty()).map(str::to_string).collect::<Vec<_>>()
    };
    let ids = |key: &str| words(key).iter().map(|word| number(word).map(NodeId)).collect::<Result<Vec<_>, _>>();
    let voters = if options.contains_key("voters") { ids("voters")? } else { voters.to_vec() };
    let mut membership = Membership::new(voters);
    for id in ids("learners")? {
        membership = membership.with_learner(id);
    }
    for id in ids("promoting")? {
        membership = membership.with_promotion(id);
    }
    let outgoing = ids("outgoing")?;
    if !outgoing.is_empty() {
        membership = membership.joint_from(&Membership::new(outgoing));
    }
    for word in words("addresses") {
        let Some((id, address)) = word.split_once(':') else {
            return impossible(format!("{word} is not an address: write id:address"));
        };
        membership = membership.with_address(number(id)?, address);
    }
    Ok(membership)
}

/// A configuration as [`membership`] reads it, but for addresses.
pub(super) fn of_membership(membership: &Membership) -> String {
    let list = |ids: &[NodeId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let mut words = format!("voters={}", list(membership.voters()));
    for (key, ids) in [("learners", membership.learners()), ("promoting", membership.promoting())] {
        if !ids.is_empty() {
            words += &format!(" {key}={}", list(ids));
        }
    }
    words
}

/// `7@3:x` has a command, `7@3:voters=1+2/learners=3` a configuration, `7@3` is a no-op.
fn entry(word: &str) -> Result<Entry, MoveError> {
    let (id, payload) = match word.split_once(':') {
        Some((id, lists)) if lists.starts_with("voters=") => {
            let lists = lists.split('/').filter_map(|list| list.split_once('=')).collect();
            (id, Payload::Membership(Arc::new(membership(&lists, &[])?)))
        }
        Some((id, command)) => (id, Payload::Command(Bytes::from(command.to_string()))),
        None => (word, Payload::Noop),
    };
    Ok(Entry { id: entry_id(id)?, payload })
}

/// No-ops of these terms from index 1 on: `1x3,2` is three of term 1 and one of term 2.
pub(super) fn entries_of_terms(words: &str) -> Result<Entries, MoveError> {
    let mut terms = Vec::new();
    for run in words.split(',').filter(|run| !run.is_empty()) {
        let (term, count) = run.split_once('x').unwrap_or((run, "1"));
        terms.extend(core::iter::repeat_n(Term(number(term)?), number(count)? as usize));
    }
    let ids = terms.into_iter().zip(1u64..).map(|(term, index)| EntryId { index: Index(index), term });
    Ok(ids.map(|id| Entry { id, payload: Payload::Noop }).collect())
}

/// The message that `inject` describes.
pub(super) fn message(words: &Words<'_>, initial: &Membership) -> Result<Message, MoveError> {
    let term = Term(words.required("term")?);
    let granted = words.words.contains(&"granted");
    let campaign_term = |words: &Words<'_>| words.required("campaign_term").map(Term);
    Ok(match words.words.get(2).copied() {
        Some("pre_vote_request") => Message::PreVoteRequest(PreVoteRequest {
            term,
            campaign_term: campaign_term(words)?,
            last: words.id("last")?,
        }),
        Some("pre_vote_response") => {
            Message::PreVoteResponse(PreVoteResponse { term, campaign_term: campaign_term(words)?, granted })
        }
        Some("request_vote_request") => {
            let leadership_transfer = words.words.contains(&"leadership_transfer");
            Message::RequestVoteRequest(RequestVoteRequest { term, last: words.id("last")?, leadership_transfer })
        }
        Some("request_vote_response") => Message::RequestVoteResponse(RequestVoteResponse { term, granted }),
        Some("append_entries_request") => {
            let entries = words.options.get("entries").map_or("", |entries| *entries);
            let entries = entries.split(',').filter(|word| !word.is_empty()).map(entry).collect::<Result<_, _>>()?;
            let commit = Index(words.option("commit")?.unwrap_or(0));
            let (prev, session) = (words.id("prev")?, Index(words.option("session")?.unwrap_or(0)));
            let (acknowledged, disk) = (Index(words.option("acknowledged")?.unwrap_or(0)), disk(words)?);
            let request =
                AppendEntriesRequest { history: None, term, prev, entries, commit, session, acknowledged, disk };
            Message::AppendEntriesRequest(request)
        }
        Some("append_entries_response") => {
            let result = match words.words.get(3).copied() {
                Some("accepted") => AppendResult::Accepted { match_index: Index(words.required("match")?) },
                Some("rejected") => {
                    AppendResult::Rejected { prev_index: Index(words.required("prev")?), hint: words.id("hint")? }
                }
                Some("lost") => AppendResult::LostAcknowledged {
                    acknowledged: Index(words.required("acknowledged")?),
                    durable: Index(words.required("durable")?),
                },
                _ => AppendResult::StaleTerm,
            };
            let session = match words.options.get("session").copied() {
                Some("none") => None,
                _ => Some(Index(words.option("session")?.unwrap_or(0))),
            };
            Message::AppendEntriesResponse(AppendEntriesResponse { term, result, session, disk: disk(words)? })
        }
        Some("confirm_leader_request") => {
            Message::ConfirmLeaderRequest(ConfirmLeaderRequest { term, round: words.required("round")? })
        }
        Some("confirm_leader_response") => Message::ConfirmLeaderResponse(ConfirmLeaderResponse {
            term,
            leader_term: Term(words.required("leader_term")?),
            round: words.required("round")?,
        }),
        Some("read_index_request") => {
            Message::ReadIndexRequest(ReadIndexRequest { term, context: words.required("context")? })
        }
        Some("read_index_response") => Message::ReadIndexResponse(ReadIndexResponse {
            term,
            context: words.required("context")?,
            index: Index(words.required("index")?),
            commit: Index(words.required("commit")?),
        }),
        Some("timeout_now_request") => Message::TimeoutNowRequest(TimeoutNowRequest { term }),
        Some("install_snapshot_request") => Message::InstallSnapshotRequest(InstallSnapshotRequest {
            term,
            last: words.id("last")?,
            session: Index(words.option("session")?.unwrap_or(0)),
            membership: Arc::new(if words.options.contains_key("voters") {
                words.membership()?
            } else {
                initial.clone()
            }),
        }),
        other => return impossible(format!("there is no message {}", other.unwrap_or(""))),
    })
}
