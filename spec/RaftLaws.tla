------------------------------ MODULE RaftLaws ------------------------------
(***************************************************************************)
(* The laws of Raft.tla, under the names that they have everywhere: a row  *)
(* of docs/INVARIANTS.md says where else each is checked.  What speaks of  *)
(* two states is an action property, `[][...]_vars`.                       *)
(***************************************************************************)
EXTENDS Raft

Leaders == {i \in Server : role[i] = "Leader"}

\* No disk loses anything with this step.
DisksKeep == losses' = losses /\ rolledBack' = rolledBack

\* And no server's life ends.
LivesGoOn == crashes' = crashes /\ DisksKeep


-----------------------------------------------------------------------------
(* The values of the variables                                             *)

Terms == 0..MaxTerm
Indexes == 0..MaxLogLength
Optional == Server \cup {Nil}

IsMembership(m) ==
    /\ DOMAIN m = {"voters", "outgoing", "learners", "promoting"}
    /\ Members(m) \subseteq Server
    /\ m.voters \cap m.learners = {}
    /\ m.promoting \subseteq m.learners

IsEntry(entry) ==
    /\ DOMAIN entry = {"term", "payload", "membership"}
    /\ entry.term \in 1..MaxTerm
    /\ entry.payload \in {"Noop", "Command", "Membership"}
    /\ IF entry.payload = "Membership"
       THEN Len(entry.membership) = 1 /\ IsMembership(entry.membership[1]) /\ entry.membership[1].voters # {}
       ELSE entry.membership = <<>>

AreEntries(entries) == Len(entries) <= MaxLogLength /\ \A k \in DOMAIN entries : IsEntry(entries[k])

\* What is forgotten comes first.
IsLog(entries) ==
    /\ Len(entries) <= MaxLogLength
    /\ \A k \in 1..Base(entries) : entries[k] \in {Forgotten(term) : term \in Terms}
    /\ \A k \in (Base(entries) + 1)..Len(entries) : IsEntry(entries[k])

IsEntryId(id) ==
    /\ DOMAIN id = {"index", "term"}
    /\ id.index \in Indexes
    /\ id.term \in Terms

IsResult(result) ==
    CASE result.kind = "Accepted" -> result.matchIndex \in Indexes
      [] result.kind = "Rejected" -> result.prevIndex \in Indexes /\ IsEntryId(result.hint)
      [] result.kind = "StaleTerm" -> DOMAIN result = {"kind"}
      [] result.kind = "LostAcknowledged" -> result.acknowledged \in Indexes \ {0} /\ result.durable \in Indexes

IsMessage(m) ==
    /\ m.from \in Server
    /\ m.to \in Server \ {m.from}
    /\ m.term \in Terms
    /\ CASE m.type = "PreVoteRequest" -> m.campaignTerm = m.term + 1 /\ IsEntryId(m.last)
         [] m.type = "PreVoteResponse" -> m.campaignTerm \in 1..(MaxTerm + 1) /\ m.granted \in BOOLEAN
         [] m.type = "RequestVoteRequest" -> IsEntryId(m.last) /\ m.leadershipTransfer \in BOOLEAN
         [] m.type = "RequestVoteResponse" -> m.granted \in BOOLEAN
         [] m.type = "AppendEntriesRequest" ->
                /\ IsEntryId(m.prev)
                /\ AreEntries(m.entries) /\ Len(m.entries) <= MaxAppendEntries
                /\ m.commit \in Indexes
                /\ m.session \in Indexes
                /\ m.acknowledged \in 0..m.prev.index
                /\ m.disk \in 0..MaxWipes
         [] m.type = "AppendEntriesResponse" -> IsResult(m.result) /\ m.session \in Indexes /\ m.disk \in 0..MaxWipes
         [] m.type = "ConfirmLeaderRequest" -> m.round \in 1..MaxReads
         [] m.type = "ConfirmLeaderResponse" -> m.leaderTerm \in 1..m.term /\ m.round \in 1..MaxReads
         [] m.type = "ReadIndexRequest" -> m.context \in DOMAIN readHistory
         [] m.type = "ReadIndexResponse" ->
                m.context \in DOMAIN readHistory /\ m.index \in Indexes /\ m.commit \in Indexes
         [] m.type = "TimeoutNowRequest" -> DOMAIN m = {"type", "from", "to", "term"}
         [] m.type = "InstallSnapshotRequest" ->
                IsEntryId(m.last) /\ m.last.term \in 1..m.term /\ IsMembership(m.membership) /\ m.membership.voters # {}
                /\ m.session \in Indexes

IsProgress(p) ==
    /\ p.matchIndex \in Indexes
    /\ p.nextIndex \in 1..(MaxLogLength + 1)
    /\ p.state \in {"Probe", "ProbeSent", "Replicate", "Snapshot"}
    /\ p.active \in BOOLEAN
    /\ p.confirmedRound \in 0..MaxReads
    /\ p.session \in Indexes
    /\ p.disk \in 0..MaxWipes
    /\ p.lost \in Indexes
    /\ p.roundBefore \in 0..MaxReads
    /\ Len(p.inflight) <= MaxInflight
    /\ \A k \in DOMAIN p.inflight : p.inflight[k] \in Indexes

IsRead(read) ==
    /\ read.context \in DOMAIN readHistory
    /\ read.reader \in Optional
    /\ read.round \in 1..(MaxReads + 1)
    /\ read.index \in Indexes

IsHardState(state) == state.term \in Terms /\ state.vote \in Optional

IsWrite(write) ==
    /\ write.hardState = <<>> \/ (Len(write.hardState) = 1 /\ IsHardState(write.hardState[1]))
    /\ write.compaction = <<>> \/ (Len(write.compaction) = 1 /\ IsEntryId(write.compaction[1].snapshot)
                                                            /\ IsEntryId(write.compaction[1].base)
                                                            /\ IsMembership(write.compaction[1].membership))
    /\ write.truncateFrom \in Indexes
    /\ AreEntries(write.entries)
    /\ write.durable \in Indexes
    /\ \A m \in write.messages : IsMessage(m)

TypeOK ==
    /\ \A m \in messages : IsMessage(m)
    /\ Network = "lossy" => Cardinality(messages) <= MaxMessages
    /\ \A i \in Server :
        /\ currentTerm[i] \in Terms
        /\ votedFor[i] \in Optional
        /\ role[i] \in {"Follower", "PreCandidate", "Candidate", "Leader"}
        /\ leader[i] \in Optional
        /\ leaderIsRecent[i] \in BOOLEAN
        /\ session[i] \in Indexes \cup {Nil}
        /\ lost[i] \in BOOLEAN
        /\ lost[i] => role[i] = "Follower" /\ leader[i] = Nil
        /\ session[i] # Nil => role[i] = "Follower" /\ leader[i] # Nil
        /\ votesGranted[i] \subseteq Server
        /\ votesRefused[i] \subseteq Server
        /\ role[i] \notin {"PreCandidate", "Candidate"} => votesGranted[i] = {} /\ votesRefused[i] = {}
        /\ IsLog(log[i])
        /\ IsEntryId(snapshot[i])
        /\ IsMembership(snapshotMembership[i])
        /\ fetch[i] = NoFetch \/ (Len(fetch[i]) = 1 /\ fetch[i][1].from \in Server \ {i} /\ IsEntryId(fetch[i][1].last)
                                                   /\ IsMembership(fetch[i][1].membership))
        /\ commitIndex[i] \in Indexes
        /\ appliedIndex[i] \in Indexes
        /\ durableIndex[i] \in Indexes
        /\ IF role[i] = "Leader"
           THEN DOMAIN progress[i] \subseteq Server \ {i} /\ \A j \in DOMAIN progress[i] : IsProgress(progress[i][j])
           ELSE progress[i] = NoProgress
        /\ readRound[i] \in 0..MaxReads
        /\ role[i] # "Leader" => readRound[i] = 0 /\ reads[i] = <<>> /\ leaseOver[i] = 0 /\ ~leaseGivenUp[i]
        /\ leaseOver[i] \in 0..readRound[i]
        /\ leaseGivenUp[i] \in BOOLEAN
        /\ heard[i] \subseteq (1..MaxTerm) \X (1..MaxReads)
        /\ \A k \in DOMAIN reads[i] : IsRead(reads[i][k])
        /\ \A k \in DOMAIN followerReads[i] : followerReads[i][k] \in DOMAIN readHistory
        /\ readsAsked[i] \in 0..MaxReads
        /\ transfer[i] \in Optional
        /\ Len(pending[i]) <= MaxPending
        /\ \A k \in DOMAIN pending[i] : IsWrite(pending[i][k])
        /\ IsHardState(disk[i])
        /\ IsLog(disk[i].log)
        /\ IsEntryId(disk[i].snapshot)
        /\ IsMembership(disk[i].membership)
        /\ disk[i].number \in 0..MaxWipes
    /\ leaders \subseteq (1..MaxTerm) \X Server
    /\ Len(committed) <= MaxLogLength
    /\ \A k \in DOMAIN committed : committed[k].commitTerm \in 1..MaxTerm
    /\ Len(readHistory) <= MaxReads
    /\ \A c \in DOMAIN readHistory : readHistory[c].floor \in Indexes /\ readHistory[c].index \in Indexes \cup {Nil}
    /\ transfers \in 0..MaxTransfers
    /\ snapshotsTaken \in 0..MaxSnapshots
    /\ changes \in 0..MaxChanges
    /\ crashes \in 0..MaxCrashes
    /\ losses \in 0..MaxWipes
    /\ DOMAIN backup = Server
    /\ rolledBack \subseteq Restorable

-----------------------------------------------------------------------------
(* Safety of the cluster (Figure 3.2)                                      *)

\* Over all time, not only of those that lead at once.
ElectionSafety == \A one, other \in leaders : one[1] = other[1] => one[2] = other[2]

\* Up to `count` two logs hold the same entries, as far as neither has forgotten them.
IsSame(entry, other) ==
    /\ entry.term = other.term
    /\ \/ entry.payload = other.payload /\ entry.membership = other.membership
       \/ "Forgotten" \in {entry.payload, other.payload}
Agree(one, other, count) ==
    \A k \in Max(1, Max(Base(one), Base(other)))..count : IsSame(one[k], other[k])

\* It never truncates; a part that a snapshot covers it may forget.
LeaderAppendOnly ==
    [][\A i \in Server :
        role[i] = "Leader" /\ role'[i] = "Leader" /\ currentTerm'[i] = currentTerm[i] /\ log'[i] # log[i] =>
            /\ \/ Len(log'[i]) > Len(log[i])
               \/ Len(log'[i]) = Len(log[i]) /\ Base(log'[i]) > Base(log[i])
            /\ Agree(log'[i], log[i], Len(log[i]))]_vars

LogsMatch(one, other) ==
    one = other \/ \A k \in Max(1, Max(Base(one), Base(other)))..Min(Len(one), Len(other)) :
                       one[k].term = other[k].term => Agree(one, other, k)

\* Of the logs as decided and of those on the disks.
LogMatching ==
    LET logs == {log[i] : i \in Server} \cup {disk[i].log : i \in Server}
    IN \A one, other \in logs : LogsMatch(one, other)

\* A log holds what was committed there, or once did: who forgot it has a snapshot.
IsCommitted(entries, k) == k < Base(entries) \/ (k <= Len(entries) /\ IsSame(entries[k], committed[k]))

\* Up to `count` a log holds what was committed.
HoldsCommitted(entries, count) == count <= Len(entries) /\ \A k \in 1..count : IsCommitted(entries, k)

\* The term in which it was committed counts: an entry's own term may be older, and the leaders of the terms between
\* need not have it (3.6.2).
LeaderCompleteness ==
    \A i \in Leaders : \A k \in DOMAIN committed :
        committed[k].commitTerm < currentTerm[i] => k <= Len(log[i]) /\ IsCommitted(log[i], k)

StateMachineSafety ==
    \A i \in Server : commitIndex[i] <= Len(committed) /\ HoldsCommitted(log[i], commitIndex[i])

-----------------------------------------------------------------------------
(* What safety rests on                                                    *)

\* The configuration after these entries, which nobody forgot.
AfterAll(entries) ==
    LET at == {k \in DOMAIN entries : IsChange(entries[k])}
    IN IF at = {} THEN Stable(Voters, Learners, {}) ELSE entries[CHOOSE k \in at : \A j \in at : j <= k].membership[1]

\* The configuration that elected a leader: that of its log before its first entry.
ElectedBy(i) ==
    LET known(k) == IF k <= Base(log[i]) THEN committed[k] ELSE log[i][k]
        before == {k \in DOMAIN log[i] : known(k).term < currentTerm[i]}
    IN AfterAll([k \in 1..Cardinality(before) |-> known(k)])

\* The disks of a quorum hold a vote for the leader, or have moved on since, or did before they were put back.
LeaderHasQuorum ==
    \A i \in Leaders :
        LET voted(j) == disk[j].term > currentTerm[i] \/ (disk[j].term = currentTerm[i] /\ disk[j].vote = i)
        IN IsQuorum(ElectedBy(i), {j \in Server : j \in rolledBack \/ voted(j)})

\* What is on a disk is kept over all lives; what was decided, for this one.
KeepsVote(term, vote, newTerm, newVote) == newTerm = term /\ vote # Nil => newVote = vote

VotesGrantedOnce ==
    [][\A i \in Server :
        /\ DisksKeep => KeepsVote(disk[i].term, disk[i].vote, disk'[i].term, disk'[i].vote)
        /\ LivesGoOn => KeepsVote(currentTerm[i], votedFor[i], currentTerm'[i], votedFor'[i])]_vars

MatchIndexSound ==
    \A i \in Leaders : \A j \in DOMAIN progress[i] \ rolledBack :
        currentTerm[j] = currentTerm[i] =>
            LET k == progress[i][j].matchIndex
            IN k <= Len(log[i]) /\ k <= Len(disk[j].log) /\ Agree(disk[j].log, log[i], k)

\* What a server answered in a former life, before it was removed and added again, changes nothing at its leader: neither what
\* that believes it to hold, nor whether it is there.  Whatever happens next, and said of what the handlers make of it.
AnswersOfThisLife ==
    [][\A m \in messages :
        LET n == Local(m.to)
        IN /\ m.type = "AppendEntriesResponse" /\ m.term = n.term /\ n.role = "Leader" /\ ~IsAnswer(n, m) =>
                AfterAppendEntriesResponse(m) = n
           /\ m.type = "ConfirmLeaderResponse" /\ m.term = n.term /\ n.role = "Leader" /\ m.from \in Peers(n) =>
                m.round > n.progress[m.from].roundBefore \/ AfterConfirmLeaderResponse(m) = n]_vars

\* A leader counts by the configuration in force, which is the last one committed or the one after that; the latter a crash
\* may take back, with nothing left of it but what it let commit.
After(m) ==
    {m} \cup {Towards(m, Stable(asked.voters, asked.learners, asked.promoting)) : asked \in Targets}
        \cup {JointLeft(m)} \cup {Promoted(m, i) : i \in m.promoting}

\* Who holds the last one durably holds all before it.
CommittedIsDurable ==
    LET holders == rolledBack \cup {j \in Server : HoldsCommitted(disk[j].log, Len(committed))}
    IN committed # <<>> => \E m \in After(AfterAll(committed)) : IsQuorum(m, holders)

\* What a message promises is on its sender's disk, or the disk has moved on to a later term, in which nobody relies on
\* the promise.  A leader's appends promise nothing but that it leads the term.
IsBacked(m, d) ==
    \/ d.term > m.term
    \/ /\ d.term = m.term
       /\ CASE m.type = "RequestVoteRequest" -> d.vote = m.from
            [] m.type = "RequestVoteResponse" -> m.granted => d.vote = m.to
            [] m.type \in {"AppendEntriesRequest", "ConfirmLeaderRequest", "ReadIndexResponse", "TimeoutNowRequest",
                           "InstallSnapshotRequest"} -> d.vote = m.from
            [] m.type = "AppendEntriesResponse" ->
                m.result.kind = "Accepted" => m.result.matchIndex <= Len(d.log)
            [] OTHER -> TRUE

\* What a disk lost does not undo what was said before; and that it lost something is no promise.
PersistFirst == losses = 0 /\ rolledBack = {} => \A m \in messages : IsBacked(m, disk[m.from])

\* Does an append name, as acknowledged on this very disk and in the append's term, what is not there?  The disk does not know the
\* term, or it is too short, or the entry that follows what was acknowledged has no place there.  No snapshot covers it.
NamesWhatIsGone(m) ==
    LET d == disk[m.to]
    IN /\ m.acknowledged > snapshot[m.to].index
       /\ m.disk = d.number
       /\ \/ m.term > currentTerm[m.to]
          \/ m.term = currentTerm[m.to] /\ m.acknowledged > Len(d.log)
          \/ m.term = currentTerm[m.to] /\ m.acknowledged = m.prev.index /\ ~Admits(d.log, m.prev)

\* Then its receiver says so and does nothing any more, whatever happens next.
LossIsTold ==
    [][\A m \in messages :
        m.type = "AppendEntriesRequest" /\ ~lost[m.to] /\ NamesWhatIsGone(m) =>
            \/ DecideAppend(Received(m), m) = "Misbehaved"
            \/ /\ AfterAppendEntriesRequest(m).lost
               /\ \E told \in AfterAppendEntriesRequest(m).out :
                     told.type = "AppendEntriesResponse" /\ told.result.kind = "LostAcknowledged"]_vars

\* A server finds that it lost data only if its disk was put back, and its leader believes that only of such a server: neither
\* late nor repeated answers, nor what was meant for a former life, accuse anybody.
NobodyIsAccused ==
    /\ \A i \in Server : lost[i] => i \in rolledBack
    /\ \A i \in Leaders : \A j \in DOMAIN progress[i] : progress[i][j].lost > 0 => j \in rolledBack

\* A server that lost data counts for nothing at its leader.
LostCountsForNothing ==
    \A i \in Leaders : \A j \in DOMAIN progress[i] :
        LET p == progress[i][j]
        IN p.lost > 0 => p.matchIndex = 0 /\ p.confirmedRound = 0 /\ ~p.active /\ p.state = "ProbeSent"

\* Of a crash it is the server's life that ends, and nobody else's that changes.
TermMonotonic ==
    [][\A i \in Server : /\ DisksKeep => disk'[i].term >= disk[i].term
                         /\ LivesGoOn => currentTerm'[i] >= currentTerm[i]]_vars

CommitMonotonic == [][LivesGoOn => \A i \in Server : commitIndex'[i] >= commitIndex[i]]_vars

AppliedInOrder ==
    [][\A i \in Server : /\ LivesGoOn => appliedIndex'[i] >= appliedIndex[i]
                         /\ appliedIndex'[i] <= Min(commitIndex'[i], durableIndex'[i])]_vars

\* Who is asked answers, now or behind a write, and changes nothing else; who asks keeps term and vote, and writes
\* nothing (9.6).
WithoutMessages(writes) == [k \in DOMAIN writes |-> [writes[k] EXCEPT !.messages = {}]]

PreVoteLeavesHardStateAlone ==
    [][\A i \in Server :
        /\ HandlePreVoteRequest(i) =>
            /\ UNCHANGED <<currentTerm, votedFor, log, role, leader, leaderIsRecent, session, lost, votesGranted,
                           votesRefused, snapshot, snapshotMembership, fetch, commitIndex, appliedIndex, durableIndex, progress, disk>>
            /\ WithoutMessages(pending'[i]) = WithoutMessages(pending[i])
        /\ role'[i] = "PreCandidate" =>
            /\ currentTerm'[i] = currentTerm[i] /\ votedFor'[i] = votedFor[i]
            /\ role[i] # "PreCandidate" => WithoutMessages(pending'[i]) = WithoutMessages(pending[i])]_vars

\* The leader that a server follows told it to campaign, and it does (3.10).
ObeysItsLeader(i) ==
    /\ role[i] = "Follower"
    /\ currentTerm'[i] = currentTerm[i] + 1
    /\ \E m \in Inbox(i, "TimeoutNowRequest") : m.from = leader[i] /\ m.term = currentTerm[i]

\* With pre-votes a server begins a campaign only with those of a quorum for that very term, given since it last asked, or
\* because the leader that it follows told it to.  Its own is always given: a server that is a quorum alone asks nobody.
CountsPreVote(i, voter) ==
    voter = i \/ \E m \in Inbox(i, "PreVoteResponse") :
                     m.from = voter /\ m.granted /\ m.campaignTerm = currentTerm[i] + 1

CampaignHasPreVotes ==
    [][PreVote => \A i \in Server :
        /\ role'[i] = "PreCandidate" =>
            \A voter \in votesGranted'[i] : \/ role[i] = "PreCandidate" /\ voter \in votesGranted[i]
                                            \/ CountsPreVote(i, voter)
        /\ role'[i] = "Candidate" /\ currentTerm'[i] # currentTerm[i] =>
            \/ ObeysItsLeader(i)
            \/ /\ currentTerm'[i] = currentTerm[i] + 1
               /\ IsQuorum(InForce(Local(i)),
                           {voter \in Server :
                               \/ voter = i
                               \/ role[i] = "PreCandidate" /\ (voter \in votesGranted[i] \/ CountsPreVote(i, voter))})]_vars

\* Whatever happens next: a check now would keep only a leader that a quorum answered, and ask anew.  It is said of what
\* the check makes of the leader, because a check that wrongly changes nothing is no step (6.2).
CheckedLeaderHasAnswers ==
    [][CheckQuorum => \A i \in Leaders :
        LET checked == CheckAnswers(Local(i))
        IN checked.role = "Leader" =>
            /\ IsQuorum(InForce(Local(i)), {j \in DOMAIN progress[i] : progress[i][j].active} \cup {i})
            /\ \A j \in DOMAIN progress[i] : ~checked.progress[j].active]_vars

-----------------------------------------------------------------------------
(* Snapshots (5)                                                           *)

\* What a snapshot covers is committed: it never brings anything else.
IsOfCommitted(id) == id.index > 0 => id.index <= Len(committed) /\ id.term = committed[id.index].term
SnapshotConsistent == \A i \in Server : IsOfCommitted(snapshot[i]) /\ IsOfCommitted(disk[i].snapshot)

\* Between a snapshot and the log that continues it nothing is missing, whenever the server crashes.
NoGap(id, entries) == Base(entries) <= id.index /\ id.index <= Len(entries)
CompactedIsCovered == \A i \in Server : NoGap(snapshot[i], log[i]) /\ NoGap(disk[i].snapshot, disk[i].log)

SnapshotIsCommitted == \A i \in Server : snapshot[i].index <= commitIndex[i]

\* A log that reaches a fetched snapshot by itself keeps what it has: some of it may be acknowledged.
SnapshotKeepsWhatFollows ==
    [][LivesGoOn => \A i \in Server :
        snapshot'[i] # snapshot[i] /\ Holds(log[i], snapshot'[i]) => Len(log'[i]) >= Len(log[i])]_vars

\* What counts as applied is in the state machine: a snapshot is restored once it cannot be lost again.
RestoresWhenDurable ==
    \A i \in Server : snapshot[i].index > appliedIndex[i] => durableIndex[i] < snapshot[i].index

FetchesWhatIsMissing ==
    \A i \in Server : fetch[i] # NoFetch => role[i] # "Leader" /\ fetch[i][1].last.index > commitIndex[i]

-----------------------------------------------------------------------------
(* Reads (6.4)                                                             *)

\* Who reads finds everything that was committed, by whoever, when the read began.
LinearizableRead ==
    \A c \in DOMAIN readHistory : readHistory[c].index # Nil => readHistory[c].index >= readHistory[c].floor

\* Nobody leads a later term than a leader with a lease: nobody was elected since it asked (6.4.1).
LeaseSafe == \A i \in Leaders : HasLease(Local(i)) => \A led \in leaders : led[1] <= currentTerm[i]

\* A read that waits goes on waiting where it began until it is answered, at a leader with its own index, or the server leads
\* no more or loses its leader; then it ends.  One that begins waits or is answered at once.  What is answered waits no more,
\* and its answer stays.  What waits at a leader for a follower is a question, and no read.
OwnReads(waiting) == {waiting[k].context : k \in {k \in DOMAIN waiting : waiting[k].reader = Nil}}
AtFollower(waiting) == {waiting[k] : k \in DOMAIN waiting}
EveryReadEndsOnce ==
    [][/\ \A c \in DOMAIN readHistory : readHistory[c].index # Nil => readHistory'[c] = readHistory[c]
       /\ \A i \in Leaders : \A k \in DOMAIN reads[i] :
            \/ reads[i][k].reader # Nil
            \/ role'[i] # "Leader"
            \/ readHistory'[reads[i][k].context].index = reads[i][k].index
            \/ \E later \in DOMAIN reads'[i] : reads'[i][later] = reads[i][k]
       /\ \A i \in Server : followerReads[i] # <<>> \/ followerReads'[i] # <<>> =>
            IF currentTerm'[i] # currentTerm[i] \/ leader'[i] # leader[i] THEN followerReads'[i] = <<>>
            ELSE \A c \in AtFollower(followerReads[i]) :
                    \/ c \in AtFollower(followerReads'[i])
                    \/ readHistory'[c].index # Nil
                    \/ MinimumElectionTimeout(i) /\ followerReads'[i] = <<>>
       /\ \A c \in DOMAIN readHistory' :
            LET waits == \E i \in Server : c \in OwnReads(reads'[i]) \cup AtFollower(followerReads'[i])
                waited == \E i \in Server : c \in OwnReads(reads[i]) \cup AtFollower(followerReads[i])
                begins == c \notin DOMAIN readHistory
                isAnswered == readHistory'[c].index # Nil
                wasAnswered == ~begins /\ readHistory[c].index # Nil
            IN /\ ~(waits /\ isAnswered)
               /\ begins => waits \/ isAnswered
               /\ isAnswered => wasAnswered \/ begins \/ waited]_vars

-----------------------------------------------------------------------------
(* Leadership transfer (3.10)                                              *)

\* So that the target can come to hold the whole log.  (That a leader truncates nothing is `LeaderAppendOnly`.)  Once it has
\* ended, a joint configuration may be left in the same step.
TransferAppendsNothing ==
    [][\A i \in Leaders :
        transfer[i] # Nil /\ role'[i] = "Leader" /\ currentTerm'[i] = currentTerm[i] =>
            \/ Len(log'[i]) = Len(log[i])
            \/ /\ transfer'[i] = Nil /\ Len(log'[i]) = Len(log[i]) + 1
               /\ IsChange(log'[i][Len(log'[i])]) /\ IsJoint(InForce(Local(i)))]_vars

TimeoutNowAfterWholeLog ==
    [][\A m \in messages' \ messages :
        m.type = "TimeoutNowRequest" =>
            /\ role'[m.from] = "Leader"
            /\ m.term = currentTerm'[m.from]
            /\ m.to = transfer'[m.from]
            /\ progress'[m.from][m.to].matchIndex = Len(log'[m.from])]_vars

\* Whether the request is late, comes twice, or from a leader of an earlier term: nobody else makes a server campaign, and
\* nobody asks for votes in the name of a leader that did not tell it to.
InTheNameOfALeader(writes) ==
    {m \in UNION {writes[k].messages : k \in DOMAIN writes} : m.type = "RequestVoteRequest" /\ m.leadershipTransfer}

TimeoutNowFromOwnLeader ==
    [][\A i \in Server :
        /\ HandleTimeoutNowRequest(i) /\ role'[i] = "Candidate" =>
            ObeysItsLeader(i) \/ (role[i] = "Candidate" /\ currentTerm'[i] = currentTerm[i])
        /\ InTheNameOfALeader(pending'[i]) \subseteq InTheNameOfALeader(pending[i]) \/ ObeysItsLeader(i)]_vars

\* Whatever happens next, and said of what the handler makes of it, because to ignore is no step: who heard its leader just
\* now, or leads, listens to candidates in the name of a leader and to no others (4.2.3).
OnlyTransfersDisrupt ==
    [][\A m \in messages :
        m.type = "RequestVoteRequest" /\ ~lost[m.to] =>
            LET n == Local(m.to)
                after == AfterRequestVoteRequest(m)
            IN IF CheckQuorum /\ (n.recent \/ n.role = "Leader") /\ ~m.leadershipTransfer
               THEN after = n
               ELSE after.term >= m.term]_vars

\* Once it has begun, a transfer goes on to the same target until its timeout or until the server leads no more.  It begins
\* when somebody asks for it, or when a leader without a vote hears of a server that has one.
IsSuccessor(i, j) ==
    /\ ~HasVote(InForce(Local(i)), i) /\ HasVote(InForce(Local(i)), j)
    /\ \E m \in Inbox(i, "AppendEntriesResponse") : m.from = j /\ m.term = currentTerm[i]
EveryTransferEnds ==
    [][\A i \in Leaders :
        role'[i] = "Leader" /\ currentTerm'[i] = currentTerm[i] /\ transfer'[i] # transfer[i] =>
            IF transfer[i] = Nil THEN IsSuccessor(i, transfer'[i]) \/ TransferLeadership(i)
            ELSE transfer'[i] = Nil /\ TransferTimeout(i)]_vars

-----------------------------------------------------------------------------
(* Membership changes (4)                                                  *)

\* The places of the configurations in the part of a log that is there.
Changes(entries) == {k \in (Base(entries) + 1)..Len(entries) : IsChange(entries[k])}

\* A new leader may know less of what is committed than the one before did.
OneChangeAtATime ==
    \A i \in Leaders :
        TermAt(log[i], commitIndex[i]) = currentTerm[i] =>
            Cardinality({k \in Changes(log[i]) : k > commitIndex[i]}) <= 1

ChangesAfterOwnCommit ==
    \A i \in Leaders : \A k \in Changes(log[i]) :
        log[i][k].term = currentTerm[i] => TermAt(log[i], commitIndex[i]) = currentTerm[i]

\* Two configurations that follow each other in a log: a quorum of one leaves none of the other, so they cannot decide apart.
Overlap(m, next) == \A servers \in SUBSET Server : ~(IsQuorum(m, servers) /\ IsQuorum(next, Server \ servers))
QuorumsOverlap ==
    \A i \in Server :
        LET later == {k \in Changes(log[i]) : k > snapshot[i].index}
        IN \A k \in later : LET before == AsOf(Local(i), k - 1)
                            IN before.voters # {} => Overlap(before, log[i][k].membership[1])

CampaignersHaveAVote == \A i \in Server : role[i] \in {"PreCandidate", "Candidate"} => MayCampaign(Local(i))

PeersAreMembers == \A i \in Leaders : DOMAIN progress[i] = Members(InForce(Local(i))) \ {i}

\* Who gets a vote with the configuration in force, by a leader of this term, holds durably the configurations that were there before, hence the one that made
\* it a learner, and the leader's first entry of the term; what a log has forgotten is not asked after any more.
PromotedHasLog ==
    \A i \in Leaders :
        LET due(k) == {p \in (Base(log[i]) + 1)..(k - 1) :
                          IsChange(log[i][p]) \/ log[i][p] = Entry(currentTerm[i], "Noop")}
            last == InForceAt(Local(i))
        IN \A k \in {k \in Changes(log[i]) : k = last /\ k > snapshot[i].index /\ log[i][k].term = currentTerm[i]} :
               \A j \in log[i][k].membership[1].voters \ (Voting(AsOf(Local(i), k - 1)) \cup rolledBack) :
                   \A p \in due(k) : p <= Len(disk[j].log) /\ Agree(disk[j].log, log[i], p)

-----------------------------------------------------------------------------
(* One server's own state                                                  *)

CommitWithinLog == \A i \in Server : commitIndex[i] <= Len(log[i])
AppliedIsCommitted == \A i \in Server : appliedIndex[i] <= commitIndex[i]
TermsWithinCurrent == \A i \in Server : TermAt(log[i], Len(log[i])) <= currentTerm[i]
TermsStartAtOne == \A i \in Server : \A k \in Max(1, Base(log[i]))..Len(log[i]) : log[i][k].term >= 1
TermsGrow == \A i \in Server : \A k \in 2..Len(log[i]) : log[i][k - 1].term <= log[i][k].term

\* What counts as durable is on the disk and in the log; with no write in flight that is everything.
DurableWithinLog ==
    \A i \in Server :
        /\ durableIndex[i] <= Len(log[i])
        /\ durableIndex[i] <= Len(disk[i].log)
        /\ Agree(disk[i].log, log[i], durableIndex[i])
        /\ pending[i] = <<>> => /\ disk[i] = [number |-> disk[i].number, term |-> currentTerm[i], vote |-> votedFor[i], log |-> log[i],
                                               snapshot |-> snapshot[i], membership |-> snapshotMembership[i]]
                                /\ durableIndex[i] = Len(log[i])

FollowerFollowsAnother == \A i \in Server : role[i] = "Follower" => leader[i] # i
CandidateKnowsNoLeader == \A i \in Server : role[i] \in {"PreCandidate", "Candidate"} => leader[i] = Nil
CandidateVotedForItself == \A i \in Server : role[i] = "Candidate" => votedFor[i] = i
LeaderKnowsItself == \A i \in Leaders : leader[i] = i
LeaderVotedForItself == \A i \in Leaders : votedFor[i] = i
LeaderHasItsNoop ==
    \A i \in Leaders :
        \/ TermAt(log[i], Base(log[i])) = currentTerm[i]
        \/ \E k \in DOMAIN log[i] : log[i][k] = Entry(currentTerm[i], "Noop") /\ TermAt(log[i], k - 1) < currentTerm[i]
MatchBelowNext == \A i \in Leaders : \A j \in DOMAIN progress[i] : progress[i][j].matchIndex < progress[i][j].nextIndex
NextWithinLog == \A i \in Leaders : \A j \in DOMAIN progress[i] : progress[i][j].nextIndex <= Len(log[i]) + 1
\* With leases the promise stays when the term or the role changes, and across a restart.
RecentLeaderIsKnown == \A i \in Server : leaderIsRecent[i] => Leases \/ (leader[i] # Nil /\ role[i] # "Leader")
\* Reads go on in the order in which they began, and the first of them waits for a round that is on its way.
ReadsInOrder ==
    \A i \in Leaders :
        /\ \A k \in DOMAIN reads[i] : reads[i][k].round <= readRound[i] + (IF k = 1 THEN 0 ELSE 1)
        /\ \A k \in 2..Len(reads[i]) : /\ reads[i][k - 1].round <= reads[i][k].round
                                       /\ reads[i][k - 1].index <= reads[i][k].index
\* A follower's reads wait for the leader that it follows, and while some wait the last question covers the first of them.
FollowerReadsAreAsked ==
    \A i \in Server :
        /\ readsAsked[i] <= Len(followerReads[i])
        /\ readsAsked[i] = 0 <=> followerReads[i] = <<>>
        /\ followerReads[i] # <<>> => role[i] = "Follower" /\ leader[i] # Nil
\* However often a follower asks, few of its questions wait.
TwoQuestionsPerFollower ==
    \A i \in Leaders : \A j \in Server : Cardinality({k \in DOMAIN reads[i] : reads[i][k].reader = j}) <= 2
\* A transfer dies with the role of the leader that began it.
TransferIsToAPeer == \A i \in Server : transfer[i] # Nil => role[i] = "Leader" /\ transfer[i] \in DOMAIN progress[i]
\* Of a follower that came, or came back, in this term no earlier round was asked.
ConfirmedWasAsked ==
    \A i \in Leaders : \A j \in DOMAIN progress[i] :
        LET p == progress[i][j]
        IN p.confirmedRound # 0 => p.confirmedRound \in (p.roundBefore + 1)..readRound[i]
RecentLeaderOnlyWithCheckQuorum == \A i \in Server : leaderIsRecent[i] => CheckQuorum
=============================================================================
