-------------------------------- MODULE Raft --------------------------------
(***************************************************************************)
(* The Raft protocol as raft-io ships it.                                  *)
(*                                                                         *)
(* One action is one input of `Protocol::step`: a timeout, a message, a    *)
(* proposal, a report that writes are durable.  There are no smaller       *)
(* steps, so a state of this spec is a state of the code between two       *)
(* calls, and the names are those of the code (`Transition`, the           *)
(* functions in src/protocol, the laws in docs/INVARIANTS.md).  What is    *)
(* decided and what is durable are kept apart: a server writes to its      *)
(* disk through a queue, and what waits for a write waits behind it.       *)
(*                                                                         *)
(* Section numbers are those of D. Ongaro's dissertation, "Consensus:      *)
(* Bridging Theory and Practice" (Stanford, 2014).                         *)
(*                                                                         *)
(* Server == the servers        Nil == no server                           *)
(***************************************************************************)
EXTENDS Naturals, Sequences, FiniteSets, TLC

CONSTANTS
    Server, Nil,
    \* Features.
    PreVote,            \* ask before campaigning (9.6)
    CheckQuorum,        \* step down without a quorum; ignore candidates while the leader is heard (6.2, 4.2.3)
    Heartbeats,         \* whether leaders send heartbeats
    ClientRequests,     \* whether clients propose commands
    \* Limits that the code has as well.
    MaxInflight,        \* appends on their way to one follower (10.2.1)
    MaxAppendEntries,   \* entries in one append
    \* Bounds of the exploration: an action that would lead beyond one is not taken.
    Campaigners,        \* who ever campaigns
    MaxTerm, MaxLogLength, MaxPending, MaxCrashes,
    \* The network: "lossy" holds at most MaxMessages, and what finds no room is lost; "monotone" loses nothing and
    \* forgets nothing, so that every message can be handled at any later time, any number of times, or never.
    Network, MaxMessages,
    Duplication         \* whether a lossy network may deliver a message and keep it

VARIABLES
    messages,           \* the messages on their way
    \* What a server has decided.  Term, vote and log are on its disk once the writes in flight are.
    currentTerm, votedFor, log,
    role, leader, leaderIsRecent, votesGranted, votesRefused, commitIndex, appliedIndex,
    durableIndex,       \* up to here the log is on the disk, and no write in flight replaces it
    progress,           \* what a leader knows of its peers; empty in other roles
    pending,            \* the writes in flight, oldest first, with the messages that wait behind each
    disk,               \* what survives a crash
    \* What nobody in the cluster can see: history, for the laws.
    leaders,            \* <<term, server>> of everyone who ever led
    committed,          \* everything ever committed, with the term of the server that committed it first
    crashes

serverVars == <<currentTerm, votedFor, log, role, leader, leaderIsRecent, votesGranted, votesRefused, commitIndex,
                appliedIndex, durableIndex, progress, pending, disk>>
vars == <<messages, serverVars, leaders, committed, crashes>>

-----------------------------------------------------------------------------
(* Numbers, entries, logs *)

Min(a, b) == IF a < b THEN a ELSE b
Max(a, b) == IF a > b THEN a ELSE b

IsQuorum(servers) == 2 * Cardinality(servers) > Cardinality(Server)
Peers(i) == Server \ {i}

Entry(term, payload) == [term |-> term, payload |-> payload]
EntryId(index, term) == [index |-> index, term |-> term]
\* Index 0 is the position before the first entry, and has term 0.
TermAt(entries, index) == IF index = 0 THEN 0 ELSE entries[index].term
LastId(entries) == EntryId(Len(entries), TermAt(entries, Len(entries)))
\* Whether a log that ends with `one` is at least as up to date as one that ends with `other` (3.6.1).
AtLeast(one, other) == one.term > other.term \/ (one.term = other.term /\ one.index >= other.index)

\* The last position at or before `bound` with a term of at most `term`: beyond it, this log cannot agree with one that
\* has that term at `bound` (3.5).
AgreeMax(entries, bound, term) ==
    LET fits == {k \in 0..bound : TermAt(entries, k) <= term}
        last == CHOOSE k \in fits : \A other \in fits : other <= k
    IN EntryId(last, TermAt(entries, last))

-----------------------------------------------------------------------------
(* A server within a step                                                  *)
(*                                                                         *)
(* A handler takes a server as a record, and gives the record afterwards.  *)
(* `dirty`: term or vote changed, and no write carries them yet.  `out`:   *)
(* what leaves with this step.                                             *)

Local(i) ==
    [id |-> i, term |-> currentTerm[i], vote |-> votedFor[i], log |-> log[i], role |-> role[i], leader |-> leader[i],
     recent |-> leaderIsRecent[i], granted |-> votesGranted[i], refused |-> votesRefused[i],
     commit |-> commitIndex[i], applied |-> appliedIndex[i], durable |-> durableIndex[i], progress |-> progress[i],
     pending |-> pending[i], disk |-> disk[i], dirty |-> FALSE, out |-> {}]

NoProgress == <<>>

(* Writes and what waits for them (3.8, 10.2.1) *)

\* One atomic write: term and vote if they changed, a truncation, entries.
Persist(n, truncateFrom, entries) ==
    LET kept == IF truncateFrom = 0 THEN n.log ELSE SubSeq(n.log, 1, truncateFrom - 1)
        cut(index) == IF truncateFrom = 0 THEN index ELSE Min(index, truncateFrom - 1)
        newLog == kept \o entries
        earlier == [k \in DOMAIN n.pending |-> [n.pending[k] EXCEPT !.durable = cut(@)]]
        write == [hardState |-> IF n.dirty THEN <<[term |-> n.term, vote |-> n.vote]>> ELSE <<>>,
                  truncateFrom |-> truncateFrom, entries |-> entries, durable |-> Len(newLog), messages |-> {}]
    IN [n EXCEPT !.log = newLog, !.durable = cut(@), !.pending = Append(earlier, write), !.dirty = FALSE]

PersistHardState(n) == IF n.dirty THEN Persist(n, 0, <<>>) ELSE n

\* Messages leave once everything decided before them is durable: at once if nothing is in flight, else they wait behind
\* the last write.  One of a kind behind one write is enough.
SendAll(n, sent) ==
    LET last == Len(n.pending) IN
    IF last = 0 THEN [n EXCEPT !.out = @ \cup sent] ELSE [n EXCEPT !.pending[last].messages = @ \cup sent]

Send(n, m) == SendAll(n, {m})
Broadcast(n, message(_)) == SendAll(n, {message(j) : j \in Peers(n.id)})

(* Messages *)

Envelope(n, to, type) == [type |-> type, from |-> n.id, to |-> to, term |-> n.term]

PreVoteRequest(n, to) == Envelope(n, to, "PreVoteRequest") @@ [campaignTerm |-> n.term + 1, last |-> LastId(n.log)]
PreVoteResponse(n, to, campaignTerm, granted) ==
    Envelope(n, to, "PreVoteResponse") @@ [campaignTerm |-> campaignTerm, granted |-> granted]
RequestVoteRequest(n, to) == Envelope(n, to, "RequestVoteRequest") @@ [last |-> LastId(n.log)]
RequestVoteResponse(n, to, granted) == Envelope(n, to, "RequestVoteResponse") @@ [granted |-> granted]
AppendEntriesRequest(n, to, prevIndex, entries) ==
    Envelope(n, to, "AppendEntriesRequest") @@
    [prev |-> EntryId(prevIndex, TermAt(n.log, prevIndex)), entries |-> entries, commit |-> n.commit]
AppendEntriesResponse(n, to, result) == Envelope(n, to, "AppendEntriesResponse") @@ [result |-> result]

-----------------------------------------------------------------------------
(* Roles and terms (3.3, 3.4) *)

\* The vote stays: it belongs to the term, not to the role.
BecomeFollower(n, newLeader) ==
    [n EXCEPT !.role = "Follower", !.leader = newLeader, !.recent = FALSE, !.granted = {}, !.refused = {},
              !.progress = NoProgress]

UpdateTerm(n, term) == BecomeFollower([n EXCEPT !.term = term, !.vote = Nil, !.dirty = TRUE], Nil)

\* Starts a campaign.  The own vote counts, and the requests leave, once term and vote are durable.
BecomeCandidate(n) ==
    LET candidate == [n EXCEPT !.term = @ + 1, !.vote = n.id, !.dirty = TRUE, !.role = "Candidate", !.leader = Nil,
                               !.recent = FALSE, !.granted = {}, !.refused = {}, !.progress = NoProgress]
        durable == PersistHardState(candidate)
    IN Broadcast(durable, LAMBDA j : RequestVoteRequest(durable, j))

\* Asks whether an election could succeed.  The own pre-vote is no promise, so it needs no write (9.6).
BecomePreCandidate(n) ==
    LET asking == [n EXCEPT !.role = "PreCandidate", !.leader = Nil, !.recent = FALSE, !.granted = {n.id},
                            !.refused = {}, !.progress = NoProgress]
    IN IF IsQuorum({n.id}) THEN BecomeCandidate(asking)
       ELSE Broadcast(asking, LAMBDA j : PreVoteRequest(asking, j))

\* Candidates are ignored by a leader, and by who heard its leader just now (4.2.3).
DisregardsCandidates(n) == CheckQuorum /\ (n.recent \/ n.role = "Leader")

IsUpToDate(n, last) == AtLeast(last, LastId(n.log))

-----------------------------------------------------------------------------
(* A leader and its followers (3.5, 10.2.1) *)

NewProgress(last) ==
    [matchIndex |-> 0, nextIndex |-> last + 1, state |-> "Probe", active |-> FALSE, inflight |-> <<>>]

WindowOpen(p) == Len(p.inflight) < MaxInflight

\* An append up to `last` leaves.
Sent(p, last) ==
    CASE p.state \in {"Probe", "ProbeSent"} -> [p EXCEPT !.state = "ProbeSent"]
      [] p.state = "Replicate" -> [p EXCEPT !.nextIndex = last + 1, !.inflight = Append(@, last)]
      [] OTHER -> p

\* Whether there is something to send, as far as the leader's log is durable.
MaySend(p, durable) ==
    CASE p.state = "Probe" -> TRUE
      [] p.state = "Replicate" -> p.nextIndex <= durable
      [] OTHER -> FALSE

\* Whether entries from `first` on, just appended, can go as they are.
TakesNext(p, first) ==
    p.nextIndex = first /\ (p.state = "Probe" \/ (p.state = "Replicate" /\ WindowOpen(p)))

\* Everything that the follower's state and window allow, of what is durable here: its progress and the messages.
RECURSIVE Replicate(_, _, _, _)
Replicate(n, j, p, out) ==
    LET allowed == p.state = "Probe" \/ (p.state = "Replicate" /\ p.nextIndex <= n.durable /\ WindowOpen(p))
        entries == SubSeq(n.log, p.nextIndex, Min(n.durable, p.nextIndex + MaxAppendEntries - 1))
        last == p.nextIndex - 1 + Len(entries)
        message == AppendEntriesRequest(n, j, p.nextIndex - 1, entries)
    IN IF allowed THEN Replicate(n, j, Sent(p, last), out \cup {message}) ELSE [progress |-> p, out |-> out]

ReplicateTo(n, j) ==
    LET sent == Replicate(n, j, n.progress[j], {})
    IN [n EXCEPT !.progress[j] = sent.progress, !.out = @ \cup sent.out]

\* What was not sent when it was appended follows once it is durable here.
ReplicateDurable(n) ==
    IF n.role = "Leader" /\ \E j \in Peers(n.id) : MaySend(n.progress[j], n.durable)
    THEN LET sent == [j \in Peers(n.id) |-> Replicate(n, j, n.progress[j], {})]
         IN [n EXCEPT !.progress = [j \in Peers(n.id) |-> sent[j].progress],
                      !.out = @ \cup UNION {sent[j].out : j \in Peers(n.id)}]
    ELSE n

\* A leader writes entries and sends them in parallel: only its own copy counts later, once durable.
AppendAsLeader(n, entries) ==
    LET written == Persist(n, 0, entries)
        first == Len(n.log) + 1
        last == Len(written.log)
        takes(j) == TakesNext(n.progress[j], first)
    IN [written EXCEPT
            !.progress = [j \in Peers(n.id) |-> IF takes(j) THEN Sent(n.progress[j], last) ELSE n.progress[j]],
            !.out = @ \cup {AppendEntriesRequest(written, j, Len(n.log), entries) : j \in {k \in Peers(n.id) : takes(k)}}]

\* Its first entry commits everything before it (3.6.2, 6.4).
BecomeLeader(n) ==
    LET leading == [n EXCEPT !.role = "Leader", !.leader = n.id, !.recent = FALSE, !.granted = {}, !.refused = {},
                             !.progress = [j \in Peers(n.id) |-> NewProgress(Len(n.log))]]
    IN AppendAsLeader(leading, <<Entry(n.term, "Noop")>>)

\* Hands out what is committed and durable here.
AdvanceApply(n) == [n EXCEPT !.applied = Max(@, Min(n.commit, n.durable))]

\* What a majority holds durably is committed, from the leader's own term on (3.6.2, Figure 3.7).
AdvanceCommit(n) ==
    IF n.role # "Leader" THEN n
    ELSE LET holds(k) == {j \in Peers(n.id) : n.progress[j].matchIndex >= k} \cup
                         (IF n.durable >= k THEN {n.id} ELSE {})
             \* The leader's own entries stand at the end of its log.
             candidates == {k \in (n.commit + 1)..Len(n.log) : n.log[k].term = n.term /\ IsQuorum(holds(k))}
         IN IF candidates = {} THEN n
            ELSE AdvanceApply([n EXCEPT !.commit = CHOOSE k \in candidates : \A other \in candidates : other <= k])

-----------------------------------------------------------------------------
(* Votes *)

RecordVote(n, voter, granted) ==
    IF granted THEN [n EXCEPT !.granted = @ \cup {voter}] ELSE [n EXCEPT !.refused = @ \cup {voter}]

Won(n) == IsQuorum(n.granted)
Lost(n) == ~IsQuorum(Server \ n.refused)

CountVote(n, voter, granted) ==
    LET counted == RecordVote(n, voter, granted)
    IN IF Won(counted) THEN BecomeLeader(counted)
       ELSE IF Lost(counted) THEN BecomeFollower(counted, Nil) ELSE counted

CountPreVote(n, voter, granted) ==
    LET counted == RecordVote(n, voter, granted)
    IN IF Won(counted) THEN BecomeCandidate(counted)
       ELSE IF Lost(counted) THEN BecomeFollower(counted, Nil) ELSE counted

-----------------------------------------------------------------------------
(* From a step to the next state *)

\* What the network may hold after `sent` was sent into `held`.
Networks(held, sent) ==
    IF Network = "monotone" THEN {held \cup sent}
    ELSE LET fresh == sent \ held
             room == MaxMessages - Cardinality(held)
         IN IF Cardinality(fresh) <= room THEN {held \cup fresh}
            ELSE {held \cup kept : kept \in {some \in SUBSET fresh : Cardinality(some) = room}}

NewlyCommitted(n) ==
    [k \in 1..(n.commit - Len(committed)) |->
        LET entry == n.log[Len(committed) + k]
        IN [term |-> entry.term, payload |-> entry.payload, commitTerm |-> n.term]]

IsWithinBounds(n) == n.term <= MaxTerm /\ Len(n.log) <= MaxLogLength /\ Len(n.pending) <= MaxPending

\* Makes `server` what it is, if it is within the bounds; `held` is what is on its way apart from what it sends.
Install(server, held) == \E n \in {server} : \E i \in {n.id} :
    /\ IsWithinBounds(n)
    /\ messages' \in Networks(held, n.out)
    /\ currentTerm' = [currentTerm EXCEPT ![i] = n.term]
    /\ votedFor' = [votedFor EXCEPT ![i] = n.vote]
    /\ log' = [log EXCEPT ![i] = n.log]
    /\ role' = [role EXCEPT ![i] = n.role]
    /\ leader' = [leader EXCEPT ![i] = n.leader]
    /\ leaderIsRecent' = [leaderIsRecent EXCEPT ![i] = n.recent]
    /\ votesGranted' = [votesGranted EXCEPT ![i] = n.granted]
    /\ votesRefused' = [votesRefused EXCEPT ![i] = n.refused]
    /\ commitIndex' = [commitIndex EXCEPT ![i] = n.commit]
    /\ appliedIndex' = [appliedIndex EXCEPT ![i] = n.applied]
    /\ durableIndex' = [durableIndex EXCEPT ![i] = n.durable]
    /\ progress' = [progress EXCEPT ![i] = n.progress]
    /\ pending' = [pending EXCEPT ![i] = n.pending]
    /\ disk' = [disk EXCEPT ![i] = n.disk]
    /\ leaders' = IF n.role = "Leader" THEN leaders \cup {<<n.term, i>>} ELSE leaders
    /\ committed' = IF n.commit > Len(committed) THEN committed \o NewlyCommitted(n) ELSE committed

-----------------------------------------------------------------------------
(* Timeouts and clients *)

\* No leader was heard for a randomised timeout (3.4).
ElectionTimeout(i) ==
    /\ role[i] # "Leader"
    /\ i \in Campaigners
    /\ Install(IF PreVote THEN BecomePreCandidate(Local(i)) ELSE BecomeCandidate(Local(i)), messages)
    /\ UNCHANGED crashes

\* The leader was not heard for the minimum election timeout: listen to candidates again (4.2.3).
MinimumElectionTimeout(i) ==
    /\ leaderIsRecent[i]
    /\ Install([Local(i) EXCEPT !.recent = FALSE], messages)
    /\ UNCHANGED crashes

\* An empty append after what was sent last to each follower.  It needs no write to wait for.
HeartbeatTimeout(i) ==
    /\ Heartbeats
    /\ role[i] = "Leader"
    /\ LET n == Local(i)
           heartbeat(j) == AppendEntriesRequest(n, j, n.progress[j].nextIndex - 1, <<>>)
       IN Install([n EXCEPT !.out = {heartbeat(j) : j \in Peers(i)}], messages)
    /\ UNCHANGED crashes

\* A leader that no quorum answered since the last check steps down (6.2).
QuorumCheckTimeout(i) ==
    /\ CheckQuorum
    /\ role[i] = "Leader"
    /\ LET n == Local(i)
           answered == {j \in Peers(i) : n.progress[j].active}
           asked == [n EXCEPT !.progress = [j \in Peers(i) |-> [n.progress[j] EXCEPT !.active = FALSE]]]
       IN Install(IF IsQuorum(answered \cup {i}) THEN asked ELSE BecomeFollower(n, Nil), messages)
    /\ UNCHANGED crashes

ClientRequest(i) ==
    /\ ClientRequests
    /\ role[i] = "Leader"
    /\ Install(AppendAsLeader(Local(i), <<Entry(currentTerm[i], "Command")>>), messages)
    /\ UNCHANGED crashes

-----------------------------------------------------------------------------
(* Messages *)

\* For each kind of message there is what its receiver is afterwards, `After...(m)`, and the action.  A higher term is
\* taken over first, and what changed of the hard state is written before the step ends.  A message that is delivered
\* twice stays on its way.
Handle(m, n) ==
    /\ \E stays \in (IF Network = "monotone" THEN {TRUE} ELSE IF Duplication THEN BOOLEAN ELSE {FALSE}) :
          Install(n, IF stays THEN messages ELSE messages \ {m})
    /\ UNCHANGED crashes

Inbox(i, type) == {m \in messages : m.to = i /\ m.type = type}

Received(m) == LET n == Local(m.to) IN IF m.term > n.term THEN UpdateTerm(n, m.term) ELSE n

\* A question about a possible election changes nothing here, and spreads no term (9.6).
AfterPreVoteRequest(m) ==
    LET n == Local(m.to)
        granted == m.campaignTerm > n.term /\ IsUpToDate(n, m.last)
    IN IF DisregardsCandidates(n) THEN n ELSE Send(n, PreVoteResponse(n, m.from, m.campaignTerm, granted))

HandlePreVoteRequest(i) == \E m \in Inbox(i, "PreVoteRequest") : Handle(m, AfterPreVoteRequest(m))

\* An answer to the present question counts.
AfterPreVoteResponse(m) ==
    LET n == Received(m)
        counts == n.role = "PreCandidate" /\ m.campaignTerm = n.term + 1
    IN PersistHardState(IF counts THEN CountPreVote(n, m.from, m.granted) ELSE n)

HandlePreVoteResponse(i) == \E m \in Inbox(i, "PreVoteResponse") : Handle(m, AfterPreVoteResponse(m))

\* Grants the vote at most once per term, to a candidate whose log holds everything that may be committed (3.6.1).
AfterRequestVoteRequest(m) ==
    LET n == Received(m)
        granted == m.term = n.term /\ n.vote \in {Nil, m.from} /\ IsUpToDate(n, m.last)
        voted == IF granted /\ n.vote = Nil THEN [n EXCEPT !.vote = m.from, !.dirty = TRUE] ELSE n
        \* It supports another candidate now; answers to its own question no longer matter.
        follows == IF granted /\ voted.role = "PreCandidate" THEN BecomeFollower(voted, Nil) ELSE voted
        durable == PersistHardState(follows)
    IN IF DisregardsCandidates(Local(m.to)) THEN Local(m.to)
       ELSE Send(durable, RequestVoteResponse(durable, m.from, granted))

HandleRequestVoteRequest(i) == \E m \in Inbox(i, "RequestVoteRequest") : Handle(m, AfterRequestVoteRequest(m))

\* An answer of the present campaign counts.  Its requests left once the own vote was durable and counted.
AfterRequestVoteResponse(m) ==
    LET n == Received(m)
        counts == n.role = "Candidate" /\ n.id \in n.granted /\ m.term = n.term
    IN PersistHardState(IF counts THEN CountVote(n, m.from, m.granted) ELSE n)

HandleRequestVoteResponse(i) == \E m \in Inbox(i, "RequestVoteResponse") : Handle(m, AfterRequestVoteResponse(m))

(* Appends (3.5) *)

\* `from` leads this term.
Follow(n, from) ==
    LET follower == IF n.leader # from \/ n.role # "Follower" THEN BecomeFollower(n, from) ELSE n
    IN [follower EXCEPT !.recent = CheckQuorum]

\* How many of the entries are there already: all before the first that is new or differs.
Known(n, m) ==
    LET differs(k) == m.prev.index + k > Len(n.log) \/ n.log[m.prev.index + k].term # m.entries[k].term
        fresh == {k \in DOMAIN m.entries : differs(k)}
    IN IF fresh = {} THEN Len(m.entries) ELSE (CHOOSE k \in fresh : \A other \in fresh : k <= other) - 1

\* Appends what is new; only a real conflict truncates.
AcceptEntries(n, m) ==
    LET known == Known(n, m)
        matchIndex == m.prev.index + Len(m.entries)
        first == m.prev.index + known + 1
        truncateFrom == IF first <= Len(n.log) THEN first ELSE 0
        written == IF known = Len(m.entries) THEN PersistHardState(n)
                   ELSE Persist(n, truncateFrom, SubSeq(m.entries, known + 1, Len(m.entries)))
        advanced == AdvanceApply([written EXCEPT !.commit = Max(@, Min(m.commit, matchIndex))])
    IN Send(advanced, AppendEntriesResponse(advanced, m.from, [kind |-> "Accepted", matchIndex |-> matchIndex]))

RejectEntries(n, m) ==
    LET hint == AgreeMax(n.log, Min(m.prev.index, Len(n.log)), m.prev.term)
        durable == PersistHardState(n)
    IN Send(durable, AppendEntriesResponse(durable, m.from,
                                           [kind |-> "Rejected", prevIndex |-> m.prev.index, hint |-> hint]))

\* An honest leader never asks to replace what is committed, nor leads a term that another leads; the code reports such
\* a peer and drops its message.
Misbehaves(n, m) ==
    \/ n.leader \notin {Nil, m.from}
    \/ m.prev.index <= n.commit /\ TermAt(n.log, m.prev.index) # m.prev.term
    \/ LET first == m.prev.index + Known(n, m) + 1
       IN Known(n, m) < Len(m.entries) /\ first <= n.commit

\* Takes over a leader's entries, as far as the logs agree before them.
AfterAppendEntriesRequest(m) ==
    LET n == Received(m)
        hasPrev == m.prev.index <= Len(n.log) /\ TermAt(n.log, m.prev.index) = m.prev.term
        lacksPrev == ~hasPrev /\ m.prev.index > n.commit /\ n.leader \in {Nil, m.from}
    IN IF m.term < n.term THEN Send(n, AppendEntriesResponse(n, m.from, [kind |-> "StaleTerm"]))
       ELSE IF lacksPrev THEN RejectEntries(Follow(n, m.from), m)
       ELSE IF hasPrev /\ ~Misbehaves(n, m) THEN AcceptEntries(Follow(n, m.from), m)
       ELSE PersistHardState(n)

HandleAppendEntriesRequest(i) == \E m \in Inbox(i, "AppendEntriesRequest") : Handle(m, AfterAppendEntriesRequest(m))

\* The follower's log agrees up to `matchIndex`.
Accepted(p, matchIndex) ==
    IF matchIndex < p.matchIndex THEN p
    ELSE LET replicates == p.state = "Replicate" \/ (p.state = "Snapshot" /\ matchIndex = p.matchIndex)
         IN [p EXCEPT !.matchIndex = matchIndex,
                      !.nextIndex = IF replicates THEN Max(@, matchIndex + 1) ELSE matchIndex + 1,
                      !.inflight = SelectSeq(@, LAMBDA last : last > matchIndex),
                      !.state = IF replicates THEN @ ELSE "Replicate"]

\* Whether a refusal concerns what was sent last, rather than arriving late.
RefusalIsCurrent(p, prevIndex) ==
    CASE p.state = "Replicate" -> prevIndex > p.matchIndex /\ prevIndex < p.nextIndex
      [] p.state \in {"Probe", "ProbeSent"} -> prevIndex > p.matchIndex /\ prevIndex + 1 = p.nextIndex
      [] OTHER -> FALSE

Refused(n, p, result) ==
    LET bound == Min(result.hint.index, result.prevIndex - 1)
        agree == AgreeMax(n.log, bound, result.hint.term).index
    IN [p EXCEPT !.inflight = <<>>, !.state = "Probe",
                 !.nextIndex = Min(Max(agree + 1, p.matchIndex + 1), @)]

\* Learns what a follower holds, commits what a majority holds, and sends what comes next.
LearnFrom(n, from, p) ==
    LET learned == [n EXCEPT !.progress[from] = p]
        committing == IF p.matchIndex > n.commit THEN AdvanceCommit(learned) ELSE learned
    IN IF MaySend(p, n.durable) THEN ReplicateTo(committing, from) ELSE committing

AfterAppendEntriesResponse(m) ==
    LET n == Received(m)
        heard == [n EXCEPT !.progress[m.from].active = TRUE]
        p == heard.progress[m.from]
        result == m.result
        \* What acknowledges more than was ever sent is dropped.
        accepted == IF result.matchIndex > Len(n.log) THEN heard
                    ELSE LearnFrom(heard, m.from, Accepted(p, result.matchIndex))
        rejected == IF RefusalIsCurrent(p, result.prevIndex)
                    THEN LearnFrom(heard, m.from, Refused(n, p, result)) ELSE heard
    IN IF m.term # n.term \/ n.role # "Leader" THEN PersistHardState(n)
       ELSE CASE result.kind = "Accepted" -> accepted
              [] result.kind = "Rejected" -> rejected
              [] OTHER -> heard

HandleAppendEntriesResponse(i) == \E m \in Inbox(i, "AppendEntriesResponse") : Handle(m, AfterAppendEntriesResponse(m))

-----------------------------------------------------------------------------
(* Disks and crashes (3.8) *)

\* A disk after a write: all of it.
Written(d, write) ==
    LET kept == IF write.truncateFrom = 0 THEN d.log ELSE SubSeq(d.log, 1, write.truncateFrom - 1)
        hardState == IF write.hardState = <<>> THEN [term |-> d.term, vote |-> d.vote] ELSE write.hardState[1]
    IN [term |-> hardState.term, vote |-> hardState.vote, log |-> kept \o write.entries]

\* The oldest write reaches the disk, what waited for it leaves, and the own vote may count.
PopWrite(n) ==
    LET write == Head(n.pending)
        written == [n EXCEPT !.disk = Written(@, write),
                             !.durable = Max(@, write.durable),
                             !.pending = Tail(@),
                             !.out = @ \cup write.messages]
        ownVote == n.role = "Candidate" /\ write.hardState = <<[term |-> n.term, vote |-> n.vote]>>
    IN IF ownVote THEN CountVote(written, n.id, TRUE) ELSE written

RECURSIVE PopWrites(_, _)
PopWrites(n, count) == IF count = 0 THEN n ELSE PopWrites(PopWrite(n), count - 1)

\* The oldest writes in flight are durable, any number of them at once.
Persisted(i) ==
    \E count \in 1..Len(pending[i]) :
        /\ Install(ReplicateDurable(AdvanceApply(AdvanceCommit(PopWrites(Local(i), count)))), messages)
        /\ UNCHANGED crashes

RECURSIVE DiskAfter(_, _, _)
DiskAfter(d, queue, count) ==
    IF count = 0 THEN d ELSE DiskAfter(Written(d, Head(queue)), Tail(queue), count - 1)

\* A server that starts, or starts again, from what its disk holds.
Started(i, d) ==
    [id |-> i, term |-> d.term, vote |-> d.vote, log |-> d.log, role |-> "Follower", leader |-> Nil, recent |-> FALSE,
     granted |-> {}, refused |-> {}, commit |-> 0, applied |-> 0, durable |-> Len(d.log), progress |-> NoProgress,
     pending |-> <<>>, disk |-> d, dirty |-> FALSE, out |-> {}]

\* Of the writes in flight any prefix may have reached the disk.
Crash(i) ==
    /\ crashes < MaxCrashes
    /\ crashes' = crashes + 1
    /\ \E survive \in 0..Len(pending[i]) :
          Install(Started(i, DiskAfter(disk[i], pending[i], survive)), messages)

\* A message to i is lost.
DropMessage(i) ==
    /\ Network = "lossy"
    /\ \E m \in messages : m.to = i /\ messages' = messages \ {m}
    /\ UNCHANGED <<serverVars, leaders, committed, crashes>>

-----------------------------------------------------------------------------

EmptyDisk == [term |-> 0, vote |-> Nil, log |-> <<>>]

Init ==
    /\ messages = {}
    /\ currentTerm = [i \in Server |-> 0]
    /\ votedFor = [i \in Server |-> Nil]
    /\ log = [i \in Server |-> <<>>]
    /\ role = [i \in Server |-> "Follower"]
    /\ leader = [i \in Server |-> Nil]
    /\ leaderIsRecent = [i \in Server |-> FALSE]
    /\ votesGranted = [i \in Server |-> {}]
    /\ votesRefused = [i \in Server |-> {}]
    /\ commitIndex = [i \in Server |-> 0]
    /\ appliedIndex = [i \in Server |-> 0]
    /\ durableIndex = [i \in Server |-> 0]
    /\ progress = [i \in Server |-> NoProgress]
    /\ pending = [i \in Server |-> <<>>]
    /\ disk = [i \in Server |-> EmptyDisk]
    /\ leaders = {}
    /\ committed = <<>>
    /\ crashes = 0

Next ==
    \/ \E i \in Server : ElectionTimeout(i)
    \/ \E i \in Server : MinimumElectionTimeout(i)
    \/ \E i \in Server : HeartbeatTimeout(i)
    \/ \E i \in Server : QuorumCheckTimeout(i)
    \/ \E i \in Server : ClientRequest(i)
    \/ \E i \in Server : Persisted(i)
    \/ \E i \in Server : Crash(i)
    \/ \E i \in Server : HandlePreVoteRequest(i)
    \/ \E i \in Server : HandlePreVoteResponse(i)
    \/ \E i \in Server : HandleRequestVoteRequest(i)
    \/ \E i \in Server : HandleRequestVoteResponse(i)
    \/ \E i \in Server : HandleAppendEntriesRequest(i)
    \/ \E i \in Server : HandleAppendEntriesResponse(i)
    \/ \E i \in Server : DropMessage(i)

Spec == Init /\ [][Next]_vars
=============================================================================
