//! The names of the laws of a whole cluster, and what their breach looks like.

use core::fmt;
use std::string::String;

/// A law of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Law {
    /// At most one leader in a term, over all time (Figure 3.2).
    ElectionSafety,
    /// A leader never overwrites or deletes entries of its log (Figure 3.2).
    LeaderAppendOnly,
    /// Two entries with the same index and term are equal, and so is what precedes them, over all time (Figure 3.2).
    LogMatching,
    /// What was committed in a term is in the logs of the leaders of all higher terms (Figure 3.2).
    LeaderCompleteness,
    /// No two servers apply, or know as committed, different entries at one index (Figure 3.2).
    StateMachineSafety,
    /// A leader has the votes of a quorum, each of them durable where it was given (§3.4).
    LeaderHasQuorum,
    /// A server votes for at most one candidate in a term, over all its lives (§3.4).
    VotesGrantedOnce,
    /// `match_index = k` for a server of the leader's term: its durable log agrees with the leader's through `k` (§3.5).
    MatchIndexSound,
    /// What a server answered before it was removed and added again changes nothing at its leader (§4.1).
    AnswersOfThisLife,
    /// A server whose disk lacks what an append names as acknowledged on it says so, and does nothing any more (§3.8).
    LossIsTold,
    /// Only a server whose disk was put back to an older state finds, or is believed, that it lost data (§3.8).
    NobodyIsAccused,
    /// A committed entry is durable on a quorum (§3.5, §3.8).
    CommittedIsDurable,
    /// No message leaves before what it promises is durable (Figure 3.1: "before responding to RPCs").
    PersistFirst,
    /// A server's term never decreases; nor does the durable one, over all its lives (Figure 3.1).
    TermMonotonic,
    /// A server's commit index never decreases within a life (Figure 3.1).
    CommitMonotonic,
    /// Entries are applied one after the other, each once in a life of the state machine, and only committed ones (§3.5).
    AppliedInOrder,
    /// Neither asking for a pre-vote nor granting one changes the term, the vote, or a timer of the voter (§9.6).
    PreVoteLeavesHardStateAlone,
    /// With pre-votes a server begins a campaign only with those of a quorum for that very term, given since it last asked, or
    /// because the leader that it follows told it to (§9.6).
    CampaignHasPreVotes,
    /// A leader stays beyond a quorum check only if a quorum answered it since the one before (§6.2).
    CheckedLeaderHasAnswers,
    /// A read is answered only where everything is applied that was committed, by whoever, when it began (§6.4).
    LinearizableRead,
    /// Nobody leads a later term than a leader that has a lease, while the clocks hold what leases ask of them (§6.4.1).
    LeaseSafe,
    /// Each read that a server takes is answered or aborted once, at the latest when it stops leading, or following the
    /// leader that it had (§6.4).
    EveryReadEndsOnce,
    /// A leader appends nothing while it hands its leadership over (§3.10).
    TransferAppendsNothing,
    /// Only a server that is known to hold its leader's whole log is told to campaign (§3.10).
    TimeoutNowAfterWholeLog,
    /// Only the leader that a server follows can make it campaign, and only in the term that it leads (§3.10).
    TimeoutNowFromOwnLeader,
    /// A transfer ends once: with the leadership, or with its timeout (§3.10).
    EveryTransferEnds,
    /// Who heard its leader just now, or leads, listens to candidates in the name of a leader and to no others (§4.2.3).
    OnlyTransfersDisrupt,
    /// What a snapshot covers, and what a log has forgotten, is committed; a state machine becomes nothing else (§5).
    SnapshotConsistent,
    /// Between a snapshot and the log that continues it nothing is missing, whenever the server crashes (§5).
    CompactedIsCovered,
    /// A log that reaches a fetched snapshot by itself keeps what follows it (§5).
    SnapshotKeepsWhatFollows,
    /// The configurations that a server goes by are those of its log, and a snapshot comes with the one as of it (§4.1).
    ConfigurationFollowsLog,
    /// A leader appends a configuration only when the one before is committed (§4.1, §4.3).
    OneChangeAtATime,
    /// A leader appends a configuration only when it has committed an entry of its term (Ongaro's correction of §4.1).
    ChangesAfterOwnCommit,
    /// Any quorum of a configuration and any of the next in the same log have a server in common (§4.1, §4.3).
    QuorumsOverlap,
    /// Who campaigns has a vote in the last configuration that it knows to be committed, or in a later one (§4.2.2).
    CampaignersHaveAVote,
    /// A round of confirmation asks every other server that has a vote in the configuration in force, and no other (§6.4).
    RoundsAskVoters,
    /// A snapshot is fetched from the leader that the server follows, once that one has offered it (§5).
    FetchesFromOwnLeader,
    /// To find where a follower's log agrees, a leader goes back at most once for each term, and once for what it lacks (§3.5).
    ConflictsCostTerms,
    /// A leader keeps account of the members of the configuration in force, and of nobody else (§4.2).
    PeersAreMembers,
    /// Who gets a vote holds durably the configuration in force before that, and its leader's first entry of the term (§4.2.1).
    PromotedHasLog,
    /// The history that servers know to be committed is one, over all servers and all time; no recovery is simulated.
    HistoryIsOne,
}

impl Law {
    /// Every law.
    pub const ALL: &'static [Self] = &[
        Self::ElectionSafety,
        Self::LeaderAppendOnly,
        Self::LogMatching,
        Self::LeaderCompleteness,
        Self::StateMachineSafety,
        Self::LeaderHasQuorum,
        Self::VotesGrantedOnce,
        Self::MatchIndexSound,
        Self::AnswersOfThisLife,
        Self::LossIsTold,
        Self::NobodyIsAccused,
        Self::CommittedIsDurable,
        Self::PersistFirst,
        Self::TermMonotonic,
        Self::CommitMonotonic,
        Self::AppliedInOrder,
        Self::PreVoteLeavesHardStateAlone,
        Self::CampaignHasPreVotes,
        Self::CheckedLeaderHasAnswers,
        Self::LinearizableRead,
        Self::LeaseSafe,
        Self::EveryReadEndsOnce,
        Self::TransferAppendsNothing,
        Self::TimeoutNowAfterWholeLog,
        Self::TimeoutNowFromOwnLeader,
        Self::EveryTransferEnds,
        Self::OnlyTransfersDisrupt,
        Self::SnapshotConsistent,
        Self::CompactedIsCovered,
        Self::SnapshotKeepsWhatFollows,
        Self::ConfigurationFollowsLog,
        Self::OneChangeAtATime,
        Self::ChangesAfterOwnCommit,
        Self::QuorumsOverlap,
        Self::CampaignersHaveAVote,
        Self::RoundsAskVoters,
        Self::FetchesFromOwnLeader,
        Self::ConflictsCostTerms,
        Self::PeersAreMembers,
        Self::PromotedHasLog,
        Self::HistoryIsOne,
    ];
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A law was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub law: Law,
    /// By whom and how.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is broken: {}", self.law, self.detail)
    }
}

impl core::error::Error for Violation {}

/// Whether every law held so far.
pub type Checked = Result<(), Violation>;

pub(super) fn check(holds: bool, law: Law, detail: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(Violation { law, detail: detail() }) }
}
