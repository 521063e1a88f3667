-------------------------------- MODULE Raft --------------------------------
(***************************************************************************)
(* The Raft protocol as raft-io ships it.                                  *)
(*                                                                         *)
(* One action is one input of `Protocol::step`: a timeout, a message, a    *)
(* proposal, a report that writes are durable.  There are no smaller       *)
(* steps, so a state of this spec is a state of the code between two       *)
(* calls, variable by variable, and TLC and the code can be compared state *)
(* by state.  The names are those of the code: an action is a variant of   *)
(* `Transition` and a function `handle_...` or `..._timeout`, an operator  *)
(* is a function in src/protocol, a law a row of docs/INVARIANTS.md.       *)
(*                                                                         *)
(* What is decided and what is durable are kept apart.  A server writes to *)
(* its disk through a queue; what depends on a write waits behind it; a    *)
(* crash keeps the disk and any prefix of the queue.                       *)
(*                                                                         *)
(* Section numbers are those of D. Ongaro's dissertation, "Consensus:      *)
(* Bridging Theory and Practice" (Stanford, 2014).  RaftServer.tla says    *)
(* what a server does within a step, RaftMembership.tla what a             *)
(* configuration is; RaftLaws.tla what must hold.                          *)
(***************************************************************************)
EXTENDS RaftServer, TLC

CONSTANTS
    \* Who and what there is to explore.
    Voters, Learners,   \* the configuration that the cluster begins with; everybody else knows none yet
    Targets,            \* the configurations that are ever asked for: voters, learners, and who of these is promoting
    Campaigners,        \* the servers whose election timeout ever fires
    Readers,            \* the servers at which clients read though they follow
    Heartbeats,         \* whether leaders send heartbeats
    ClientRequests,     \* whether clients propose commands
    StepDowns,          \* whether leaders are told to lead no more
    BoundedClocks,      \* whether a lease is over before the minimum election timeout of anybody who promised it passes
    \* Bounds: an action that would lead beyond one is not taken.
    MaxTerm,            \* the highest term
    MaxLogLength,       \* the longest log
    MaxPending,         \* the most writes in flight at one server
    MaxCrashes,         \* the most crashes in a history
    MaxReads,           \* the most reads in a history, and the most rounds of confirmation in a term
    MaxTransfers,       \* the most transfers of leadership in a history
    MaxSnapshots,       \* the most snapshots taken in a history
    MaxChanges,         \* the most changes of the configuration asked for in a history
    MaxWipes,           \* the most disks wiped in a history, each of a server that was removed
    Restorable,         \* the servers of whose disks somebody makes a copy, and puts it back later, each once
    Trails,             \* how many of the entries that a snapshot covers the log may keep
    \* The network.  "lossy" holds at most MaxMessages; what is handled leaves it, anything may be lost, and what finds
    \* no room is lost.  "monotone" forgets nothing: a message can be handled at any later time, any number of times,
    \* or never, which is loss, reordering and duplication in one.
    Network, MaxMessages,
    Duplication         \* whether a lossy network may deliver a message and keep it

VARIABLES
    messages,           \* the messages on their way
    \* What a server has decided.  Term, vote and log are on its disk once the writes in flight are.
    currentTerm, votedFor, log,
    role,               \* "Follower", "PreCandidate", "Candidate" or "Leader"
    leader,             \* the leader of the term, as far as known
    leaderIsRecent,     \* the leader was heard within the minimum election timeout (4.2.3)
    session,            \* in which session the leader last sent an append or an offer; Nil before the first
    lost,               \* it found that its disk lacks what it acknowledged, and does nothing any more
    votesGranted, votesRefused,     \* empty unless campaigning or asking to
    snapshot,           \* the last entry that the newest snapshot covers
    snapshotMembership, \* the configuration as of that entry
    fetch,              \* the snapshot that is being fetched: who offered it, the last entry that it covers, the
                        \* configuration as of that
    commitIndex,        \* the highest index known committed
    appliedIndex,       \* the last index handed out for applying
    durableIndex,       \* up to here the log is on the disk, and no write in flight replaces it
    progress,           \* what a leader knows of its peers; empty in other roles
    readRound,          \* the last round of confirmation that a leader began; 0 in other roles
    leaseOver,          \* the last round whose lease is over; 0 in other roles
    leaseGivenUp,       \* a leader told a server to campaign, and has no lease any more
    reads,              \* the reads that wait for a leader's confirmation, and the follower that asked; Nil for its own
    followerReads,      \* the reads of a follower that wait for its leader's answer; empty in other roles
    readsAsked,         \* how many of these the last question was about; 0 in other roles
    transfer,           \* whom a leader hands over to; Nil without a transfer and in other roles
    pending,            \* the writes in flight, oldest first, with the messages that wait behind each
    disk,               \* its number, term, vote, log, the newest snapshot's name and configuration: what survives a crash
    \* What nobody in the cluster can see: history, for the laws.
    leaders,            \* <<term, server>> of everyone who ever led
    committed,          \* everything ever committed, with the term of the server that committed it first
    heard,              \* with leases, the last round that each server heard in a term: <<term, round>>
    readHistory,        \* of every read what was committed when it began, and where it was answered
    transfers,          \* how many there were
    snapshotsTaken,     \* how many there were
    changes,            \* how many were asked for
    crashes,            \* how many there were
    losses,             \* how often a disk was wiped
    backup,             \* the copies of disks that there are: of each server none or one
    rolledBack          \* the servers whose disk was put back to its copy, and not wiped since

serverVars == <<currentTerm, votedFor, log, role, leader, leaderIsRecent, session, lost, votesGranted, votesRefused,
                snapshot, snapshotMembership, fetch, commitIndex, appliedIndex, durableIndex, progress, readRound, leaseOver,
                leaseGivenUp, reads, followerReads, readsAsked, transfer, pending, disk>>
vars == <<messages, serverVars, leaders, committed, heard, readHistory, transfers, snapshotsTaken, changes, crashes, losses,
          backup, rolledBack>>

-----------------------------------------------------------------------------
(* Into a step and out of it                                               *)

Local(i) ==
    [id |-> i, term |-> currentTerm[i], vote |-> votedFor[i], log |-> log[i], role |-> role[i], leader |-> leader[i],
     recent |-> leaderIsRecent[i], session |-> session[i], lost |-> lost[i], granted |-> votesGranted[i], refused |-> votesRefused[i],
     snapshot |-> snapshot[i], snapshotMembership |-> snapshotMembership[i], fetch |-> fetch[i],
     commit |-> commitIndex[i], applied |-> appliedIndex[i],
     durable |-> durableIndex[i], progress |-> progress[i], readRound |-> readRound[i],
     leaseOver |-> leaseOver[i], leaseGivenUp |-> leaseGivenUp[i], heard |-> heard[i], reads |-> reads[i],
     followerReads |-> followerReads[i], readsAsked |-> readsAsked[i],
     transfer |-> transfer[i], pending |-> pending[i], disk |-> disk[i],
     dirty |-> FALSE, out |-> {}, begins |-> FALSE, answered |-> {}]

\* What the network may hold after `sent` went into it, when it held `held`.
Networks(held, sent) ==
    LET fresh == sent \ held
        room == MaxMessages - Cardinality(held)
    IN IF Network = "monotone" \/ Cardinality(fresh) <= room THEN {held \cup fresh}
       ELSE {held \cup kept : kept \in {some \in SUBSET fresh : Cardinality(some) = room}}

NewlyCommitted(n) ==
    [k \in 1..(n.commit - Len(committed)) |->
        LET entry == n.log[Len(committed) + k]
        IN [term |-> entry.term, payload |-> entry.payload, membership |-> entry.membership, commitTerm |-> n.term]]

\* A read that begins now must find all that is committed by now; `Nil` until it is answered.
ReadsAfter(n) ==
    LET begun == IF n.begins THEN Append(readHistory, [floor |-> Len(committed), index |-> Nil]) ELSE readHistory
        answers(context) == {read \in n.answered : read.context = context}
    IN IF n.answered = {} THEN begun
       ELSE [context \in DOMAIN begun |->
           IF answers(context) = {} THEN begun[context]
           ELSE [begun[context] EXCEPT !.index = (CHOOSE read \in answers(context) : TRUE).index]]

IsWithinBounds(n) ==
    /\ n.term <= MaxTerm
    /\ Len(n.log) <= MaxLogLength
    /\ Len(n.pending) <= MaxPending
    /\ n.readRound <= MaxReads

\* Makes `server` what it is, if that is within the bounds.  `held` is what the network holds apart from what it sends.
\* (The quantifier has TLC evaluate `server` once and not for each variable.)
Install(server, held) == \E n \in {server} :
    /\ IsWithinBounds(n)
    /\ messages' \in Networks(held, n.out)
    /\ currentTerm' = [currentTerm EXCEPT ![n.id] = n.term]
    /\ votedFor' = [votedFor EXCEPT ![n.id] = n.vote]
    /\ log' = [log EXCEPT ![n.id] = n.log]
    /\ role' = [role EXCEPT ![n.id] = n.role]
    /\ leader' = [leader EXCEPT ![n.id] = n.leader]
    /\ leaderIsRecent' = [leaderIsRecent EXCEPT ![n.id] = n.recent]
    /\ session' = [session EXCEPT ![n.id] = n.session]
    /\ lost' = [lost EXCEPT ![n.id] = n.lost]
    /\ votesGranted' = [votesGranted EXCEPT ![n.id] = n.granted]
    /\ votesRefused' = [votesRefused EXCEPT ![n.id] = n.refused]
    /\ snapshot' = [snapshot EXCEPT ![n.id] = n.snapshot]
    /\ snapshotMembership' = [snapshotMembership EXCEPT ![n.id] = n.snapshotMembership]
    /\ fetch' = [fetch EXCEPT ![n.id] = n.fetch]
    /\ commitIndex' = [commitIndex EXCEPT ![n.id] = n.commit]
    /\ appliedIndex' = [appliedIndex EXCEPT ![n.id] = n.applied]
    /\ durableIndex' = [durableIndex EXCEPT ![n.id] = n.durable]
    /\ progress' = [progress EXCEPT ![n.id] = n.progress]
    /\ readRound' = [readRound EXCEPT ![n.id] = n.readRound]
    /\ leaseOver' = [leaseOver EXCEPT ![n.id] = n.leaseOver]
    /\ leaseGivenUp' = [leaseGivenUp EXCEPT ![n.id] = n.leaseGivenUp]
    /\ heard' = [heard EXCEPT ![n.id] = n.heard]
    /\ reads' = [reads EXCEPT ![n.id] = n.reads]
    /\ followerReads' = [followerReads EXCEPT ![n.id] = n.followerReads]
    /\ readsAsked' = [readsAsked EXCEPT ![n.id] = n.readsAsked]
    /\ transfer' = [transfer EXCEPT ![n.id] = n.transfer]
    /\ pending' = [pending EXCEPT ![n.id] = n.pending]
    /\ disk' = [disk EXCEPT ![n.id] = n.disk]
    /\ leaders' = IF n.role = "Leader" THEN leaders \cup {<<n.term, n.id>>} ELSE leaders
    /\ committed' = IF n.commit > Len(committed) THEN committed \o NewlyCommitted(n) ELSE committed
    /\ readHistory' = ReadsAfter(n)

\* A server's own step: whatever it hears of the network it hears by messages.
Stepped(n) ==
    /\ Install(n, messages)
    /\ UNCHANGED <<transfers, snapshotsTaken, changes, crashes, losses, backup, rolledBack>>

\* What has arrived at a server, as far as the network delivers it.
Inbox(i, type) == {m \in messages : m.to = i /\ m.type = type}

\* The receiver of a message once its term has spread (3.3).
Received(m) == LET n == Local(m.to) IN IF m.term > n.term THEN UpdateTerm(n, m.term) ELSE n

\* The handler of `m` makes `n` of its receiver, unless that does nothing any more.
Handle(m, n) ==
    /\ \E stays \in (IF Network = "monotone" THEN {TRUE} ELSE IF Duplication THEN BOOLEAN ELSE {FALSE}) :
          Install(IF lost[m.to] THEN Local(m.to) ELSE n, IF stays THEN messages ELSE messages \ {m})
    /\ UNCHANGED <<transfers, snapshotsTaken, changes, crashes, losses, backup, rolledBack>>

-----------------------------------------------------------------------------
(* Timeouts (3.4, 4.2.3, 6.2) and clients                                  *)

\* A leader's lease is over before anybody who promised it may vote again, or campaign: this is what the clocks have to hold.
IsBound(i) ==
    /\ BoundedClocks
    /\ \E j \in Server \ {i} :
          role[j] = "Leader" /\ \E h \in heard[i] : h[1] = currentTerm[j] /\ h[2] > leaseOver[j]

\* No leader was heard for a randomised timeout: campaign, or ask first whether to.
ElectionTimeout(i) ==
    /\ role[i] # "Leader"
    /\ ~lost[i]
    /\ i \in Campaigners
    /\ ~IsBound(i)
    /\ MayCampaign(Local(i))
    /\ Stepped(IF PreVote THEN BecomePreCandidate(Local(i)) ELSE BecomeCandidate(Local(i), FALSE))

\* The leader was not heard for the minimum election timeout: listen to candidates again, and let no read wait for it.
MinimumElectionTimeout(i) ==
    /\ leaderIsRecent[i] \/ followerReads[i] # <<>>
    /\ ~lost[i]
    /\ ~IsBound(i)
    /\ LET unheard == [Local(i) EXCEPT !.recent = FALSE]
       IN Stepped(IF role[i] = "Follower" THEN AbortReads(unheard) ELSE unheard)

\* A leader assures every follower that it leads, and finds out what got lost: an empty append after the last entry
\* sent.  Like all its appends it promises nothing about its own disk, and waits for no write.  Who needs what is forgotten
\* is offered a snapshot, again and again.  Reads that wait are asked for again, and the target of a transfer is told again.
SendHeartbeats(n) ==
    LET prevIndex(j) == Max(n.progress[j].nextIndex - 1, Base(n.log))
        needy == {j \in Peers(n) : n.progress[j].nextIndex - 1 < Base(n.log) /\ n.progress[j].lost = 0}
    IN [n EXCEPT !.out = {AppendEntriesRequest(n, j, prevIndex(j), <<>>) : j \in Peers(n)} \cup
                         {InstallSnapshotRequest(n, j) : j \in needy},
                 !.progress = [j \in Peers(n) |-> IF j \in needy THEN AwaitsSnapshot(@[j]) ELSE @[j]]]

HeartbeatTimeout(i) ==
    /\ Heartbeats
    /\ role[i] = "Leader"
    /\ Stepped(SendTimeoutNow(RepeatReadRound(SendHeartbeats(Local(i)))))

\* A leader that no quorum answered since the last check steps down, so that its clients turn elsewhere.
CheckAnswers(n) ==
    LET answered == {j \in Peers(n) : n.progress[j].active}
    IN IF IsQuorum(InForce(n), answered \cup {n.id})
       THEN [n EXCEPT !.progress = [j \in Peers(n) |-> [@[j] EXCEPT !.active = FALSE]]]
       ELSE BecomeFollower(n, Nil)

QuorumCheckTimeout(i) ==
    /\ CheckQuorum
    /\ role[i] = "Leader"
    /\ Stepped(CheckAnswers(Local(i)))

\* A leader that cannot do its work leads no more.
StepDown(i) ==
    /\ StepDowns
    /\ role[i] = "Leader"
    /\ Stepped(BecomeFollower(Local(i), Nil))

\* Refused by a leader that hands over.
ClientRequest(i) ==
    /\ ClientRequests
    /\ role[i] = "Leader"
    /\ transfer[i] = Nil
    /\ Stepped(AppendAsLeader(Local(i), <<Entry(currentTerm[i], "Command")>>))

-----------------------------------------------------------------------------
(* Pre-votes and votes (3.4, 9.6)                                          *)
(*                                                                         *)
(* For each kind of message there is what its receiver is afterwards,      *)
(* `After...(m)`, and the action.  A higher term is taken over first, and  *)
(* what changed of term and vote is written before the step ends.          *)

\* Answers whether the sender would get this server's vote.  Changes nothing here, and not even the term spreads (9.6).
AfterPreVoteRequest(m) ==
    LET n == Local(m.to)
        granted == m.campaignTerm > n.term /\ IsUpToDate(n, m.last)
    IN IF DisregardsCandidates(n) THEN n ELSE Send(n, PreVoteResponse(n, m.from, m.campaignTerm, granted))

HandlePreVoteRequest(i) == \E m \in Inbox(i, "PreVoteRequest") : Handle(m, AfterPreVoteRequest(m))

\* Counts an answer to the present question, of a server with a vote.
AfterPreVoteResponse(m) ==
    LET n == Received(m)
        counts == n.role = "PreCandidate" /\ m.campaignTerm = n.term + 1 /\ HasVote(InForce(n), m.from)
    IN PersistHardState(IF counts THEN CountPreVote(n, m.from, m.granted) ELSE n)

HandlePreVoteResponse(i) == \E m \in Inbox(i, "PreVoteResponse") : Handle(m, AfterPreVoteResponse(m))

\* Grants the vote at most once a term, to a candidate whose log holds everything that may be committed (3.6.1).
VoteFor(n, m) ==
    LET granted == m.term = n.term /\ n.vote \in {Nil, m.from} /\ IsUpToDate(n, m.last)
        voted == IF granted /\ n.vote = Nil THEN [n EXCEPT !.vote = m.from, !.dirty = TRUE] ELSE n
        \* It supports another candidate now; answers to its own question no longer matter.
        durable == PersistHardState(IF granted /\ n.role = "PreCandidate" THEN BecomeFollower(voted, Nil) ELSE voted)
    IN Send(durable, RequestVoteResponse(durable, m.from, granted))

\* The term of a candidate that there is no reason to listen to does not spread (4.2.3).  The leader's own wish is one
\* (3.10).
AfterRequestVoteRequest(m) ==
    IF DisregardsCandidates(Local(m.to)) /\ ~m.leadershipTransfer THEN Local(m.to) ELSE VoteFor(Received(m), m)

HandleRequestVoteRequest(i) == \E m \in Inbox(i, "RequestVoteRequest") : Handle(m, AfterRequestVoteRequest(m))

\* Counts an answer of the present campaign, of a server with a vote.  Its requests leave once the own vote is durable and counted: what comes
\* earlier answers no question of this campaign.
AfterRequestVoteResponse(m) ==
    LET n == Received(m)
        counts == n.role = "Candidate" /\ n.id \in n.granted /\ m.term = n.term /\ HasVote(InForce(n), m.from)
    IN PersistHardState(IF counts THEN CountVote(n, m.from, m.granted) ELSE n)

HandleRequestVoteResponse(i) == \E m \in Inbox(i, "RequestVoteResponse") : Handle(m, AfterRequestVoteResponse(m))

-----------------------------------------------------------------------------
(* Appends (3.5)                                                           *)
(*                                                                         *)
(* With each that carries nothing, as a heartbeat does, the leader is      *)
(* asked again about the reads that wait here: question or answer may have *)
(* got lost.                                                               *)

\* `from` leads this term.
Follow(n, from) ==
    LET follower == IF n.leader # from \/ n.role # "Follower" THEN BecomeFollower(n, from) ELSE n
    IN [follower EXCEPT !.recent = CheckQuorum]

\* The same, and says in which session it does.
Attend(n, m) == [Follow(n, m.from) EXCEPT !.session = m.session]

\* How many of the entries are here already: all before the first that is new or differs.
Known(n, m) ==
    LET isHere(k) == Admits(n.log, EntryId(m.prev.index + k, m.entries[k].term))
    IN CHOOSE known \in 0..Len(m.entries) :
           /\ known < Len(m.entries) => ~isHere(known + 1)
           /\ \A k \in 1..known : isHere(k)

\* Decides what to do with an append of the present term.  An honest leader neither leads a term that another leads nor
\* asks to replace what is committed: the code reports such a peer and drops its message.
DecideAppend(n, m) ==
    LET hasPrev == Admits(n.log, m.prev)
        known == Known(n, m)
    IN CASE n.leader \notin {Nil, m.from} -> "Misbehaved"
         [] n.leader \in {Nil, m.from} /\ ~hasPrev ->
                IF m.prev.index <= n.commit THEN "Misbehaved" ELSE "Reject"
         [] OTHER ->
                IF known < Len(m.entries) /\ m.prev.index + known + 1 <= n.commit THEN "Misbehaved" ELSE "Accept"

\* Appends what is new.  Entries that are here already stay: a delayed message must not undo a later one, and only a
\* real conflict truncates (Figure 3.1).  The answer covers what the request vouches for and no more: what follows in
\* this log may differ from the leader's.
AcceptEntries(n, m) ==
    LET known == Known(n, m)
        first == m.prev.index + known + 1
        matchIndex == m.prev.index + Len(m.entries)
        truncateFrom == IF first <= Len(n.log) THEN first ELSE 0
        written == IF known = Len(m.entries) THEN PersistHardState(n)
                   ELSE Persist(n, truncateFrom, SubSeq(m.entries, known + 1, Len(m.entries)))
        advanced == AdvanceCommitTo(written, Min(m.commit, matchIndex))
    IN Send(advanced, AppendEntriesResponse(advanced, m.from, ResultAccepted(matchIndex), m.session))

RejectEntries(n, m) ==
    LET hint == AgreeMax(n.log, Min(m.prev.index, Len(n.log)), m.prev.term)
        durable == PersistHardState(n)
    IN Send(durable, AppendEntriesResponse(durable, m.from, ResultRejected(m.prev.index, hint), m.session))

\* Names the request something that was acknowledged on this very disk?
IsNamedBy(n, m) == m.acknowledged > 0 /\ m.disk = n.disk.number

\* The disk lacks what the request names: it does not even know the term in which that was acknowledged; or it is too short; or
\* something else stands in its place.  The leader sends what follows what was acknowledged, so where the logs agree up to there
\* they can agree at least as far.  What a fetched snapshot covers is there.
LacksAcknowledged(n, m) ==
    /\ m.term >= n.term
    /\ IsNamedBy(n, m)
    /\ \/ m.term > n.term
       \/ /\ m.acknowledged > Max(n.durable, n.snapshot.index)
          /\ DecideAppend(n, m) # "Misbehaved"
       \/ /\ DecideAppend(n, m) = "Reject"
          /\ \/ m.prev.index <= m.acknowledged
             \/ AgreeMax(n.log, Min(m.prev.index, Len(n.log)), m.prev.term).index < m.acknowledged

\* This server lost data: it tells the leader, and does nothing any more.  That promises nothing, and waits for no write.
Lose(n, m) ==
    LET told == [AppendEntriesResponse(n, m.from, ResultLost(m.acknowledged, n.durable), m.session) EXCEPT !.term = m.term]
    IN [BecomeFollower(n, Nil) EXCEPT !.fetch = NoFetch, !.lost = TRUE, !.out = @ \cup {told}]

AskWithHeartbeat(n, m) == IF m.entries = <<>> THEN AskReadIndex(n) ELSE n

\* Takes over a leader's entries, as far as the logs agree before them.
AfterAppendEntriesRequest(m) ==
    LET n == Received(m)
        decision == IF m.term < n.term THEN "StaleTerm" ELSE DecideAppend(n, m)
    IN CASE LacksAcknowledged(Local(m.to), m) -> Lose(Local(m.to), m)
         [] OTHER ->
       CASE decision = "StaleTerm" -> Send(n, AppendEntriesResponse(n, m.from, ResultStaleTerm, m.session))
         [] decision = "Misbehaved" -> PersistHardState(n)
         [] decision = "Reject" -> AskWithHeartbeat(RejectEntries(Attend(n, m), m), m)
         [] decision = "Accept" -> AskWithHeartbeat(AcceptEntries(Attend(n, m), m), m)

HandleAppendEntriesRequest(i) == \E m \in Inbox(i, "AppendEntriesRequest") : Handle(m, AfterAppendEntriesRequest(m))

\* With `p` known of a follower: commits what a quorum holds, and sends what comes next.  The target of a transfer that
\* has caught up is told to campaign; and the configuration may go on.
LearnFrom(n, from, p) ==
    LET learned == [n EXCEPT !.progress[from] = p]
        committing == IF p.matchIndex > n.commit THEN AdvanceCommit(learned) ELSE learned
        sending == IF MaySend(p, n.durable) THEN ReplicateTo(committing, from) ELSE committing
        catchesUp == n.transfer = from /\ p.matchIndex > n.progress[from].matchIndex
    IN AdvanceMembership(IF catchesUp THEN SendTimeoutNow(sending) ELSE sending, from)

\* Learns what a follower holds.  An acknowledgement of what this leader does not have comes from no honest follower.  What
\* is dropped changes nothing; but one that waits for a snapshot has no other answer to a heartbeat than a refusal.
HandleResult(n, from, result, number) ==
    LET answered == [n EXCEPT !.progress[from].active = TRUE]
        p == answered.progress[from]
        bound == Min(result.hint.index, result.prevIndex - 1)
    IN CASE result.kind = "Accepted" ->
                IF result.matchIndex > Len(n.log) THEN n ELSE LearnFrom(answered, from, Accepted(p, result.matchIndex, number))
         [] result.kind = "Rejected" ->
                IF RefusalIsCurrent(p, result.prevIndex)
                THEN LearnFrom(answered, from, Refused(p, AgreeMax(n.log, bound, result.hint.term).index))
                ELSE IF p.state = "Snapshot" THEN answered ELSE n
         [] result.kind = "StaleTerm" -> n
         [] result.kind = "LostAcknowledged" ->
                IF number = p.disk /\ result.acknowledged \in 1..p.matchIndex THEN [n EXCEPT !.progress[from] = Lost(@)] ELSE n

\* An answer to an earlier term's append says nothing about this term's; nor does one of who is no member any more, or of a
\* former life of who was removed and added again; and who lost data is believed nothing.
IsAnswer(n, m) ==
    /\ m.term = n.term
    /\ n.role = "Leader"
    /\ m.from \in Peers(n)
    /\ m.session = n.progress[m.from].session
    /\ n.progress[m.from].lost = 0

AfterAppendEntriesResponse(m) ==
    LET n == Received(m)
    IN PersistHardState(IF IsAnswer(n, m) THEN HandleResult(n, m.from, m.result, m.disk) ELSE n)

HandleAppendEntriesResponse(i) ==
    \E m \in Inbox(i, "AppendEntriesResponse") : Handle(m, AfterAppendEntriesResponse(m))

-----------------------------------------------------------------------------
(* Snapshots (5)                                                           *)

\* A snapshot of what this server has applied is durable.  It is no use to who does not know the configuration as of it.
SnapshotTaken(i) ==
    /\ snapshotsTaken < MaxSnapshots
    /\ ~lost[i]
    /\ snapshotsTaken' = snapshotsTaken + 1
    /\ \E index \in (snapshot[i].index + 1)..appliedIndex[i], trail \in Trails :
          /\ AsOf(Local(i), index) # NoMembership
          /\ Install(TakeSnapshot(Local(i), index, index - trail), messages)
    /\ UNCHANGED <<transfers, changes, crashes, losses, backup, rolledBack>>

\* Decides what to do with an offer of the present term.  An honest leader offers nothing that contradicts what is committed.
DecideSnapshot(n, m) ==
    LET isLater == m.last.index > n.commit
        contradicts == IF isLater THEN TermAt(n.log, n.commit) > m.last.term ELSE ~Admits(n.log, m.last)
    IN IF n.leader \notin {Nil, m.from} \/ contradicts THEN "Misbehaved"
       ELSE IF isLater /\ ~Holds(n.log, m.last) THEN "Fetch" ELSE "Known"

\* A fetch goes on though its leader has a newer snapshot by now: else one that takes longer than the time between two
\* snapshots would never end.
BeginFetch(n, m) ==
    IF n.fetch # NoFetch /\ n.fetch[1].from = m.from THEN n
    ELSE [n EXCEPT !.fetch = <<[from |-> m.from, last |-> m.last, membership |-> m.membership]>>]

\* The leader's log begins after what this server needs.  What its log reaches by itself it need not fetch.
AfterInstallSnapshotRequest(m) ==
    LET n == Received(m)
        decision == IF m.term < n.term THEN "StaleTerm" ELSE DecideSnapshot(n, m)
        follower == PersistHardState(Attend(n, m))
        known == AdvanceCommitTo(follower, m.last.index)
    IN CASE decision = "StaleTerm" -> Send(n, AppendEntriesResponse(n, m.from, ResultStaleTerm, m.session))
         [] decision = "Misbehaved" -> PersistHardState(n)
         [] decision = "Known" -> Send(known, AppendEntriesResponse(known, m.from, ResultAccepted(m.last.index), m.session))
         [] decision = "Fetch" -> BeginFetch(follower, m)

HandleInstallSnapshotRequest(i) ==
    \E m \in Inbox(i, "InstallSnapshotRequest") : Handle(m, AfterInstallSnapshotRequest(m))

\* Who learns that it has no vote any more does not campaign on.
WithdrawWithoutVote(n) ==
    IF n.role \in {"PreCandidate", "Candidate"} /\ ~MayCampaign(n) THEN BecomeFollower(n, Nil) ELSE n

\* The snapshot is here and durable.  If its last entry came by itself meanwhile, what follows it stays.
AfterFetch(n) ==
    LET last == n.fetch[1].last
        idle == [n EXCEPT !.fetch = NoFetch]
        anew == WithdrawWithoutVote(BeginAnew(idle, last, n.fetch[1].membership))
    IN CASE Holds(n.log, last) -> WithdrawWithoutVote(AdvanceCommitTo(idle, last.index))
         [] ~Holds(n.log, last) /\ TermAt(n.log, n.commit) > last.term -> idle
         [] ~Holds(n.log, last) /\ TermAt(n.log, n.commit) <= last.term /\ n.session = Nil -> anew
         [] OTHER -> Send(anew, AppendEntriesResponse(anew, n.leader, ResultAccepted(last.index), n.session))

SnapshotFetched(i) ==
    /\ fetch[i] # NoFetch
    /\ Stepped(AfterFetch(Local(i)))

\* The snapshot is not to be had: the next offer is as good as the first.
SnapshotFetchFailed(i) ==
    /\ fetch[i] # NoFetch
    /\ Stepped([Local(i) EXCEPT !.fetch = NoFetch])

-----------------------------------------------------------------------------
(* Reads (6.4)                                                             *)

\* A client wants to read what is committed.
ReadRequest(i) ==
    /\ Len(readHistory) < MaxReads
    /\ role[i] = "Leader"
    /\ Stepped(BeginRead(Local(i), Len(readHistory) + 1, Nil))

\* The same, by a lease if there is one.
LeaseReadRequest(i) ==
    /\ Leases
    /\ Len(readHistory) < MaxReads
    /\ role[i] = "Leader"
    /\ Stepped(BeginLeaseRead(Local(i), Len(readHistory) + 1))

\* The same, at a follower that knows its leader.
FollowerReadRequest(i) ==
    /\ i \in Readers
    /\ Len(readHistory) < MaxReads
    /\ role[i] = "Follower"
    /\ leader[i] # Nil
    /\ Stepped(BeginFollowerRead(Local(i), Len(readHistory) + 1))

\* The time of a lease has passed since this round, and those before it, began.
LeaseTimeout(i) ==
    /\ Leases
    /\ \E round \in (leaseOver[i] + 1)..readRound[i] : Stepped([Local(i) EXCEPT !.leaseOver = round])

\* With leases a server that follows begins its election timeouts anew, and so is bound by the round.
Heard(n, m) ==
    IF ~Leases THEN n
    ELSE [n EXCEPT !.heard = {h \in @ : h[1] # m.term} \cup
                             {<<m.term, CHOOSE r \in {h[2] : h \in {x \in @ : x[1] = m.term}} \cup {m.round} :
                                           r >= m.round /\ \A h \in @ : h[1] = m.term => r >= h[2]>>}]

\* Says whether this server follows the sender in its term.
AfterConfirmLeaderRequest(m) ==
    LET n == Received(m)
        follower == PersistHardState(IF m.term = n.term THEN Heard(Follow(n, m.from), m) ELSE n)
    IN IF m.term = n.term /\ n.leader \notin {Nil, m.from} THEN PersistHardState(n)
       ELSE SendAfterTerm(follower, ConfirmLeaderResponse(follower, m.from, m.term, m.round))

HandleConfirmLeaderRequest(i) == \E m \in Inbox(i, "ConfirmLeaderRequest") : Handle(m, AfterConfirmLeaderRequest(m))

\* Counts an answer to a question of this term: the question may be one of an earlier term in which this server led too.
AfterConfirmLeaderResponse(m) ==
    LET n == Received(m)
        counts == /\ m.term = n.term /\ m.leaderTerm = n.term /\ n.role = "Leader"
                  /\ m.from \in Peers(n) /\ m.round \in (n.progress[m.from].roundBefore + 1)..n.readRound
                  /\ n.progress[m.from].lost = 0
        answered == [n EXCEPT !.progress[m.from].active = TRUE]
        isNews == m.round > n.progress[m.from].confirmedRound
    IN PersistHardState(
           CASE ~counts -> n
             [] counts /\ ~isNews -> answered
             [] OTHER -> AnswerReads([answered EXCEPT !.progress[m.from].confirmedRound = m.round]))

HandleConfirmLeaderResponse(i) ==
    \E m \in Inbox(i, "ConfirmLeaderResponse") : Handle(m, AfterConfirmLeaderResponse(m))

\* A follower's read begins here, as if it were this leader's own.
AfterReadIndexRequest(m) ==
    LET n == Received(m)
        isOfMine == m.term = n.term /\ n.role = "Leader" /\ m.from \in Peers(n)
    IN PersistHardState(IF isOfMine THEN BeginRead(ForgetAsked(n, m.from), m.context, m.from) ELSE n)

HandleReadIndexRequest(i) == \E m \in Inbox(i, "ReadIndexRequest") : Handle(m, AfterReadIndexRequest(m))

\* What the leader names has to be applied.  What it says to be committed this server holds, and durably, for the leader
\* knows that from it; of what a snapshot covers less may be durable.
AfterReadIndexResponse(m) ==
    LET n == Received(m)
        isFromLeader == m.term = n.term /\ n.leader = m.from
        isHeld == m.commit <= Max(n.durable, n.commit)
        served == ServedBy(n, m.context)
        answered == TakeThrough(AdvanceCommitTo(n, m.commit), served, m.index)
    IN PersistHardState(
           CASE ~isFromLeader \/ ~isHeld \/ served = 0 -> n
             [] isFromLeader /\ isHeld /\ served > 0 /\ answered.readsAsked = 0 -> AskReadIndex(answered)
             [] OTHER -> answered)

HandleReadIndexResponse(i) == \E m \in Inbox(i, "ReadIndexResponse") : Handle(m, AfterReadIndexResponse(m))

-----------------------------------------------------------------------------
(* Leadership transfer (3.10)                                              *)

\* Somebody wants another server to lead.
TransferLeadership(i) ==
    /\ transfers < MaxTransfers
    /\ role[i] = "Leader"
    /\ transfer[i] = Nil
    /\ \E j \in OtherVoters(Local(i)) : IsReady(Local(i), j) /\ Install(BeginTransfer(Local(i), j), messages)
    /\ transfers' = transfers + 1
    /\ UNCHANGED <<snapshotsTaken, changes, crashes, losses, backup, rolledBack>>

\* The target did not take over in time: this leader takes proposals again, unless it is removed.
TransferTimeout(i) ==
    /\ transfer[i] # Nil
    /\ Stepped(EndTransfer(Local(i)))

\* Campaigns at once, without pre-votes, if the leader that this server follows in its present term says so.  Who knows no
\* leader does not obey: its leader repeats the request behind a heartbeat, by which it follows again.
AfterTimeoutNowRequest(m) ==
    LET n == Received(m)
    IN PersistHardState(IF m.term = n.term /\ n.leader = m.from /\ MayCampaign(n) THEN BecomeCandidate(n, TRUE) ELSE n)

HandleTimeoutNowRequest(i) == \E m \in Inbox(i, "TimeoutNowRequest") : Handle(m, AfterTimeoutNowRequest(m))

-----------------------------------------------------------------------------
(* Membership changes (4)                                                  *)

\* Somebody wants another configuration.  Where it is that already, or will be once the joint one is left, nothing happens.
ChangeMembership(i) ==
    /\ changes < MaxChanges
    /\ \E asked \in Targets :
          LET target == Stable(asked.voters, asked.learners, asked.promoting)
          IN /\ target # JointLeft(InForce(Local(i)))
             /\ MayChange(Local(i), target)
             /\ Install(ChangeTo(Local(i), target), messages)
    /\ changes' = changes + 1
    /\ UNCHANGED <<transfers, snapshotsTaken, crashes, losses, backup, rolledBack>>

-----------------------------------------------------------------------------
(* Disks, crashes, and what gets lost (3.8)                                *)

\* The oldest `count` writes in flight are durable; one report may cover any number of them.
Persisted(i) ==
    ~lost[i] /\ \E count \in 1..Len(pending[i]) :
        LET n == [Local(i) EXCEPT !.disk = DiskAfter(@, pending[i], count)]
            committing == AdvanceApply(AdvanceCommit(PopWrites(n, count)))
        IN Stepped(ReplicateDurable(AdvanceMembership(committing, Nil)))

\* Of the writes in flight any prefix may have reached the disk.  The server starts again at once; one that stays down
\* for a while is one whose messages are lost.
Crash(i) ==
    /\ crashes < MaxCrashes
    /\ crashes' = crashes + 1
    /\ UNCHANGED <<transfers, snapshotsTaken, changes, losses, backup, rolledBack>>
    /\ \E survive \in 0..Len(pending[i]) :
          Install([Started(i, DiskAfter(disk[i], pending[i], survive)) EXCEPT !.heard = heard[i]], messages)

InitialMembership(i) ==
    IF i \in Voters \cup Learners THEN Stable(Voters, Learners, {}) ELSE NoMembership

EmptyDisk(i) ==
    [number |-> 0, term |-> 0, vote |-> Nil, log |-> <<>>, snapshot |-> NoEntry, membership |-> InitialMembership(i)]

\* A server that was removed starts again with an empty disk, and knows nobody: it may be added again.  What it said in its
\* former life may still be on its way.
Wipe(i) ==
    /\ losses < MaxWipes
    /\ InitialMembership(i) = NoMembership
    /\ [disk[i] EXCEPT !.number = 0] # EmptyDisk(i)
    /\ \E j \in Server : role[j] = "Leader" /\ IsCommittedInForce(Local(j)) /\ i \notin Members(InForce(Local(j)))
    /\ losses' = losses + 1
    /\ backup' = [backup EXCEPT ![i] = <<>>]
    /\ rolledBack' = rolledBack \ {i}
    /\ UNCHANGED <<transfers, snapshotsTaken, changes, crashes>>
    /\ LET emptied == [EmptyDisk(i) EXCEPT !.number = disk[i].number + 1]
       IN Install([Started(i, emptied) EXCEPT !.heard = heard[i]], messages)

\* Somebody makes a copy of a server's disk.
BackUp(i) ==
    /\ i \in Restorable \ rolledBack
    /\ backup[i] = <<>>
    /\ ~lost[i]
    /\ backup' = [backup EXCEPT ![i] = <<disk[i]>>]
    /\ UNCHANGED <<messages, serverVars, leaders, committed, heard, readHistory, transfers, snapshotsTaken, changes, crashes,
                   losses, rolledBack>>

\* The copy takes the place of the disk, and the server starts again from it: it forgets votes and entries.
RollBack(i) ==
    /\ backup[i] # <<>>
    /\ disk[i] # backup[i][1]
    /\ backup' = [backup EXCEPT ![i] = <<>>]
    /\ rolledBack' = rolledBack \cup {i}
    /\ UNCHANGED <<transfers, snapshotsTaken, changes, crashes, losses>>
    /\ Install([Started(i, backup[i][1]) EXCEPT !.heard = heard[i]], messages)

\* A message to `i` is lost.
DropMessage(i) ==
    /\ Network = "lossy"
    /\ \E m \in messages : m.to = i /\ messages' = messages \ {m}
    /\ UNCHANGED <<serverVars, leaders, committed, heard, readHistory, transfers, snapshotsTaken, changes, crashes, losses,
                   backup, rolledBack>>

-----------------------------------------------------------------------------

Init ==
    /\ messages = {}
    /\ currentTerm = [i \in Server |-> 0]
    /\ votedFor = [i \in Server |-> Nil]
    /\ log = [i \in Server |-> <<>>]
    /\ role = [i \in Server |-> "Follower"]
    /\ leader = [i \in Server |-> Nil]
    /\ leaderIsRecent = [i \in Server |-> Leases]
    /\ session = [i \in Server |-> Nil]
    /\ lost = [i \in Server |-> FALSE]
    /\ votesGranted = [i \in Server |-> {}]
    /\ votesRefused = [i \in Server |-> {}]
    /\ snapshot = [i \in Server |-> NoEntry]
    /\ snapshotMembership = [i \in Server |-> InitialMembership(i)]
    /\ fetch = [i \in Server |-> NoFetch]
    /\ commitIndex = [i \in Server |-> 0]
    /\ appliedIndex = [i \in Server |-> 0]
    /\ durableIndex = [i \in Server |-> 0]
    /\ progress = [i \in Server |-> NoProgress]
    /\ readRound = [i \in Server |-> 0]
    /\ leaseOver = [i \in Server |-> 0]
    /\ leaseGivenUp = [i \in Server |-> FALSE]
    /\ reads = [i \in Server |-> <<>>]
    /\ followerReads = [i \in Server |-> <<>>]
    /\ readsAsked = [i \in Server |-> 0]
    /\ transfer = [i \in Server |-> Nil]
    /\ pending = [i \in Server |-> <<>>]
    /\ disk = [i \in Server |-> EmptyDisk(i)]
    /\ leaders = {}
    /\ committed = <<>>
    /\ heard = [i \in Server |-> {}]
    /\ readHistory = <<>>
    /\ transfers = 0
    /\ snapshotsTaken = 0
    /\ changes = 0
    /\ crashes = 0
    /\ losses = 0
    /\ backup = [i \in Server |-> <<>>]
    /\ rolledBack = {}

\* TLC names a transition after the definition that a disjunct of `Next` is, which takes a constant to range over: so
\* each action is one of a server, and chooses its message within.
Next ==
    \/ \E i \in Server : ElectionTimeout(i)
    \/ \E i \in Server : MinimumElectionTimeout(i)
    \/ \E i \in Server : HeartbeatTimeout(i)
    \/ \E i \in Server : QuorumCheckTimeout(i)
    \/ \E i \in Server : ClientRequest(i)
    \/ \E i \in Server : ReadRequest(i)
    \/ \E i \in Server : LeaseReadRequest(i)
    \/ \E i \in Server : FollowerReadRequest(i)
    \/ \E i \in Server : LeaseTimeout(i)
    \/ \E i \in Server : StepDown(i)
    \/ \E i \in Server : TransferLeadership(i)
    \/ \E i \in Server : TransferTimeout(i)
    \/ \E i \in Server : ChangeMembership(i)
    \/ \E i \in Server : SnapshotTaken(i)
    \/ \E i \in Server : SnapshotFetched(i)
    \/ \E i \in Server : SnapshotFetchFailed(i)
    \/ \E i \in Server : Persisted(i)
    \/ \E i \in Server : Crash(i)
    \/ \E i \in Server : Wipe(i)
    \/ \E i \in Server : BackUp(i)
    \/ \E i \in Server : RollBack(i)
    \/ \E i \in Server : HandlePreVoteRequest(i)
    \/ \E i \in Server : HandlePreVoteResponse(i)
    \/ \E i \in Server : HandleRequestVoteRequest(i)
    \/ \E i \in Server : HandleRequestVoteResponse(i)
    \/ \E i \in Server : HandleAppendEntriesRequest(i)
    \/ \E i \in Server : HandleAppendEntriesResponse(i)
    \/ \E i \in Server : HandleConfirmLeaderRequest(i)
    \/ \E i \in Server : HandleConfirmLeaderResponse(i)
    \/ \E i \in Server : HandleReadIndexRequest(i)
    \/ \E i \in Server : HandleReadIndexResponse(i)
    \/ \E i \in Server : HandleTimeoutNowRequest(i)
    \/ \E i \in Server : HandleInstallSnapshotRequest(i)
    \/ \E i \in Server : DropMessage(i)

Spec == Init /\ [][Next]_vars
=============================================================================
