----------------------------- MODULE RaftServer -----------------------------
(***************************************************************************)
(* One server within one step: what src/protocol does with it.             *)
(*                                                                         *)
(* Nothing here is an action.  A server is a record `n`; an operator takes *)
(* it and gives the record afterwards, as a function of the code changes   *)
(* `self`.  Operators are named like those functions and stand in the      *)
(* order of the chapters.  `Raft.tla` makes actions of them.               *)
(***************************************************************************)
EXTENDS RaftMembership, Sequences

CONSTANTS
    Server,             \* the servers
    Nil,                \* no server
    PreVote,            \* whether servers ask before they campaign (9.6)
    CheckQuorum,        \* whether leaders step down without a quorum, and candidates are ignored while the
                        \* leader is heard (6.2, 4.2.3)
    Leases,             \* whether leaders answer reads by confirmations that are not too old (6.4.1)
    MaxInflight,        \* the most appends on their way to one follower (10.2.1)
    MaxAppendEntries    \* the most entries in one append

Min(a, b) == IF a < b THEN a ELSE b
Max(a, b) == IF a > b THEN a ELSE b

-----------------------------------------------------------------------------
(* Entries and logs (3.3, 3.5)                                             *)

Entry(term, payload) == [term |-> term, payload |-> payload, membership |-> <<>>]
ChangeEntry(term, m) == [term |-> term, payload |-> "Membership", membership |-> <<m>>]
EntryId(index, term) == [index |-> index, term |-> term]

Prefix(entries, count) == SubSeq(entries, 1, count)

\* What a log has forgotten stays as a place without content, so that an entry's index is its place in the sequence.  Of
\* the last entry forgotten, the base, the term is kept (5.1).
Forgotten(term) == [term |-> term, payload |-> "Forgotten", membership |-> <<>>]
Base(entries) == Cardinality({k \in DOMAIN entries : entries[k].payload = "Forgotten"})

ForgetThrough(entries, base) ==
    [k \in DOMAIN entries |->
        IF k > base THEN entries[k] ELSE Forgotten(IF k = base THEN entries[k].term ELSE 0)]

\* A log that holds nothing and continues with the entry after `id`.
EmptyAfter(id) == [k \in 1..id.index |-> Forgotten(IF k = id.index THEN id.term ELSE 0)]

\* Index 0 is the position before the first entry; it has term 0.
TermAt(entries, index) == IF index = 0 THEN 0 ELSE entries[index].term
IdAt(entries, index) == EntryId(index, TermAt(entries, index))
LastId(entries) == IdAt(entries, Len(entries))

\* Whether a log holds the entry with this id, or has it for its base.
Holds(entries, id) == id.index \in Base(entries)..Len(entries) /\ TermAt(entries, id.index) = id.term
\* Whether it has no other in that place: what it has forgotten agrees with every leader's log, for it was committed.
Admits(entries, id) == id.index < Base(entries) \/ Holds(entries, id)

\* The up-to-date check: the later term wins, then the longer log (3.6.1).
AtLeast(one, other) == one.term > other.term \/ (one.term = other.term /\ one.index >= other.index)

\* The last entry at or before `bound` whose term is at most `term`: beyond it this log cannot agree with one whose
\* entry at `bound` has that term, because terms only grow along a log (3.5).  What is forgotten agrees.
AgreeMax(entries, bound, term) ==
    LET least == Min(Base(entries), bound)
    IN IdAt(entries, CHOOSE k \in least..bound :
                         /\ k = least \/ TermAt(entries, k) <= term
                         /\ \A later \in (k + 1)..bound : TermAt(entries, later) > term)

-----------------------------------------------------------------------------
(* The server as a record                                                  *)
(*                                                                         *)
(* The fields are the variables of Raft.tla at one server, and some that   *)
(* exist only within a step: `dirty` says that term or vote changed and no *)
(* write carries them yet, `out` is what leaves with the step, `begins`    *)
(* whether a read begins with it, `answered` which ones it answers.        *)

NoProgress == <<>>
NoFetch == <<>>
NoEntry == EntryId(0, 0)

\* A server that starts, or starts again, from what its disk holds (`Protocol::new`).
Started(i, d) ==
    [id |-> i, term |-> d.term, vote |-> d.vote, log |-> d.log, role |-> "Follower", leader |-> Nil,
     recent |-> Leases, session |-> Nil, lost |-> FALSE, granted |-> {}, refused |-> {}, snapshot |-> d.snapshot,
     snapshotMembership |-> d.membership, fetch |-> NoFetch,
     commit |-> d.snapshot.index, applied |-> d.snapshot.index, durable |-> Len(d.log), progress |-> NoProgress,
     readRound |-> 0, leaseOver |-> 0, leaseGivenUp |-> FALSE, heard |-> {}, reads |-> <<>>, followerReads |-> <<>>,
     readsAsked |-> 0, transfer |-> Nil, pending |-> <<>>, disk |-> d,
     dirty |-> FALSE, out |-> {}, begins |-> FALSE, answered |-> {}]

-----------------------------------------------------------------------------
(* The configuration as a function of the log (4.1; membership_change.rs)  *)
(*                                                                         *)
(* A configuration is in force on a server as soon as it stands in its     *)
(* log, committed or not, and as long as it stands there.  Of those that a *)
(* snapshot covers the last one is kept beside it.                         *)

IsChange(entry) == entry.membership # <<>>

\* The configuration as of `index`, which is not before the snapshot.
AsOf(n, index) ==
    LET changes == {k \in (n.snapshot.index + 1)..index : IsChange(n.log[k])}
    IN IF changes = {} THEN n.snapshotMembership
       ELSE n.log[CHOOSE k \in changes : \A other \in changes : other <= k].membership[1]

InForce(n) == AsOf(n, Len(n.log))
IsCommittedInForce(n) == \A k \in (n.commit + 1)..Len(n.log) : ~IsChange(n.log[k])

\* Who is removed by an entry of which it does not know yet that it is committed may have to lead so that it commits.
MayCampaign(n) ==
    \/ HasVote(AsOf(n, n.commit), n.id)
    \/ \E k \in (n.commit + 1)..Len(n.log) : IsChange(n.log[k]) /\ HasVote(n.log[k].membership[1], n.id)

\* The others that have a vote.
OtherVoters(n) == Voting(InForce(n)) \ {n.id}

\* A leader's peers: the other members.
Peers(n) == DOMAIN n.progress

-----------------------------------------------------------------------------
(* Writes, and what waits for them (3.8, 10.2.1; tail.rs)                  *)

\* One atomic write: term and vote if they changed, a truncation unless `truncateFrom` is 0, entries.  What it replaces
\* is durable no more, and no earlier write in flight will make it so again.
Persist(n, truncateFrom, entries) ==
    LET cut(index) == IF truncateFrom = 0 THEN index ELSE Min(index, truncateFrom - 1)
        kept == IF truncateFrom = 0 THEN n.log ELSE Prefix(n.log, truncateFrom - 1)
        earlier == IF truncateFrom = 0 THEN n.pending
                   ELSE [k \in DOMAIN n.pending |-> [n.pending[k] EXCEPT !.durable = cut(@)]]
        write == [hardState |-> IF n.dirty THEN <<[term |-> n.term, vote |-> n.vote]>> ELSE <<>>,
                  compaction |-> <<>>,
                  truncateFrom |-> truncateFrom,
                  entries |-> entries,
                  durable |-> Len(kept) + Len(entries),
                  messages |-> {}]
    IN [n EXCEPT !.log = kept \o entries, !.durable = cut(@), !.pending = Append(earlier, write), !.dirty = FALSE]

\* One atomic write that puts a snapshot in the place of the log's beginning.  The log itself is already what it will be.
PersistCompaction(n, last, base, membership) ==
    LET write == [hardState |-> <<>>,
                  compaction |-> <<[snapshot |-> last, base |-> base, membership |-> membership]>>,
                  truncateFrom |-> 0,
                  entries |-> <<>>,
                  durable |-> Len(n.log),
                  messages |-> {}]
    IN [n EXCEPT !.snapshot = last, !.snapshotMembership = membership, !.pending = Append(@, write)]

PersistHardState(n) == IF n.dirty THEN Persist(n, 0, <<>>) ELSE n

\* Messages leave once everything decided before them is durable: at once if nothing is in flight, else behind the last
\* write.  What waits for one write leaves together and needs saying only once: a set.
SendAll(n, sent) ==
    IF n.pending = <<>> THEN [n EXCEPT !.out = @ \cup sent]
    ELSE [n EXCEPT !.pending[Len(n.pending)].messages = @ \cup sent]

Send(n, message) == SendAll(n, {message})

\* A message that promises nothing but its sender's term waits for that alone.
SendAfterTerm(n, message) ==
    IF \E k \in DOMAIN n.pending : n.pending[k].hardState # <<>> THEN Send(n, message)
    ELSE [n EXCEPT !.out = @ \cup {message}]

\* The disk after a write reached it.
CompactLog(entries, base) ==
    IF Holds(entries, base) THEN ForgetThrough(entries, base.index) ELSE EmptyAfter(base)

DiskAfterWrite(d, write) ==
    LET compacted == IF write.compaction = <<>> THEN d.log ELSE CompactLog(d.log, write.compaction[1].base)
        kept == IF write.truncateFrom = 0 THEN compacted ELSE Prefix(compacted, write.truncateFrom - 1)
        hardState == IF write.hardState = <<>> THEN d ELSE write.hardState[1]
    IN [number |-> d.number, term |-> hardState.term, vote |-> hardState.vote, log |-> kept \o write.entries,
        snapshot |-> IF write.compaction = <<>> THEN d.snapshot ELSE write.compaction[1].snapshot,
        membership |-> IF write.compaction = <<>> THEN d.membership ELSE write.compaction[1].membership]

\* The disk after the oldest `count` writes reached it.
RECURSIVE DiskAfter(_, _, _)
DiskAfter(d, writes, count) ==
    IF count = 0 THEN d ELSE DiskAfterWrite(DiskAfter(d, writes, count - 1), writes[count])

-----------------------------------------------------------------------------
(* What servers say to each other (Figure 3.1, 9.6; message.rs)            *)

PreVoteRequest(n, to) ==
    [type |-> "PreVoteRequest", from |-> n.id, to |-> to, term |-> n.term,
     campaignTerm |-> n.term + 1, last |-> LastId(n.log)]

PreVoteResponse(n, to, campaignTerm, granted) ==
    [type |-> "PreVoteResponse", from |-> n.id, to |-> to, term |-> n.term,
     campaignTerm |-> campaignTerm, granted |-> granted]

\* Who campaigns because its leader told it to says so: whoever heard that leader just now votes all the same (3.10).
RequestVoteRequest(n, to, leadershipTransfer) ==
    [type |-> "RequestVoteRequest", from |-> n.id, to |-> to, term |-> n.term, last |-> LastId(n.log),
     leadershipTransfer |-> leadershipTransfer]

RequestVoteResponse(n, to, granted) ==
    [type |-> "RequestVoteResponse", from |-> n.id, to |-> to, term |-> n.term, granted |-> granted]

\* What a follower acknowledged, whether it still has that or not.
Acknowledged(p) == Max(p.matchIndex, p.lost)

\* Says in which of its acquaintances with the receiver the leader sends it, and what the receiver acknowledged in that, on
\* which disk.
AppendEntriesRequest(n, to, prevIndex, entries) ==
    [type |-> "AppendEntriesRequest", from |-> n.id, to |-> to, term |-> n.term,
     prev |-> IdAt(n.log, prevIndex), entries |-> entries, commit |-> n.commit, session |-> n.progress[to].session,
     acknowledged |-> Acknowledged(n.progress[to]), disk |-> n.progress[to].disk]

\* Echoes the session of the request: one of a former life says nothing about the present one.  Says which disk this server
\* has.
AppendEntriesResponse(n, to, result, requestSession) ==
    [type |-> "AppendEntriesResponse", from |-> n.id, to |-> to, term |-> n.term, result |-> result,
     session |-> requestSession, disk |-> n.disk.number]

ConfirmLeaderRequest(n, to) ==
    [type |-> "ConfirmLeaderRequest", from |-> n.id, to |-> to, term |-> n.term, round |-> n.readRound]

\* Echoes term and round of the question: who leads again in a later term counts its rounds from 1 again.
ConfirmLeaderResponse(n, to, leaderTerm, round) ==
    [type |-> "ConfirmLeaderResponse", from |-> n.id, to |-> to, term |-> n.term,
     leaderTerm |-> leaderTerm, round |-> round]

\* Up to where must this server have applied, to answer a read and those that began before it?
ReadIndexRequest(n, to, context) ==
    [type |-> "ReadIndexRequest", from |-> n.id, to |-> to, term |-> n.term, context |-> context]

\* Up to `index`; and up to `commit` is committed what the receiver holds.
ReadIndexResponse(n, to, context, index, commit) ==
    [type |-> "ReadIndexResponse", from |-> n.id, to |-> to, term |-> n.term, context |-> context, index |-> index,
     commit |-> commit]

\* Campaign now.
TimeoutNowRequest(n, to) == [type |-> "TimeoutNowRequest", from |-> n.id, to |-> to, term |-> n.term]
\* The data is fetched beside the messages.  Answered like an append, once it is here.
InstallSnapshotRequest(n, to) ==
    [type |-> "InstallSnapshotRequest", from |-> n.id, to |-> to, term |-> n.term, last |-> n.snapshot,
     membership |-> n.snapshotMembership, session |-> n.progress[to].session]

\* The follower's durable log agrees with the leader's up to and including `matchIndex`.
ResultAccepted(matchIndex) == [kind |-> "Accepted", matchIndex |-> matchIndex]
\* The follower has no entry at `prevIndex` like the leader's; the logs can agree at most up to `hint`.
ResultRejected(prevIndex, hint) == [kind |-> "Rejected", prevIndex |-> prevIndex, hint |-> hint]
\* The leader's term is over.
ResultStaleTerm == [kind |-> "StaleTerm"]
\* The follower's disk lacks what the leader says that it acknowledged.  It may hold other entries in that place.
ResultLost(acknowledged, durable) == [kind |-> "LostAcknowledged", acknowledged |-> acknowledged, durable |-> durable]

-----------------------------------------------------------------------------
(* Terms and roles (3.3, 3.4; mod.rs).  What belongs to a role ends with it. *)

\* This server leads no more, or has lost its leader: its reads that wait get no answer here.
AbortReads(n) == [n EXCEPT !.reads = <<>>, !.followerReads = <<>>, !.readsAsked = 0]

\* The vote stays: it belongs to the term, not to the role.
BecomeFollower(n, newLeader) ==
    [AbortReads(n) EXCEPT !.role = "Follower", !.leader = newLeader, !.session = Nil, !.recent = Leases /\ @,
              !.granted = {}, !.refused = {},
              !.progress = NoProgress, !.readRound = 0, !.leaseOver = 0, !.leaseGivenUp = FALSE, !.transfer = Nil]

\* A higher term was seen.  It is written by the end of the step, before any answer in it leaves.
UpdateTerm(n, term) == BecomeFollower([n EXCEPT !.term = term, !.vote = Nil, !.dirty = TRUE], Nil)

-----------------------------------------------------------------------------
(* What a leader knows of one follower (3.5, 10.2.1; progress.rs)          *)
(*                                                                         *)
(* "Probe": it is not known where the logs agree; one append at a time,    *)
(* and in "ProbeSent" it is on its way.  "Replicate": the logs agree up to *)
(* `matchIndex`; appends follow each other within a window, and `inflight` *)
(* has the last index of each.  "Snapshot": the leader's log does not      *)
(* reach back far enough; no appends but heartbeats.                       *)

(*                                                                         *)
(* `session` is the index of the configuration that made the follower a    *)
(* member within this term, 0 if it was one when the term began; rounds of *)
(* confirmation up to `roundBefore` began before that.  `disk` is the one  *)
(* on which the follower acknowledged `matchIndex`.  `lost` is what it had *)
(* acknowledged when it said that it lost that, 0 unless it did: from then *)
(* on it is believed nothing, gets heartbeats alone, and counts for no     *)
(* quorum, until it is removed and added again.                            *)

NewProgress(last, session, round) ==
    [matchIndex |-> 0, nextIndex |-> last + 1, state |-> "Probe", active |-> FALSE, confirmedRound |-> 0,
     session |-> session, disk |-> 0, lost |-> 0, roundBefore |-> round, inflight |-> <<>>]

WindowOpen(p) == Len(p.inflight) < MaxInflight

\* Whether there is something to send, of what is durable up to `durable`.
MaySend(p, durable) ==
    \/ p.state = "Probe"
    \/ p.state = "Replicate" /\ p.nextIndex <= durable

\* Whether entries from `first` on, just appended, can go as they are: all before was sent, and the window is open.
TakesNext(p, first) ==
    /\ p.nextIndex = first
    /\ p.state = "Probe" \/ (p.state = "Replicate" /\ WindowOpen(p))

\* Appends that end with these indexes leave.  What a probe carries counts as sent once the probe is answered.
Sent(p, ends) ==
    CASE ends = <<>> -> p
      [] ends # <<>> /\ p.state = "Probe" -> [p EXCEPT !.state = "ProbeSent"]
      [] OTHER -> [p EXCEPT !.nextIndex = ends[Len(ends)] + 1, !.inflight = @ \o ends]

\* Whether the leader has forgotten what comes next for the follower.
NeedsSnapshot(n, p) == p.nextIndex <= Base(n.log)
AwaitsSnapshot(p) == [p EXCEPT !.state = "Snapshot", !.inflight = <<>>]

\* The follower agrees up to `matchIndex`, on this disk.  An answer older than what is known proves nothing about the present.
Accepted(p, matchIndex, number) ==
    LET known == [p EXCEPT !.matchIndex = matchIndex, !.disk = number,
                           !.nextIndex = Max(@, matchIndex + 1),
                           !.inflight = SelectSeq(@, LAMBDA last : last > matchIndex)]
        replicates == [known EXCEPT !.state = "Replicate", !.nextIndex = matchIndex + 1]
    IN CASE matchIndex < p.matchIndex -> p
         [] matchIndex >= p.matchIndex /\ p.state = "Replicate" -> known
         [] matchIndex = p.matchIndex /\ p.state = "Snapshot" -> known
         [] OTHER -> replicates

\* Whether a refusal concerns what was sent last, rather than arriving late.
RefusalIsCurrent(p, prevIndex) ==
    /\ prevIndex > p.matchIndex
    /\ \/ p.state = "Replicate" /\ prevIndex < p.nextIndex
       \/ p.state \in {"Probe", "ProbeSent"} /\ prevIndex + 1 = p.nextIndex

\* The follower refused; the logs cannot agree beyond `agreeMax`.
Refused(p, agreeMax) ==
    [p EXCEPT !.inflight = <<>>, !.state = "Probe",
              !.nextIndex = Min(Max(agreeMax + 1, p.matchIndex + 1), @)]

\* The follower lost what it acknowledged: nothing that was known of it is true any more.
Lost(p) ==
    [p EXCEPT !.lost = p.matchIndex, !.matchIndex = 0, !.confirmedRound = 0, !.active = FALSE, !.state = "ProbeSent",
              !.inflight = <<>>]

-----------------------------------------------------------------------------
(* How a leader replicates and commits (3.5, 3.6.2; replication.rs)        *)

\* The last index of each append that a follower's state and window allow, of what is durable here.  A probe goes even
\* without entries.
AppendEnds(n, p) ==
    CASE p.state = "Probe" ->
            <<Max(p.nextIndex - 1, Min(n.durable, p.nextIndex - 1 + MaxAppendEntries))>>
      [] p.state = "Replicate" /\ p.nextIndex <= n.durable /\ WindowOpen(p) ->
            LET pieces == (n.durable - p.nextIndex) \div MaxAppendEntries + 1
            IN [k \in 1..Min(pieces, MaxInflight - Len(p.inflight)) |->
                   Min(n.durable, p.nextIndex - 1 + k * MaxAppendEntries)]
      [] OTHER -> <<>>

\* The appends that end there, one after the other from `first` on.
Appends(n, to, first, ends) ==
    {LET prev == IF k = 1 THEN first - 1 ELSE ends[k - 1]
     IN AppendEntriesRequest(n, to, prev, SubSeq(n.log, prev + 1, ends[k])) : k \in DOMAIN ends}

\* What a follower's state and window allow is sent; if it needs what is forgotten, a snapshot is offered instead.
AfterSending(n, p) ==
    LET ends == AppendEnds(n, p)
    IN IF ends # <<>> /\ NeedsSnapshot(n, p) THEN AwaitsSnapshot(p) ELSE Sent(p, ends)
SentTo(n, j) ==
    LET p == n.progress[j]
        ends == AppendEnds(n, p)
    IN IF ends # <<>> /\ NeedsSnapshot(n, p) THEN {InstallSnapshotRequest(n, j)} ELSE Appends(n, j, p.nextIndex, ends)

ReplicateTo(n, j) == [n EXCEPT !.progress[j] = AfterSending(n, @), !.out = @ \cup SentTo(n, j)]

\* What was not sent when it was appended follows once it is durable here.
ReplicateDurable(n) ==
    IF n.role = "Leader" /\ \E j \in Peers(n) : MaySend(n.progress[j], n.durable)
    THEN [n EXCEPT !.progress = [j \in Peers(n) |-> AfterSending(n, n.progress[j])],
                   !.out = @ \cup UNION {SentTo(n, j) : j \in Peers(n)}]
    ELSE n

\* A leader writes entries and sends them in parallel: its messages promise nothing about its own disk, and it counts
\* itself only once its write is durable (10.2.1).
AppendAsLeader(n, entries) ==
    LET written == Persist(n, 0, entries)
        first == Len(n.log) + 1
        takers == {j \in Peers(n) : TakesNext(n.progress[j], first)}
    IN [written EXCEPT
            !.progress = [j \in Peers(n) |->
                IF j \in takers THEN Sent(n.progress[j], <<Len(written.log)>>) ELSE n.progress[j]],
            !.out = @ \cup {AppendEntriesRequest(written, j, first - 1, entries) : j \in takers}]

\* Hands out what is committed and durable here: a state machine must not get ahead of the log that it would be
\* replayed from.  A snapshot that stands in for what was not applied is restored first, once the log begins after it.
AdvanceApply(n) ==
    IF n.snapshot.index > n.applied /\ n.durable < n.snapshot.index THEN n
    ELSE [n EXCEPT !.applied = Max(@, Min(n.commit, n.durable))]

\* A follower learns what is committed; a late message may say less than is known.  What a snapshot that is being fetched
\* would bring is here by then.
AdvanceCommitTo(n, index) ==
    LET commit == Max(n.commit, index)
        isHere == n.fetch # NoFetch /\ n.fetch[1].last.index <= commit
    IN AdvanceApply([n EXCEPT !.commit = commit, !.fetch = IF isHere THEN NoFetch ELSE @])

\* A leader commits what a quorum holds durably, but only from its own term on: what is older commits with the first
\* entry of its own (3.6.2, Figure 3.7).
AdvanceCommit(n) ==
    IF n.role # "Leader" THEN n
    ELSE LET holders(k) == {j \in Peers(n) : n.progress[j].matchIndex >= k} \cup
                           (IF n.durable >= k THEN {n.id} ELSE {})
             m == InForce(n)
             committed == {k \in (n.commit + 1)..Len(n.log) : n.log[k].term = n.term /\ IsQuorum(m, holders(k))}
         IN IF committed = {} THEN n
            ELSE AdvanceApply([n EXCEPT !.commit = CHOOSE k \in committed : \A other \in committed : other <= k])

-----------------------------------------------------------------------------
(* Snapshots and compaction (5; snapshot.rs)                               *)
(*                                                                         *)
(* A snapshot is named by the last entry that it covers.  Its content is   *)
(* what a state machine makes of all entries up to there, so the name says *)
(* everything.  Its data is durable, in a place of its own, before any of  *)
(* these steps.                                                            *)

\* A snapshot up to `index` takes the place of the log up to `through`.
TakeSnapshot(n, index, through) ==
    LET last == IdAt(n.log, index)
        base == IdAt(n.log, Max(Min(through, index), Base(n.log)))
        forgets == [n EXCEPT !.log = ForgetThrough(@, base.index)]
    IN PersistCompaction(forgets, last, base, AsOf(n, index))

\* The log forgets all that it holds and begins anew after what the fetched snapshot covers.  Of what was durable only
\* the part that is committed still counts: the snapshot covers it.  Of the configurations that of the snapshot is left.
BeginAnew(n, last, membership) ==
    LET durable == Min(n.durable, n.commit)
        emptied == [n EXCEPT !.log = EmptyAfter(last), !.durable = durable, !.commit = last.index,
                             !.pending = [k \in DOMAIN @ |-> [@[k] EXCEPT !.durable = Min(@, durable)]]]
    IN PersistCompaction(emptied, last, last, membership)

\* The index of a leader's first entry of its term; of its base if it has forgotten that.
TermStart(n) == CHOOSE k \in DOMAIN n.log : n.log[k].term = n.term /\ TermAt(n.log, k - 1) < n.term

-----------------------------------------------------------------------------
(* Reads without an entry of the log (6.4; read.rs)                        *)
(*                                                                         *)
(* A read takes the commit index when it begins, and waits for a round of  *)
(* confirmations that begins after it: a quorum follows this leader.  One  *)
(* round is on its way at a time.                                          *)
(*                                                                         *)
(* A follower answers reads too: it asks its leader, for whom the question *)
(* is a read like its own, with the follower for its `reader`.  One        *)
(* question is on its way at a time.                                       *)

\* What has to be applied before the read is answered.
Answer(context, index) == [context |-> context, index |-> index]

\* Everything that earlier leaders committed lies before this term's no-op, whether this leader knows it or not.
ReadIndex(n) == Max(n.commit, TermStart(n))

\* Asks all followers that have a vote.  Like a leader's appends this waits for no write.
AskFollowers(n) ==
    LET asking == [n EXCEPT !.readRound = @ + 1]
    IN [asking EXCEPT !.out = @ \cup {ConfirmLeaderRequest(asking, j) : j \in OtherVoters(n)}]

\* A leader's answer to a follower.  What it says to be committed the follower is known to hold.
AnswerReader(n, read) ==
    ReadIndexResponse(n, read.reader, read.context, read.index, Min(n.commit, n.progress[read.reader].matchIndex))

\* Lets go of the reads whose round a quorum confirmed.  A reader that is no member any more gets no answer.
AnswerConfirmed(n) ==
    LET confirmers(round) == {j \in Peers(n) : n.progress[j].confirmedRound >= round} \cup
                             (IF n.readRound >= round THEN {n.id} ELSE {})
        m == InForce(n)
        isConfirmed(read) == IsQuorum(m, confirmers(read.round))
        waiting == SelectSeq(n.reads, LAMBDA read : ~isConfirmed(read))
        ready == {n.reads[k] : k \in {k \in DOMAIN n.reads : isConfirmed(n.reads[k])}}
    IN [n EXCEPT
            !.reads = waiting,
            !.answered = @ \cup {Answer(read.context, read.index) : read \in {own \in ready : own.reader = Nil}},
            !.out = @ \cup {AnswerReader(n, read) : read \in {asked \in ready : asked.reader \in Peers(n)}}]

\* The same, and begins the next round if reads wait for it.
AnswerReads(n) ==
    LET answered == AnswerConfirmed(n)
    IN IF answered.reads # <<>> /\ answered.reads[1].round > n.readRound THEN AnswerConfirmed(AskFollowers(answered))
       ELSE answered

\* Who is alone has its own confirmation at once.
BeginReadRound(n) == AnswerReads(AskFollowers(n))

\* The read belongs to the next round: whatever is on its way was sent before.
BeginRead(n, context, reader) ==
    LET read == [context |-> context, reader |-> reader, round |-> n.readRound + 1, index |-> ReadIndex(n)]
        waiting == [n EXCEPT !.reads = Append(@, read), !.begins = reader = Nil]
    IN IF n.reads = <<>> THEN BeginReadRound(waiting) ELSE waiting

\* With a heartbeat what was lost of a round is asked again, as a new round.  With leases it renews them.
RepeatReadRound(n) == IF n.reads = <<>> /\ ~Leases THEN n ELSE BeginReadRound(n)

\* A confirmation is a promise too: who heard its leader ignores candidates for a minimum election timeout (4.2.3).  Until
\* less than that has passed since the round began, nobody else can have been elected (6.4.1).
HasLease(n) ==
    LET isLive(round) == round > n.leaseOver
        confirmers == {j \in Peers(n) : isLive(n.progress[j].confirmedRound)} \cup
                      (IF isLive(n.readRound) THEN {n.id} ELSE {})
    IN Leases /\ n.role = "Leader" /\ ~n.leaseGivenUp /\ IsQuorum(InForce(n), confirmers)

\* A read that is answered with the step in which it begins.
ReadByLease(n, context) ==
    [n EXCEPT !.begins = TRUE, !.answered = @ \cup {Answer(context, ReadIndex(n))}]

BeginLeaseRead(n, context) == IF HasLease(n) THEN ReadByLease(n, context) ELSE BeginRead(n, context, Nil)

\* A follower asks again, for all its reads: of its earlier questions one is kept, the first whose round has begun.  So of each
\* follower two wait at most, however many heartbeats a round takes.
ForgetAsked(n, reader) ==
    LET asked == SelectSeq(n.reads, LAMBDA read : read.reader = reader)
    IN [n EXCEPT !.reads =
            SelectSeq(@, LAMBDA read : read.reader # reader \/ (read = asked[1] /\ read.round <= n.readRound))]

\* The question about all reads of a follower that wait: it names the last one.
AskReadIndex(n) ==
    LET count == Len(n.followerReads)
    IN IF count = 0 THEN n
       ELSE SendAfterTerm([n EXCEPT !.readsAsked = count], ReadIndexRequest(n, n.leader, n.followerReads[count]))

\* What is on its way to the leader was sent before: the read is asked for once that is answered.
BeginFollowerRead(n, context) ==
    LET waiting == [n EXCEPT !.followerReads = Append(@, context), !.begins = TRUE]
    IN IF n.readsAsked = 0 THEN AskReadIndex(waiting) ELSE waiting

\* How many of the reads the answer to this question serves: none if it does not wait any more.
ServedBy(n, context) ==
    LET at == {k \in DOMAIN n.followerReads : n.followerReads[k] = context}
    IN IF at = {} THEN 0 ELSE CHOOSE k \in at : TRUE

TakeThrough(n, served, index) ==
    [n EXCEPT !.followerReads = SubSeq(@, served + 1, Len(@)), !.readsAsked = @ - Min(served, @),
              !.answered = @ \cup {Answer(n.followerReads[k], index) : k \in 1..served}]

-----------------------------------------------------------------------------
(* Leadership transfer (3.10; transfer.rs)                                 *)
(*                                                                         *)
(* A leader that hands over appends nothing, until its target holds the    *)
(* whole log; then it tells the target to campaign.                        *)

\* Who answered lately, and lacks nothing but what is on its way, will soon hold the whole log.
IsReady(n, j) ==
    LET p == n.progress[j]
    IN p.active /\ p.state = "Replicate" /\ p.nextIndex > Len(n.log)

\* Like a leader's appends this promises nothing but that it leads its term, and waits for no write.  Whoever gets it, at
\* whatever time, may be elected within what was a lease.
SendTimeoutNow(n) ==
    IF n.transfer # Nil /\ n.progress[n.transfer].matchIndex = Len(n.log)
    THEN [n EXCEPT !.out = @ \cup {TimeoutNowRequest(n, n.transfer)}, !.leaseGivenUp = Leases]
    ELSE n

BeginTransfer(n, target) == SendTimeoutNow([n EXCEPT !.transfer = target])

-----------------------------------------------------------------------------
(* Membership changes (4; membership_change.rs)                            *)
(*                                                                         *)
(* A leader appends one configuration at a time, and only once an entry of *)
(* its term is committed: else two leaders could go on from one            *)
(* configuration to two whose majorities do not overlap (4.1).             *)

HasCommittedInTerm(n) == TermAt(n.log, n.commit) = n.term

MayAppendMembership(n) ==
    /\ n.transfer = Nil
    /\ IsCommittedInForce(n)
    /\ HasCommittedInTerm(n)

\* The next configuration is in force as soon as it is appended: it goes to its own members, of whom the new ones are known
\* by nothing yet, and whoever is none of them hears nothing more.
AppendMembership(n, next) ==
    LET new == NewProgress(Len(n.log), Len(n.log) + 1, n.readRound)
        members == Members(next) \ {n.id}
        reconfigured == [n EXCEPT !.progress = [j \in members |-> IF j \in Peers(n) THEN @[j] ELSE new]]
    IN AppendAsLeader(reconfigured, <<ChangeEntry(n.term, next)>>)

\* Who gets a vote has *acknowledged* the log up to the configuration in force, which may be the one that made it a learner,
\* and up to this leader's first entry, for a leader has no memory of earlier terms.  What it lacks beyond that is within one
\* window of appends (4.2.1).
InForceAt(n) ==
    LET changes == {k \in (n.snapshot.index + 1)..Len(n.log) : IsChange(n.log[k])}
    IN IF changes = {} THEN n.snapshot.index ELSE CHOOSE k \in changes : \A other \in changes : other <= k

HasCaughtUp(n, j) == IsReady(n, j) /\ n.progress[j].matchIndex >= Max(InForceAt(n), TermStart(n))

\* Else it might take long until anything commits; and of the new voters so many answer that a majority goes on.
MayChange(n, target) ==
    LET present == InForce(n)
        answers(j) == IF j = n.id THEN TRUE ELSE j \in Peers(n) /\ n.progress[j].active
    IN /\ n.role = "Leader"
       /\ MayAppendMembership(n)
       /\ ~IsJoint(present)
       /\ target.voters # {}
       /\ \A j \in target.voters \ Voting(present) : j \in present.learners /\ j \in Peers(n) /\ HasCaughtUp(n, j)
       /\ IsMajority({j \in target.voters : answers(j)}, target.voters)

ChangeTo(n, target) == AppendMembership(n, Towards(InForce(n), target))

\* What a leader goes on to by itself once the configuration in force is committed, when it just heard `heard`, if anybody:
\* it leaves a joint one; it hands over if it has no vote any more (4.2.2); it promotes a learner that caught up.
AdvanceMembership(n, heard) ==
    LET m == InForce(n)
    IN CASE n.role # "Leader" -> n
         [] n.role = "Leader" /\ ~MayAppendMembership(n) -> n
         [] n.role = "Leader" /\ MayAppendMembership(n) /\ IsJoint(m) -> AppendMembership(n, JointLeft(m))
         [] n.role = "Leader" /\ MayAppendMembership(n) /\ ~IsJoint(m) /\ ~HasVote(m, n.id) ->
                IF HasVote(m, heard) THEN BeginTransfer(n, heard) ELSE n
         [] OTHER -> IF heard \in m.promoting /\ HasCaughtUp(n, heard) THEN AppendMembership(n, Promoted(m, heard)) ELSE n

\* A transfer ends without success.  A leader whose removal is committed leaves all the same.
EndTransfer(n) ==
    LET idle == [n EXCEPT !.transfer = Nil]
        m == InForce(n)
    IN IF IsCommittedInForce(n) /\ ~IsJoint(m) /\ ~HasVote(m, n.id) THEN BecomeFollower(idle, Nil)
       ELSE AdvanceMembership(idle, Nil)

-----------------------------------------------------------------------------
(* How a leader is elected (3.4, 4.2.3, 9.6; election.rs)                  *)

\* Candidates are ignored by a leader, and by who heard its leader just now (4.2.3).
DisregardsCandidates(n) == CheckQuorum /\ (n.recent \/ n.role = "Leader")

\* A log that ends with `last` holds all that this server's log could have helped to commit (3.6.1).
IsUpToDate(n, last) == AtLeast(last, LastId(n.log))

\* Starts a campaign in a new term.  The own vote counts, and the requests leave, once term and vote are durable: else a
\* crash could let this server vote twice in the term.
BecomeCandidate(n, leadershipTransfer) ==
    LET candidate == PersistHardState(
            [AbortReads(n) EXCEPT !.term = @ + 1, !.vote = n.id, !.dirty = TRUE, !.role = "Candidate",
                                  !.leader = Nil, !.session = Nil, !.recent = FALSE, !.granted = {}, !.refused = {},
                                  !.progress = NoProgress])
    IN SendAll(candidate, {RequestVoteRequest(candidate, j, leadershipTransfer) : j \in OtherVoters(n)})

\* Asks whether an election could succeed.  The own pre-vote is no promise, so it needs no write (9.6).
BecomePreCandidate(n) ==
    LET asking == [AbortReads(n) EXCEPT !.role = "PreCandidate", !.leader = Nil, !.session = Nil, !.recent = FALSE,
                                        !.granted = {n.id}, !.refused = {}, !.progress = NoProgress]
    IN IF IsQuorum(InForce(n), asking.granted) THEN BecomeCandidate(asking, FALSE)
       ELSE SendAll(asking, {PreVoteRequest(asking, j) : j \in OtherVoters(n)})

\* The entry that a leader begins its term with.  A trace has another one in an empty log (TraceRaft.tla).
LeadersFirst(n) == Entry(n.term, "Noop")

\* Leads the term, beginning with an entry whose commit commits everything before it (3.6.2, 6.4).
BecomeLeader(n) ==
    LET new == NewProgress(Len(n.log), 0, 0)
    IN AppendAsLeader([n EXCEPT !.role = "Leader", !.leader = n.id, !.recent = FALSE, !.granted = {}, !.refused = {},
                                !.fetch = NoFetch,
                                !.progress = [j \in Members(InForce(n)) \ {n.id} |-> new]],
                      <<LeadersFirst(n)>>)

\* The votes are sets, so that an answer that comes twice counts once.
RecordVote(n, voter, granted) ==
    IF granted THEN [n EXCEPT !.granted = @ \cup {voter}] ELSE [n EXCEPT !.refused = @ \cup {voter}]

VoteResult(n) ==
    LET m == InForce(n)
    IN CASE IsQuorum(m, n.granted) -> "Won"
         [] ~IsQuorum(m, n.granted) /\ ~IsQuorum(m, Voting(m) \ n.refused) -> "Lost"
         [] OTHER -> "Pending"

CountPreVote(n, voter, granted) ==
    LET counted == RecordVote(n, voter, granted)
        result == VoteResult(counted)
    IN CASE result = "Won" -> BecomeCandidate(counted, FALSE)
         [] result = "Lost" -> BecomeFollower(counted, Nil)
         [] OTHER -> counted

CountVote(n, voter, granted) ==
    LET counted == RecordVote(n, voter, granted)
        result == VoteResult(counted)
    IN CASE result = "Won" -> BecomeLeader(counted)
         [] result = "Lost" -> BecomeFollower(counted, Nil)
         [] OTHER -> counted

\* The oldest write in flight is durable: what waited for it alone leaves, and the own vote of this campaign counts.
PopWrite(n) ==
    LET write == Head(n.pending)
        popped == [n EXCEPT !.durable = Max(@, write.durable), !.pending = Tail(@), !.out = @ \cup write.messages]
    IN IF n.role = "Candidate" /\ write.hardState = <<[term |-> n.term, vote |-> n.vote]>>
       THEN CountVote(popped, n.id, TRUE)
       ELSE popped

RECURSIVE PopWrites(_, _)
PopWrites(n, count) == IF count = 0 THEN n ELSE PopWrites(PopWrite(n), count - 1)
=============================================================================
