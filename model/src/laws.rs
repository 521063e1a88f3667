//! The laws, under the names that they have everywhere (`docs/INVARIANTS.md`), and the goals that show that a run was not
//! empty.
//!
//! Lives here: what one step of one server must keep ([`of_step`], computed once per distinct step) and what a state of
//! the cluster must keep ([`of_state`]).

mod loss;
mod membership;
mod reads;

pub use membership::Memberships;

use crate::config::Configuration;
use crate::facts::{Facts, NOBODY, PackedLog, position};
use crate::membership::Masks;
use crate::server::{Input, Server, Stepped};
use raft_io::message::AppendResult;
use raft_io::protocol::ProtocolState;
use raft_io::types::{HardState, Index};
use raft_io::{Action, Envelope, Event, LogView, MemoryLog, Message, NodeId, RoleKind};

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $(#[doc = $says:literal] $variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $(#[doc = $says] $variant,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($variant),)*
                }
            }

            /// What it says, in a sentence.
            #[must_use]
            pub const fn says(self) -> &'static str {
                match self {
                    $(Self::$variant => $says.trim_ascii(),)*
                }
            }

            /// The one of that name.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|each| each.name() == name)
            }

            /// Its bit in a mask.
            #[must_use]
            pub const fn bit(self) -> u64 {
                1 << self as u64
            }
        }
    };
}

names! {
    /// A law.
    Law {
        /// At most one leader in a term, over all time.
        ElectionSafety,
        /// A leader never overwrites or deletes entries of its log.
        LeaderAppendOnly,
        /// Entries with the same index and term are equal, and so is all that precedes them.
        LogMatching,
        /// What was committed in a term is in the logs of the leaders of all later terms.
        LeaderCompleteness,
        /// No two servers know different entries at one index as committed.
        StateMachineSafety,
        /// A leader has the durable votes of a quorum.
        LeaderHasQuorum,
        /// A server votes for at most one candidate in a term, over all its lives.
        VotesGrantedOnce,
        /// `match_index = k`: the follower's durable log agrees with the leader's through `k`.
        MatchIndexSound,
        /// What a server answered in a former life, before it was removed and added again, changes nothing at its leader.
        AnswersOfThisLife,
        /// A server whose disk lacks what an append names as acknowledged on it says so, and does nothing any more.
        LossIsTold,
        /// Only a server whose disk was put back to an older state finds, or is believed, that it lost data.
        NobodyIsAccused,
        /// A committed entry is durable on a quorum.
        CommittedIsDurable,
        /// No message leaves before what it promises is durable.
        PersistFirst,
        /// Terms never decrease; the durable one never, over all lives.
        TermMonotonic,
        /// The commit index never decreases within a life.
        CommitMonotonic,
        /// What is durable is on the disk, and a prefix of the log.
        DurableWithinLog,
        /// Entries are applied in order, and only committed and durable ones.
        AppliedInOrder,
        /// Neither asking for a pre-vote nor granting one changes term, vote or a timer of the voter.
        PreVoteLeavesHardStateAlone,
        /// With pre-votes a server campaigns only with those of a quorum, or because its leader told it to.
        CampaignHasPreVotes,
        /// A leader stays beyond a quorum check only if a quorum answered.
        CheckedLeaderHasAnswers,
        /// A read is answered only where everything is applied that was committed, by whoever, when it began.
        LinearizableRead,
        /// Nobody leads a later term than a leader that has a lease.
        LeaseSafe,
        /// Each read that a server takes is answered or aborted once, at the latest when it stops leading or loses its leader.
        EveryReadEndsOnce,
        /// A leader appends nothing while it hands its leadership over.
        TransferAppendsNothing,
        /// Only a server that is known to hold its leader's whole log is told to campaign.
        TimeoutNowAfterWholeLog,
        /// Only the leader that a server follows makes it campaign, only in its term, and only then is that said in its name.
        TimeoutNowFromOwnLeader,
        /// A transfer ends once: with the leadership, or with its timeout.
        EveryTransferEnds,
        /// Who has heard its leader just now listens to candidates in the name of that leader, and to no others.
        OnlyTransfersDisrupt,
        /// What a snapshot covers is committed, and nothing else comes with it.
        SnapshotConsistent,
        /// Between a snapshot and the log that continues it nothing is missing, whenever the server crashes.
        CompactedIsCovered,
        /// A log that reaches a fetched snapshot by itself keeps what follows it.
        SnapshotKeepsWhatFollows,
        /// The configurations that a server knows are those of its log.
        ConfigurationFollowsLog,
        /// A leader that committed an entry of its term has at most one configuration in its log that is not committed.
        OneChangeAtATime,
        /// A leader appends no configuration before it has committed an entry of its term.
        ChangesAfterOwnCommit,
        /// Any quorums of two configurations that follow each other in a log have a server in common.
        QuorumsOverlap,
        /// Who campaigns has a vote in the last configuration that it knows to be committed, or in a later one.
        CampaignersHaveAVote,
        /// A leader's peers are the other members of the configuration in force.
        PeersAreMembers,
        /// Who gets a vote holds durably the configuration before that, and its leader's first entry of the term.
        PromotedHasLog,
        /// Honest servers never find each other misbehaving.
        HonestServersBehave,
        /// No assertion of the protocol fails: the laws that one server checks alone, by their names.
        ServerLaws,
        /// A log that is ahead of its reports makes no difference to a step.
        LogAheadChangesNothing,
        /// A log that is written within the step ends where a step and the reports of its writes end.
        WritingThroughChangesNothing,
        /// The protocol treats all servers alike: renaming them before a step or after it is the same.
        ServersAreAlike,
        /// What the rule of dead messages drops would change nothing, in any state that is reached from there.
        DeadMessagesAreDead,
    }
}

names! {
    /// Something that must be reached, or else the run has shown nothing.
    Goal {
        /// A leader.
        Leader,
        /// A commit.
        Commit,
        /// A leader of a second term.
        Reelection,
        /// A log that lost entries to a conflict.
        Truncation,
        /// An entry committed by a leader of a later term than its own.
        CommitOfAnOlderTerm,
        /// A crash that lost a write.
        LostWrite,
        /// A leader that stepped down for want of a quorum.
        StepDown,
        /// A read that is answered.
        Read,
        /// A read that is answered by a lease.
        LeaseRead,
        /// A read that is answered at a follower.
        FollowerRead,
        /// A leader that stepped down because it was told to.
        ToldToStepDown,
        /// A leader that stepped down while reads waited.
        ReadAborted,
        /// A leader that never campaigns but when its leader tells it to.
        LeaderByTransfer,
        /// A transfer that ended by its timeout.
        TransferEnded,
        /// A state machine that was replaced by a snapshot of another server.
        SnapshotRestored,
        /// A joint configuration that was left.
        JointLeft,
        /// A learner that got its vote by itself.
        Promotion,
        /// A leader whose removal is committed and that hands over.
        LeaderLeft,
        /// A configuration that was taken back by the truncation of its entry.
        ChangeTakenBack,
        /// A joiner that learned the configuration by a snapshot.
        MembershipBySnapshot,
        /// A server that found that it lost what it had acknowledged.
        LossFound,
        /// A leader that was told that a peer lost what it had acknowledged.
        LossTold,
        /// A commit by a leader that knows of a peer that it lost data.
        CommitWithoutTheLost,
    }
}

/// The laws that a step of one server breaks, as a mask.
#[must_use]
pub fn of_step(configuration: &Configuration, before: &Server, input: &Input, stepped: &Stepped) -> u64 {
    let after = &stepped.server;
    let (old, new) = (before.state(), after.state());
    let (old_disk, new_disk) = (before.disk.hard_state(), after.disk.hard_state());
    let crash = input.ends_life();
    let mut broken = 0;
    let mut check = |holds: bool, law: Law| broken |= if holds { 0 } else { law.bit() };
    let loses = input.loses_data();
    check(
        (loses || new_disk.term >= old_disk.term) && (crash || new.hard_state.term >= old.hard_state.term),
        Law::TermMonotonic,
    );
    check(crash || new.commit_index >= old.commit_index, Law::CommitMonotonic);
    check(
        (loses || votes_once(old_disk, new_disk)) && (crash || votes_once(old.hard_state, new.hard_state)),
        Law::VotesGrantedOnce,
    );
    let applied_grows = crash || new.applied_through >= old.applied_through;
    let applied_is_safe = new.applied_through <= new.commit_index && new.applied_through <= after.disk.last().index;
    let handed_out = crash || hands_out(&stepped.actions, &after.disk, &old, &new);
    check(applied_grows && applied_is_safe && handed_out, Law::AppliedInOrder);
    check(durable_is_on_disk(after, &new), Law::DurableWithinLog);
    let leads = |state: &ProtocolState| state.role == RoleKind::Leader;
    if !crash && leads(&old) && leads(&new) && old.hard_state.term == new.hard_state.term {
        let kept = same_entries(&before.log(), &after.log(), old.last.index);
        check(kept && new.last >= old.last, Law::LeaderAppendOnly);
    }
    check(stepped.sent.iter().all(|envelope| is_backed(envelope, after)), Law::PersistFirst);
    let misbehaved = stepped.actions.iter().any(|action| matches!(action, Action::Misbehaved { .. }));
    check(!misbehaved, Law::HonestServersBehave);
    check(pre_vote_is_harmless(before, input, stepped), Law::PreVoteLeavesHardStateAlone);
    let (disk_base, disk_snapshot) = (after.disk.base().index, after.disk.snapshot().index);
    let no_gap = disk_base <= disk_snapshot && disk_snapshot <= after.disk.last().index;
    check(no_gap && new.base.index <= new.snapshot.index, Law::CompactedIsCovered);
    let arrived =
        !crash && new.snapshot != old.snapshot && before.log().term(new.snapshot.index) == Some(new.snapshot.term);
    check(!arrived || new.last.index >= old.last.index, Law::SnapshotKeepsWhatFollows);
    check(crash || reads::end_once(&old, &new, input, &stepped.actions), Law::EveryReadEndsOnce);
    let campaigns = new.role == RoleKind::Candidate && (old.role != new.role || old.hard_state != new.hard_state);
    if configuration.pre_vote && campaigns {
        let is_next = new.hard_state.term == old.hard_state.term.next();
        let told = obeys_its_leader(input, &old, &new);
        check(told || (is_next && has_pre_votes(before, input, &old)), Law::CampaignHasPreVotes);
    }
    check(loss::is_told(before, input, stepped, &new), Law::LossIsTold);
    check(membership::answers_of_this_life(input, stepped, &old, &new), Law::AnswersOfThisLife);
    broken |=
        of_transfer(configuration, input, stepped, &old, &new) | membership::of_membership(configuration, after, &new);
    let mut check = |holds: bool, law: Law| broken |= if holds { 0 } else { law.bit() };
    if matches!(input, Input::Event(Event::QuorumCheckTimeout)) && leads(&new) {
        let active = old.progress.iter().filter(|peer| peer.active).map(|peer| peer.peer);
        let answered = positions_of(active.chain([before.protocol.id()]));
        let enough = Masks::of(before.protocol.membership()).is_quorum(answered);
        let asked_anew = new.progress.iter().all(|peer| !peer.active);
        check(enough && asked_anew, Law::CheckedLeaderHasAnswers);
    }
    broken
}

fn positions_of(ids: impl Iterator<Item = NodeId>) -> u8 {
    ids.fold(0, |mask, id| mask | 1 << position(id))
}

/// The laws of leadership transfer that a step breaks, as a mask.
fn of_transfer(
    configuration: &Configuration,
    input: &Input,
    stepped: &Stepped,
    old: &ProtocolState,
    new: &ProtocolState,
) -> u64 {
    let mut broken = 0;
    let mut check = |holds: bool, law: Law| broken |= if holds { 0 } else { law.bit() };
    let led = old.role == RoleKind::Leader;
    let goes_on_leading = led && new.role == RoleKind::Leader && old.hard_state.term == new.hard_state.term;
    if old.transfer.is_some() && goes_on_leading {
        // Once it has ended, a joint configuration may be left in the same step.
        let was_joint = old.memberships.last().is_some_and(|(_, membership)| membership.is_joint());
        let leaves = new.transfer.is_none() && was_joint && new.last.index == old.last.index.next();
        let left = leaves && new.memberships.last().is_some_and(|(index, _)| *index == new.last.index);
        check(left || new.last == old.last, Law::TransferAppendsNothing);
    }
    let told = stepped.sent.iter().filter(|envelope| matches!(envelope.message, Message::TimeoutNowRequest(_)));
    for envelope in told {
        let peer = new.progress.iter().find(|peer| peer.peer == envelope.to);
        let whole = peer.is_some_and(|peer| peer.match_index == new.last.index);
        let own = envelope.message.term() == new.hard_state.term && new.transfer == Some(envelope.to);
        check(whole && own, Law::TimeoutNowAfterWholeLog);
    }
    let is_told =
        matches!(input, Input::Event(Event::Receive(Envelope { message: Message::TimeoutNowRequest(_), .. })));
    let campaigns = new.role == RoleKind::Candidate && (old.role != new.role || old.hard_state != new.hard_state);
    let obeys = obeys_its_leader(input, old, new);
    check(!(is_told && campaigns) || obeys, Law::TimeoutNowFromOwnLeader);
    check(obeys || in_the_name_of_a_leader(new) <= in_the_name_of_a_leader(old), Law::TimeoutNowFromOwnLeader);
    check(transfer_ends(input, stepped, old, new, goes_on_leading), Law::EveryTransferEnds);
    if let Input::Event(Event::Receive(Envelope { message: Message::RequestVoteRequest(request), .. })) = input {
        let sticks = configuration.check_quorum && (old.leader_is_recent || led) && !request.leadership_transfer;
        let untouched = new == old && stepped.sent.is_empty() && stepped.actions.is_empty();
        let listens = new.hard_state.term >= request.term;
        check(if sticks { untouched } else { listens || old.lost }, Law::OnlyTransfersDisrupt);
    }
    broken
}

/// A follower campaigns because the leader that it follows tells it to, in the term after that leader's.
fn obeys_its_leader(input: &Input, old: &ProtocolState, new: &ProtocolState) -> bool {
    let Input::Event(Event::Receive(Envelope { from, message: Message::TimeoutNowRequest(request), .. })) = input
    else {
        return false;
    };
    let follows = old.role == RoleKind::Follower && old.leader == Some(*from);
    follows && request.term == old.hard_state.term && new.hard_state.term == request.term.next()
}

/// How many requests for votes wait for the disk that say so.
fn in_the_name_of_a_leader(state: &ProtocolState) -> usize {
    let waiting = state.writes.iter().flat_map(|write| &write.messages);
    let says_so = |message: &Message| matches!(message, Message::RequestVoteRequest(m) if m.leadership_transfer);
    waiting.filter(|envelope| says_so(&envelope.message)).count()
}

/// A transfer begins when it is asked for, or when a leader without a vote hears of a server that has one, and then goes on to
/// the same target: until its timeout, which says so, or until the server leads no more.
fn transfer_ends(
    input: &Input,
    Stepped { server, actions, .. }: &Stepped,
    old: &ProtocolState,
    new: &ProtocolState,
    goes_on_leading: bool,
) -> bool {
    let begun = actions.iter().filter_map(|action| match action {
        Action::TransferBegun { target } => Some(*target),
        _ => None,
    });
    let ended = actions.iter().filter_map(|action| match action {
        Action::TransferEnded { target } => Some(*target),
        _ => None,
    });
    let (begun, ended): (Vec<_>, Vec<_>) = (begun.collect(), ended.collect());
    if !goes_on_leading {
        return new.transfer.is_none() && begun.is_empty() && ended.is_empty();
    }
    let in_force = server.protocol.membership();
    let asked = match input {
        Input::Event(Event::TransferLeadership { target }) => Some(*target),
        Input::Event(Event::Receive(Envelope { from, message: Message::AppendEntriesResponse(_), .. })) => {
            Some(*from).filter(|from| in_force.is_voter(*from) && !in_force.is_voter(server.protocol.id()))
        }
        _ => None,
    };
    let is_over = matches!(input, Input::Event(Event::TransferTimeout));
    match (old.transfer, new.transfer) {
        (None, None) => begun.is_empty() && ended.is_empty(),
        (None, Some(target)) => begun == [target] && ended.is_empty() && asked == Some(target),
        (Some(target), None) => begun.is_empty() && ended == [target] && is_over,
        (Some(target), Some(later)) => later == target && begun.is_empty() && ended.is_empty() && !is_over,
    }
}

/// In one term, a vote stays where it is.
fn votes_once(old: HardState, new: HardState) -> bool {
    old.term != new.term || old.vote.is_none() || old.vote == new.vote
}

/// `Apply` and `RestoreSnapshot` say just how far the applied index went, and nothing is said when it stayed. The disk has
/// what is applied next, and the snapshot that is restored is the one that it knows of.
fn hands_out(actions: &[Action], disk: &MemoryLog, old: &ProtocolState, new: &ProtocolState) -> bool {
    let mut through = old.applied_through;
    for action in actions {
        let next = match action {
            Action::Apply { through: next } if disk.base().index <= through => *next,
            Action::RestoreSnapshot { last } if *last == disk.snapshot() => last.index,
            Action::Apply { .. } | Action::RestoreSnapshot { .. } => return false,
            _ => continue,
        };
        if next <= through {
            return false;
        }
        through = next;
    }
    through == new.applied_through
}

/// Whether two logs hold the same entries up to `last`, as far as neither has forgotten them.
fn same_entries(one: &MemoryLog, other: &MemoryLog, last: Index) -> bool {
    let base = one.base().index.max(other.base().index);
    let same_base = base > last || one.term(base) == other.term(base);
    same_base && one.range(base.next(), last.next()).eq(other.range(base.next(), last.next()))
}

/// What the protocol takes for durable is on the disk and no write in flight replaces it; with none in flight, that is all.
fn durable_is_on_disk(server: &Server, state: &ProtocolState) -> bool {
    let durable = state.durable.index;
    let log = server.log();
    let idle =
        !server.in_flight.is_empty() || (durable == log.last().index && state.snapshot == server.disk.snapshot());
    same_entries(&log, &server.disk, durable)
        && idle
        && durable <= server.disk.last().index
        && durable <= log.last().index
}

/// Whether what a message promises is on its sender's disk.
fn is_backed(envelope: &Envelope, sender: &Server) -> bool {
    let disk = sender.disk.hard_state();
    let term = envelope.message.term();
    let promise = match &envelope.message {
        // Who campaigns, and who leads, has voted for itself.
        Message::RequestVoteRequest(_)
        | Message::AppendEntriesRequest(_)
        | Message::ConfirmLeaderRequest(_)
        | Message::TimeoutNowRequest(_)
        | Message::InstallSnapshotRequest(_) => disk.term > term || disk.vote == Some(envelope.from),
        Message::RequestVoteResponse(response) if response.granted => {
            disk.term > term || disk.vote == Some(envelope.to)
        }
        Message::AppendEntriesResponse(response) => match response.result {
            // An answer to a leader of an earlier term promises nothing any more.
            AppendResult::Accepted { match_index } => disk.term > term || sender.disk.last().index >= match_index,
            _ => true,
        },
        _ => true,
    };
    // That data was lost is no promise, not even of the term.
    promise && (disk.term >= term || loss::is_told_by(envelope))
}

/// A question about an election changes nothing where it is asked, and no term or vote where it comes from.
fn pre_vote_is_harmless(before: &Server, input: &Input, stepped: &Stepped) -> bool {
    let Input::Event(event) = input else { return true };
    match event {
        Event::Receive(Envelope { message: Message::PreVoteRequest(_), .. }) => {
            let answers_only = stepped.actions.is_empty();
            // The answer may wait behind a write in flight: nothing else changes.
            let (old, mut new) = (before.state(), stepped.server.state());
            for (new, old) in new.writes.iter_mut().zip(&old.writes) {
                new.messages.clone_from(&old.messages);
            }
            answers_only && new == old && stepped.server.in_flight == before.in_flight
        }
        Event::ElectionTimeout if stepped.server.protocol.role() == RoleKind::PreCandidate => {
            let (old, new) = (before.state(), stepped.server.state());
            old.hard_state == new.hard_state && stepped.server.in_flight == before.in_flight
        }
        _ => true,
    }
}

/// Whether the grants before this input, and the one that it brings, are those of a quorum for the next term. Its own is always
/// given; those of others count for nobody but a pre-candidate.
fn has_pre_votes(before: &Server, input: &Input, old: &ProtocolState) -> bool {
    let own = before.protocol.id();
    let asked = old.role == RoleKind::PreCandidate;
    let mut granted = if asked { old.votes_granted.clone() } else { Vec::new() };
    if !granted.contains(&own) {
        granted.push(own);
    }
    if let Input::Event(Event::Receive(Envelope { from, message: Message::PreVoteResponse(response), .. })) = input {
        let counts = asked && response.granted && response.campaign_term == old.hard_state.term.next();
        if counts && !granted.contains(from) {
            granted.push(*from);
        }
    }
    Masks::of(before.protocol.membership()).is_quorum(positions_of(granted.into_iter()))
}

/// What a step shows of the goals, as a mask.
#[must_use]
pub fn goals_of_step(before: &Facts, after: &Facts, input: &Input, actions: &[Action]) -> u64 {
    let mut reached = 0;
    let mut reach = |is: bool, goal: Goal| reached |= if is { goal.bit() } else { 0 };
    let crash = input.ends_life();
    reach(after.role == RoleKind::Leader, Goal::Leader);
    reach(after.commit > before.commit, Goal::Commit);
    let length = before.log.len();
    let kept = after.log.len() >= length && after.log.agrees(before.log, length);
    let replaced = after.snapshot != before.snapshot && after.log.len() == after.log.base();
    reach(!crash && !kept && !replaced, Goal::Truncation);
    reach(actions.iter().any(|action| matches!(action, Action::RestoreSnapshot { .. })), Goal::SnapshotRestored);
    reach(crash && !input.loses_data() && (after.log != before.log || after.term != before.term), Goal::LostWrite);
    let checked = matches!(input, Input::Event(Event::QuorumCheckTimeout));
    reach(checked && before.role == RoleKind::Leader && after.role != RoleKind::Leader, Goal::StepDown);
    let answers = actions.iter().any(|action| matches!(action, Action::ReadReady { .. }));
    reach(answers, Goal::Read);
    reach(
        answers && before.has_lease && matches!(input, Input::Event(Event::LeaseReadRequest { .. })),
        Goal::LeaseRead,
    );
    reach(answers && before.role == RoleKind::Follower, Goal::FollowerRead);
    let told = matches!(input, Input::Event(Event::StepDown));
    reach(told && before.role == RoleKind::Leader && after.role == RoleKind::Follower, Goal::ToldToStepDown);
    reach(actions.iter().any(|action| matches!(action, Action::ReadAborted { .. })), Goal::ReadAborted);
    reach(actions.iter().any(|action| matches!(action, Action::TransferEnded { .. })), Goal::TransferEnded);
    let [old, new] = [before.in_force.1, after.in_force.1];
    let appends = after.in_force.0 > before.in_force.0;
    reach(appends && old.is_joint() && new == old.settled(), Goal::JointLeft);
    let promoted = old.promoting & new.voters;
    reach(appends && promoted != 0 && old.voters | promoted == new.voters, Goal::Promotion);
    let begun = actions.iter().any(|action| matches!(action, Action::TransferBegun { .. }));
    reach(begun && old.voting() & 1 << before.position == 0, Goal::LeaderLeft);
    reach(!crash && after.in_force.0 < before.in_force.0, Goal::ChangeTakenBack);
    let by_snapshot = after.snapshot.0 == after.in_force.0 && after.snapshot != before.snapshot;
    reach(after.lost && !before.lost, Goal::LossFound);
    reach(after.accused & !before.accused != 0, Goal::LossTold);
    reach(after.accused != 0 && after.commit > before.commit, Goal::CommitWithoutTheLost);
    reach(old.members() == 0 && new.members() != 0 && by_snapshot, Goal::MembershipBySnapshot);
    if after.role == RoleKind::Leader && after.commit > before.commit {
        let older = (u32::from(before.commit)..u32::from(after.commit)).any(|at| after.log.term(at) < after.term);
        reach(older, Goal::CommitOfAnOlderTerm);
    }
    reached
}

/// The laws that a state of the cluster breaks, as a mask. `leaders` has one byte per term: who ever led it.
#[must_use]
pub fn of_state(memberships: Memberships<'_>, servers: &[&Facts], leaders: u64, committed: PackedLog) -> u64 {
    let mut broken = 0;
    let mut check = |holds: bool, law: Law| broken |= if holds { 0 } else { law.bit() };
    let rolled_back =
        servers.iter().filter(|server| server.rolled_back).fold(0, |mask, server| mask | 1 << server.position);
    let at_most_one = |mask: u8| mask & mask.wrapping_sub(1) == 0;
    check(leaders.to_le_bytes().into_iter().all(at_most_one), Law::ElectionSafety);
    for (at, one) in servers.iter().enumerate() {
        check(one.log.matches(one.disk_log), Law::LogMatching);
        for other in &servers[at + 1..] {
            let matching = one.log.matches(other.log)
                && (one.disk_log == one.log || one.disk_log.matches(other.log))
                && (other.disk_log == other.log
                    || (one.log.matches(other.disk_log) && one.disk_log.matches(other.disk_log)));
            check(matching, Law::LogMatching);
        }
        let commit = u32::from(one.commit);
        let known = commit <= one.log.len() && commit <= committed.len();
        check(known && one.log.holds(committed, commit), Law::StateMachineSafety);
        check(!one.lost || one.rolled_back, Law::NobodyIsAccused);
        let is_committed = |(index, term): (u8, u8)| {
            index == 0 || (u32::from(index) <= committed.len() && committed.term(u32::from(index) - 1) == term)
        };
        check(is_committed(one.snapshot) && is_committed(one.disk_snapshot), Law::SnapshotConsistent);
        if one.role == RoleKind::Leader {
            check(leader_is_complete(one, committed), Law::LeaderCompleteness);
            let later = (leaders >> (8 * one.term)) >> 8;
            check(!one.has_lease || later == 0, Law::LeaseSafe);
            check(memberships.elected(one, committed).is_quorum(voters_of(servers, one)), Law::LeaderHasQuorum);
            check(servers.iter().all(|peer| match_is_sound(one, peer)), Law::MatchIndexSound);
            check(one.accused & !rolled_back == 0, Law::NobodyIsAccused);
            check(memberships.promoted_hold_the_log(one, servers, committed), Law::PromotedHasLog);
        }
    }
    if !committed.is_empty() {
        // Who holds the last entry durably holds all before it.
        let length = committed.len();
        let holds = |server: &&&Facts| server.disk_log.len() >= length && server.disk_log.holds(committed, length);
        let holders = servers.iter().filter(holds).fold(rolled_back, |mask, server| mask | 1 << server.position);
        check(memberships.is_durable(holders, committed), Law::CommittedIsDurable);
    }
    broken
}

/// Everything that was committed in an earlier term is in the leader's log.
fn leader_is_complete(leader: &Facts, committed: PackedLog) -> bool {
    let mut earlier = (0..committed.len()).filter(|&at| committed.commit_term(at) < leader.term);
    earlier.next_back().is_none_or(|at| leader.log.len() > at && leader.log.holds(committed, at + 1))
}

/// Those whose disks hold a vote for the leader, or have moved on since, or did before they were put back.
fn voters_of(servers: &[&Facts], leader: &Facts) -> u8 {
    let voted = |server: &&&Facts| {
        server.rolled_back
            || server.disk_term > leader.term
            || (server.disk_term == leader.term && server.disk_vote == leader.position)
    };
    debug_assert_ne!(leader.position, NOBODY);
    servers.iter().filter(voted).fold(0, |mask, server| mask | 1 << server.position)
}

/// What the leader believes of a peer in its term is on the peer's disk, unless that was put back.
fn match_is_sound(leader: &Facts, peer: &Facts) -> bool {
    let matched = u32::from(leader.matches[peer.position as usize]);
    let present = matched <= leader.log.len() && matched <= peer.disk_log.len();
    let agrees = present && peer.disk_log.agrees(leader.log, matched);
    peer.term != leader.term || agrees || peer.rolled_back
}
