//! The wire format's properties: every message comes back as it was, and no bytes at all do harm.
#![cfg(feature = "framing")]

#[allow(dead_code, reason = "each test uses its part")]
mod wire_support;

use proptest::prelude::*;
use raft_io::message::{
    AppendEntriesRequest, AppendEntriesResponse, AppendResult, ConfirmLeaderRequest, ConfirmLeaderResponse,
    InstallSnapshotRequest, PreVoteRequest, PreVoteResponse, ReadIndexRequest, ReadIndexResponse, RequestVoteRequest,
    RequestVoteResponse, TimeoutNowRequest,
};
use raft_io::wire::{self, Frame, HEADER_BYTES};
use raft_io::{Entry, EntryId, GroupId, HistoryId, Index, Membership, Message, NodeId, Payload, Term};
use std::sync::Arc;
use wire_support::{decode, encode, seal};

fn numbers() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..200, any::<u64>(), Just(u64::MAX), Just(1 << 62)]
}

fn ids() -> impl Strategy<Value = EntryId> {
    (numbers(), numbers()).prop_map(|(index, term)| EntryId::new(index, term))
}

fn payloads() -> impl Strategy<Value = Payload> {
    let command = prop::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        2 => Just(Payload::Noop),
        2 => command.prop_map(|bytes| Payload::Command(bytes.into())),
        1 => memberships().prop_map(Payload::Membership),
    ]
}

/// Any that somebody decides in.
fn memberships() -> impl Strategy<Value = Arc<Membership>> {
    let ids = || prop::collection::vec(prop_oneof![0u64..9, any::<u64>()], 0..5);
    let addresses = prop::collection::vec((0u64..9, "\\PC{0,20}"), 0..4);
    let voters = prop::collection::vec(prop_oneof![0u64..9, any::<u64>()], 1..5);
    (voters, ids(), ids(), ids(), addresses).prop_map(|(voters, outgoing, learners, promoting, addresses)| {
        let mut membership = Membership::new(voters.clone());
        membership = learners.into_iter().fold(membership, |membership, id| membership.with_learner(id));
        membership = promoting.into_iter().fold(membership, |membership, id| membership.with_promotion(id));
        // A voter that was demoted on the way is one again, so that there is one.
        membership = membership.with_voter(voters[0]).joint_from(&Membership::new(outgoing));
        for (id, address) in addresses {
            if membership.contains(NodeId(id)) {
                membership = membership.with_address(id, address);
            }
        }
        Arc::new(membership)
    })
}

fn appends() -> impl Strategy<Value = AppendEntriesRequest> {
    let entries = prop::collection::vec((numbers(), payloads()), 0..20);
    let histories = prop_oneof![Just(None), any::<u128>().prop_map(|bits| Some(HistoryId::from_bits(bits)))];
    (numbers(), ids(), numbers(), entries, (histories, numbers())).prop_map(
        |(term, prev, commit, entries, (history, session))| {
            let entries = entries.into_iter().zip(1u64..).map(|((term, payload), distance)| Entry {
                id: EntryId::new(prev.index.0.saturating_add(distance), term),
                payload,
            });
            AppendEntriesRequest {
                acknowledged: Default::default(),
                disk: Default::default(),
                history,
                session: Index(session),
                term: Term(term),
                prev,
                entries: entries.collect(),
                commit: Index(commit),
            }
        },
    )
}

fn messages() -> impl Strategy<Value = Message> {
    let results = prop_oneof![
        numbers().prop_map(|index| AppendResult::Accepted { match_index: Index(index) }),
        (numbers(), ids()).prop_map(|(prev, hint)| AppendResult::Rejected { prev_index: Index(prev), hint }),
        Just(AppendResult::StaleTerm),
    ];
    prop_oneof![
        (numbers(), numbers(), ids()).prop_map(|(term, campaign, last)| {
            Message::PreVoteRequest(PreVoteRequest { term: Term(term), campaign_term: Term(campaign), last })
        }),
        (numbers(), numbers(), any::<bool>()).prop_map(|(term, campaign, granted)| {
            Message::PreVoteResponse(PreVoteResponse { term: Term(term), campaign_term: Term(campaign), granted })
        }),
        (numbers(), ids(), any::<bool>()).prop_map(|(term, last, leadership_transfer)| {
            Message::RequestVoteRequest(RequestVoteRequest { term: Term(term), last, leadership_transfer })
        }),
        numbers().prop_map(|term| Message::TimeoutNowRequest(TimeoutNowRequest { term: Term(term) })),
        (numbers(), any::<bool>()).prop_map(|(term, granted)| {
            Message::RequestVoteResponse(RequestVoteResponse { term: Term(term), granted })
        }),
        appends().prop_map(Message::AppendEntriesRequest),
        (numbers(), results).prop_map(|(term, result)| {
            Message::AppendEntriesResponse(AppendEntriesResponse {
                disk: Default::default(),
                term: Term(term),
                result,
                session: Some(Index::ZERO),
            })
        }),
        (numbers(), ids(), memberships()).prop_map(|(term, last, membership)| {
            Message::InstallSnapshotRequest(InstallSnapshotRequest {
                term: Term(term),
                last,
                membership,
                session: Index::ZERO,
            })
        }),
        (numbers(), numbers()).prop_map(|(term, round)| {
            Message::ConfirmLeaderRequest(ConfirmLeaderRequest { term: Term(term), round })
        }),
        (numbers(), numbers())
            .prop_map(|(term, context)| Message::ReadIndexRequest(ReadIndexRequest { term: Term(term), context })),
        (numbers(), numbers(), numbers(), numbers()).prop_map(|(term, context, index, commit)| {
            let (term, index, commit) = (Term(term), Index(index), Index(commit));
            Message::ReadIndexResponse(ReadIndexResponse { term, context, index, commit })
        }),
        (numbers(), numbers(), numbers()).prop_map(|(term, leader_term, round)| {
            Message::ConfirmLeaderResponse(ConfirmLeaderResponse {
                term: Term(term),
                leader_term: Term(leader_term),
                round,
            })
        }),
    ]
}

/// Bytes that are almost a frame: a good one with a few bytes of its body changed, cut or added,
/// under a right checksum, so that the damage reaches the body's decoder.
fn mutants() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (messages(), changes, any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 0..4)).prop_map(
        |(message, changes, cut, tail)| {
            let frame = encode(&Frame::Message { group: GroupId(0), message });
            let kind = u16::from_le_bytes([frame[9], frame[10]]);
            let mut body = frame[HEADER_BYTES..].to_vec();
            for (at, byte) in changes {
                let at = at.index(body.len());
                body[at] = byte;
            }
            if cut.index(4) == 0 {
                body.truncate(cut.index(body.len()));
            }
            body.extend(tail);
            seal(1, kind, 0, 0, &body)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_message_comes_back_as_it_was(message in messages(), group in any::<u64>()) {
        let frame = Frame::Message { group: GroupId(group), message };
        prop_assert_eq!(decode(&encode(&frame)), Ok(frame));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn arbitrary_bodies_never_panic(
        kind in prop_oneof![0u16..29, 60u16..70, any::<u16>()],
        protocol in prop_oneof![0u8..3, Just(wire::TRANSFER_PROTOCOL)],
        body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let _ = decode(&seal(protocol, kind, 0, 0, &body));
    }

    /// What decodes at all, encodes again to something that decodes to the same.
    #[test]
    fn mutated_frames_decode_to_something_sound_or_nothing(bytes in mutants()) {
        if let Ok(frame @ Frame::Message { .. }) = decode(&bytes) {
            prop_assert_eq!(decode(&encode(&frame)), Ok(frame));
        }
    }
}
