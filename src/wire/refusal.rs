//! Why a server lets another one not in, by name, with what to do.

use super::body::view;
use super::introduction::{Refuser, decode_lineage, encode_lineage};
use super::{EncodeError, Frame, FrameError, kind, write};
use crate::history::HistoryId;
use crate::life::LostData;
use crate::types::{ClusterId, Index, NodeId, Term};
use pack_io::{DeserializeView, Encoder, Serialize};
use thiserror::Error;

/// The way back for a server whose data directory is an older copy, or another one.
const WHAT_TO_DO: &str = "stop it, remove its id from the cluster, and add the server under a new id";

/// Why a server refuses a connection; it closes it after saying so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The hello names another cluster.
    #[error("this server belongs to cluster {cluster}")]
    ForeignCluster {
        /// The cluster of the server that refuses.
        cluster: ClusterId,
    },
    /// The hello is for another server: an address list is wrong.
    #[error("this server is node {id}")]
    WrongReceiver {
        /// The id of the server that refuses.
        id: NodeId,
    },
    /// The sender is none of the peers of the server that refuses.
    #[error("the sender is not a member of the cluster")]
    UnknownSender,
    /// The sender claims the id of the server that refuses: two servers were given one id.
    #[error("the sender claims this server's own id")]
    OwnId,
    /// No protocol version in common.
    #[error("this server speaks the protocol versions {first} to {last}")]
    Version {
        /// The lowest that the server that refuses speaks.
        first: u8,
        /// The highest.
        last: u8,
    },
    /// A field of the hello is not acceptable, such as a frame limit below the handshake's own.
    #[error("a field of the handshake is not acceptable")]
    Unacceptable,
    /// The sender's data directory is not the one that it had under its id: it was wiped or replaced. It may have forgotten
    /// votes and entries that it acknowledged, and is never let in again under this id.
    #[error(
        "the sender's data directory is not the one it had: it was wiped or replaced, and may have forgotten votes and \
         acknowledged entries; remove its id from the cluster, and add the server under a new id"
    )]
    OtherData,
    /// The sender's data directory was opened less often than the one that was seen under its id: it is a copy, or was
    /// rolled back.
    #[error(
        "the sender's data directory is an older copy of the one it had: it was cloned or rolled back, and may have \
         forgotten votes and acknowledged entries; stop it, remove its id from the cluster, and add the server under a new id"
    )]
    OlderData,
    /// The sender's data directory lacks an opening that was seen: it is an older copy.
    #[error(
        "the sender's data directory lacks its opening number {count}, which was seen: it is an older copy, and may have \
         forgotten votes and acknowledged entries; {}",
        WHAT_TO_DO
    )]
    LostLife {
        /// The count of that opening.
        count: u64,
    },
    /// The sender's data directory began in a lower term than it had spoken in: it is an older copy.
    #[error(
        "the sender began in a lower term than {term}, in which it had spoken: its data directory is an older copy, and may \
         have forgotten votes and acknowledged entries; {}",
        WHAT_TO_DO
    )]
    LostTerm {
        /// The term in which it spoke.
        term: Term,
    },
    /// The sender's data directory began without entries that it had acknowledged: it is an older copy.
    #[error(
        "the sender began without entry {index}, which it had acknowledged: its data directory is an older copy, and has \
         forgotten acknowledged entries; {}",
        WHAT_TO_DO
    )]
    LostEntries {
        /// The index that it acknowledged, in the term in which it began.
        index: Index,
    },
    /// The sender's data directory began without a vote that it had given: it is an older copy.
    #[error(
        "the sender began without the vote that it gave in term {term}: its data directory is an older copy; {}",
        WHAT_TO_DO
    )]
    LostVote {
        /// The term of the vote.
        term: Term,
    },
    /// The server that refuses has lost data itself: a peer remembers more of it than its data directory holds. It takes
    /// part in nothing any more.
    #[error(
        "the server that refuses has lost data itself: its directory is an older copy, as a peer of it found, and it takes \
         part in nothing; remove its id from the cluster, and add it under a new id"
    )]
    OwnDataLost,
    /// The log of the server that refuses belongs to another history than the sender's: two clusters were given one number, or a
    /// recovery gave up one of the two servers.
    #[error(
        "the log of the server that refuses belongs to history {history}, and the sender's to another one that does not go on \
         with it: nothing of the one may come into the other; give each cluster a number of its own, and a server that is to \
         join this cluster an empty directory and a new id"
    )]
    OtherHistory {
        /// The history of the server that refuses.
        history: HistoryId,
    },
    /// The server is shutting down.
    #[error("this server is shutting down")]
    ShuttingDown,
    /// A reason that a newer version gives.
    #[error("reason {code}, which this version does not know")]
    Other {
        /// Its code.
        code: u16,
    },
}

impl Refusal {
    /// Whether it means that the sender lost data, so that nobody must count on it.
    #[must_use]
    pub const fn is_loss(&self) -> bool {
        matches!(
            self,
            Self::OtherData
                | Self::OlderData
                | Self::LostLife { .. }
                | Self::LostTerm { .. }
                | Self::LostEntries { .. }
                | Self::LostVote { .. }
        )
    }

    /// A short name, for counters.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ForeignCluster { .. } => "foreign_cluster",
            Self::WrongReceiver { .. } => "wrong_receiver",
            Self::UnknownSender => "unknown_sender",
            Self::OwnId => "own_id",
            Self::Version { .. } => "version",
            Self::Unacceptable => "unacceptable",
            Self::ShuttingDown => "shutting_down",
            Self::OtherData => "other_data",
            Self::OlderData => "older_data",
            Self::LostLife { .. } => "lost_life",
            Self::LostTerm { .. } => "lost_term",
            Self::LostEntries { .. } => "lost_entries",
            Self::LostVote { .. } => "lost_vote",
            Self::OwnDataLost => "own_data_lost",
            Self::OtherHistory { .. } => "other_history",
            Self::Other { .. } => "other",
        }
    }
}

impl From<LostData> for Refusal {
    fn from(lost: LostData) -> Self {
        match lost {
            LostData::Life { count } => Self::LostLife { count },
            LostData::Term { term, .. } => Self::LostTerm { term },
            LostData::Entries { index, .. } => Self::LostEntries { index },
            LostData::Vote { term } => Self::LostVote { term },
        }
    }
}

/// `detail` is the cluster, the id, or `first | last << 8`, by code.
#[derive(Serialize)]
#[pack_io(version = 1)]
struct BareRefusalBody {
    code: u16,
    detail: u64,
}

/// What a server says of itself with it. Of a history `detail` is the lower half of its bits.
#[derive(Serialize, DeserializeView)]
#[pack_io(version = 2)]
struct RefusalBody<'a> {
    code: u16,
    detail: u64,
    #[pack_io(since = 2)]
    detail_high: u64,
    #[pack_io(since = 2)]
    features: u64,
    #[pack_io(since = 2)]
    history: &'a [u8],
}

pub(super) fn encode_refusal(reason: &Refusal, by: &Refuser, encoder: &mut Encoder) -> Result<(), EncodeError> {
    let (code, detail) = match *reason {
        Refusal::ForeignCluster { cluster } => (1, cluster.0),
        Refusal::WrongReceiver { id } => (2, id.0),
        Refusal::UnknownSender => (3, 0),
        Refusal::OwnId => (4, 0),
        Refusal::Version { first, last } => (5, u64::from(first) | u64::from(last) << 8),
        Refusal::Unacceptable => (6, 0),
        Refusal::ShuttingDown => (7, 0),
        Refusal::OtherData => (8, 0),
        Refusal::OlderData => (9, 0),
        Refusal::LostLife { count } => (10, count),
        Refusal::LostTerm { term } => (11, term.0),
        Refusal::LostEntries { index } => (12, index.0),
        Refusal::LostVote { term } => (13, term.0),
        Refusal::OwnDataLost => (14, 0),
        Refusal::OtherHistory { history } => (15, history.to_bits() as u64),
        Refusal::Other { code } => (code, 0),
    };
    let detail_high = match reason {
        Refusal::OtherHistory { history } => (history.to_bits() >> 64) as u64,
        _ => 0,
    };
    if detail_high == 0 && by.is_empty() {
        return write(encoder, &BareRefusalBody { code, detail });
    }
    let history = &encode_lineage(by.history.as_ref())?[..];
    write(encoder, &RefusalBody { code, detail, detail_high, features: by.features, history })
}

pub(super) fn decode_refusal(body: &[u8]) -> Result<Frame, FrameError> {
    let RefusalBody { code, detail, detail_high, features, history } = view(kind::REFUSAL, body)?;
    let by = Refuser { features, history: decode_lineage(kind::REFUSAL, history)? };
    let reason = match code {
        1 => Refusal::ForeignCluster { cluster: ClusterId(detail) },
        2 => Refusal::WrongReceiver { id: NodeId(detail) },
        3 => Refusal::UnknownSender,
        4 => Refusal::OwnId,
        5 => {
            let [first, last, ..] = detail.to_le_bytes();
            Refusal::Version { first, last }
        }
        6 => Refusal::Unacceptable,
        7 => Refusal::ShuttingDown,
        8 => Refusal::OtherData,
        9 => Refusal::OlderData,
        10 => Refusal::LostLife { count: detail },
        11 => Refusal::LostTerm { term: Term(detail) },
        12 => Refusal::LostEntries { index: Index(detail) },
        13 => Refusal::LostVote { term: Term(detail) },
        14 => Refusal::OwnDataLost,
        15 => {
            let history = HistoryId::from_bits(u128::from(detail_high) << 64 | u128::from(detail));
            Refusal::OtherHistory { history }
        }
        code => Refusal::Other { code },
    };
    Ok(Frame::Refusal { reason, by })
}
