----------------------------- MODULE TraceRaft -----------------------------
(***************************************************************************)
(* Whether a recorded trace is a behaviour of Raft.tla.                    *)
(*                                                                         *)
(* `raft-model trace FILE` turns the lines of a trace (docs/TRACE.md) into *)
(* the constants of this module and runs TLC.  Each line must be explained *)
(* by the action of the same name: the action is enabled, the server that  *)
(* it leads to is the one recorded, and what it sends is what was sent.    *)
(* A recorded step leaves nothing open, so each state has one successor:   *)
(* the search is linear.                                                   *)
(*                                                                         *)
(* Nothing of the protocol is repeated here.  The actions are those of     *)
(* Raft.tla; only their view of the network is replaced, by the            *)
(* configuration (`Inbox <- TraceInbox`, `Networks <- TraceNetworks`).     *)
(***************************************************************************)
EXTENDS Raft

CONSTANTS
    Trace,          \* the lines, as records
    NamesHistory,   \* whether the first leader of an empty log names the history that begins with it
    Disks,          \* what each server's disk held when the trace begins
    \* For the test of this module: other lines, each to be tried in the place of one of the trace.  No such variant may
    \* get past its line.
    Variants        \* a sequence of [at |-> a position in the trace, line |-> a line]

VARIABLES
    l,              \* the position of the next line
    variant         \* the variant that was chosen; 0 for the trace as it is

traceVars == <<vars, l, variant>>

\* Constants of thousands of lines stand in registers of TLC, the trace in 1, the variants in 2: before it starts, TLC
\* follows every definition through all that it is made of, every time it is used.
ASSUME TLCSet(1, Trace) /\ TLCSet(2, Variants)

\* The line of this step: `variant` has its next value before anything else is looked at.
Line == IF variant' # variant THEN TLCGet(2)[variant'].line ELSE TLCGet(1)[l]

-----------------------------------------------------------------------------
(* The network.  Only what is handled later is kept, so that `messages`    *)
(* stays small: `line.kept` is what of the sent will be, `line.last` says  *)
(* that the message of this line will not be again.                        *)

TraceInbox(i, type) ==
    IF Line.message # <<>> /\ Line.message[1] \in messages /\ Line.message[1].to = i /\ Line.message[1].type = type
    THEN {Line.message[1]} ELSE {}

Differs(field, inSpec) == PrintT(<<"differs", variant', l, [f \in {field} |-> inSpec]>>) /\ FALSE

TraceNetworks(held, sent) ==
    IF sent = Line.sent
    THEN {(IF Line.last THEN messages \ {Line.message[1]} ELSE messages) \cup Line.kept}
    ELSE IF Differs("sent", sent) THEN {} ELSE {}

-----------------------------------------------------------------------------
(* A server as a line records it                                           *)

\* Of a leader's own reads a line has no context.
RecordedRead(read) == IF read.reader = Nil THEN [read EXCEPT !.context = 0] ELSE read

Recorded(i) ==
    [currentTerm |-> currentTerm[i], votedFor |-> votedFor[i], role |-> role[i], leader |-> leader[i],
     leaderIsRecent |-> leaderIsRecent[i], session |-> session[i], lost |-> lost[i], votesGranted |-> votesGranted[i], votesRefused |-> votesRefused[i],
     snapshot |-> snapshot[i], membership |-> InForce(Local(i)), fetching |-> fetch[i],
     base |-> IdAt(log[i], Base(log[i])), last |-> LastId(log[i]),
     durable |-> EntryId(durableIndex[i], TermAt(log[i], durableIndex[i])),
     commitIndex |-> commitIndex[i], appliedIndex |-> appliedIndex[i], progress |-> progress[i],
     readRound |-> readRound[i], leaseOver |-> leaseOver[i], leaseGivenUp |-> leaseGivenUp[i],
     transfer |-> transfer[i],
     reads |-> [k \in DOMAIN reads[i] |-> RecordedRead(reads[i][k])],
     followerReads |-> followerReads[i], readsAsked |-> readsAsked[i],
     pending |-> pending[i]]

\* Says what differs if something does.
Agrees(inSpec) ==
    LET different == {f \in DOMAIN inSpec : inSpec[f] # Line.state[f]}
    IN IF different = {} THEN TRUE
       ELSE PrintT(<<"differs", variant', l, [f \in different |-> inSpec[f]]>>) /\ FALSE

\* The identity of a history is no state of the spec: an entry that names one is a configuration that changes nothing.
TraceLeadersFirst(n) ==
    IF NamesHistory /\ Len(n.log) = 0 THEN ChangeEntry(n.term, InForce(n)) ELSE Entry(n.term, "Noop")

-----------------------------------------------------------------------------
(* Events                                                                  *)

\* The snapshot that the line is about is the one that is being fetched.
IsAwaited(i) == fetch[i] # NoFetch /\ fetch[i][1].last = Line.snapshot[1]

\* A timer may fire in a role that it does not concern, and a snapshot arrive that is no longer needed; then nothing
\* happens.
Ignored(i) ==
    /\ CASE Line.event = "ElectionTimeout" -> role[i] = "Leader" \/ ~MayCampaign(Local(i))
         [] Line.event = "MinimumElectionTimeout" -> ~leaderIsRecent[i] /\ followerReads[i] = <<>>
         [] Line.event = "HeartbeatTimeout" -> role[i] # "Leader"
         [] Line.event = "QuorumCheckTimeout" -> role[i] # "Leader" \/ ~CheckQuorum
         [] Line.event = "TransferTimeout" -> transfer[i] = Nil
         [] Line.event = "LeaseTimeout" -> ~Leases \/ role[i] # "Leader" \/ Line.round \notin (leaseOver[i] + 1)..readRound[i]
         [] Line.event = "StepDown" -> role[i] # "Leader"
         \* Asked for again.
         [] Line.event = "TransferLeadership" -> transfer[i] # Nil /\ <<transfer[i]>> = Line.target
         [] Line.event = "ChangeMembership" -> role[i] = "Leader" /\ Line.membership[1] = JointLeft(InForce(Local(i)))
         [] Line.event \in {"SnapshotFetched", "SnapshotFetchFailed"} -> ~IsAwaited(i)
         [] OTHER -> FALSE
    /\ Line.sent = {}
    /\ UNCHANGED vars

\* Several clients' commands are appended as one batch; `ClientRequest` of the spec is the batch of one.
ClientRequestBatch(i) ==
    /\ role[i] = "Leader"
    /\ Stepped(AppendAsLeader(Local(i), [k \in 1..Line.commands |-> Entry(currentTerm[i], "Command")]))

\* The spec leaves open to whom; the line says it.
TransferLeadershipTo(i) ==
    /\ TransferLeadership(i)
    /\ <<transfer'[i]>> = Line.target

\* The line says which read of the trace it is.  A leader takes it for its own.
FollowerReadRequestOf(i) ==
    /\ Line.read = Len(readHistory) + 1
    /\ FollowerReadRequest(i) \/ ReadRequest(i)

\* The spec leaves open for which round; the line says it.
LeaseTimeoutOf(i) ==
    /\ LeaseTimeout(i)
    /\ leaseOver'[i] = Line.round

\* The spec leaves open which configuration is wanted; the line says it.  One that differs in addresses alone is another one,
\* though not in the words of the spec.
ChangeMembershipTo(i) ==
    /\ MayChange(Local(i), Line.membership[1])
    /\ Install(ChangeTo(Local(i), Line.membership[1]), messages)
    /\ changes' = changes + 1
    /\ UNCHANGED <<transfers, snapshotsTaken, crashes, losses, backup, rolledBack>>

\* The spec leaves open how many writes a report is about; the line says it.
PersistedWrites(i) ==
    /\ Line.writes \in 1..Len(pending[i])
    /\ Persisted(i)
    /\ disk'[i] = DiskAfter(disk[i], pending[i], Line.writes)

\* A first start is the beginning; any other one follows a crash.
Start(i) ==
    /\ IF Line.first THEN Line.sent = {} /\ UNCHANGED vars ELSE Crash(i)
    /\ IF disk'[i].log = Line.log THEN TRUE ELSE Differs("log", disk'[i].log)
    /\ IF <<disk'[i].membership>> = Line.membership THEN TRUE ELSE Differs("membership", disk'[i].membership)

\* The spec leaves open which snapshot is taken and what the log keeps of what it covers; the line says it.
SnapshotTakenUpTo(i) ==
    LET index == Line.snapshot[1].index
        taken == TakeSnapshot(Local(i), index, Line.through)
    IN /\ index \in snapshot[i].index..appliedIndex[i]
       /\ taken.snapshot = Line.snapshot[1]
       /\ IF taken.snapshot = snapshot[i] /\ taken.log = log[i] THEN Line.sent = {} /\ UNCHANGED vars
          ELSE /\ Install(taken, messages)
               /\ snapshotsTaken' = snapshotsTaken + 1
               /\ UNCHANGED <<transfers, changes, crashes, losses, backup, rolledBack>>

Event(i) ==
    \/ Line.event = "ElectionTimeout" /\ ElectionTimeout(i)
    \/ Line.event = "MinimumElectionTimeout" /\ MinimumElectionTimeout(i)
    \/ Line.event = "HeartbeatTimeout" /\ HeartbeatTimeout(i)
    \/ Line.event = "QuorumCheckTimeout" /\ QuorumCheckTimeout(i)
    \/ Line.event = "ClientRequest" /\ Line.commands = 1 /\ ClientRequest(i)
    \/ Line.event = "ClientRequest" /\ Line.commands # 1 /\ ClientRequestBatch(i)
    \/ Line.event = "ReadRequest" /\ ReadRequest(i)
    \/ Line.event = "LeaseReadRequest" /\ LeaseReadRequest(i)
    \/ Line.event = "LeaseReadRequest" /\ ~Leases /\ ReadRequest(i)
    \/ Line.event = "FollowerReadRequest" /\ FollowerReadRequestOf(i)
    \/ Line.event = "LeaseTimeout" /\ LeaseTimeoutOf(i)
    \/ Line.event = "StepDown" /\ StepDown(i)
    \/ Line.event = "TransferLeadership" /\ TransferLeadershipTo(i)
    \/ Line.event = "TransferTimeout" /\ TransferTimeout(i)
    \/ Line.event = "ChangeMembership" /\ ChangeMembershipTo(i)
    \/ Line.event = "SnapshotTaken" /\ SnapshotTakenUpTo(i)
    \/ Line.event = "SnapshotFetched" /\ IsAwaited(i) /\ SnapshotFetched(i)
    \/ Line.event = "SnapshotFetchFailed" /\ IsAwaited(i) /\ SnapshotFetchFailed(i)
    \/ Line.event = "HandleInstallSnapshotRequest" /\ HandleInstallSnapshotRequest(i)
    \/ Line.event = "Persisted" /\ PersistedWrites(i)
    \/ Line.event = "HandlePreVoteRequest" /\ HandlePreVoteRequest(i)
    \/ Line.event = "HandlePreVoteResponse" /\ HandlePreVoteResponse(i)
    \/ Line.event = "HandleRequestVoteRequest" /\ HandleRequestVoteRequest(i)
    \/ Line.event = "HandleRequestVoteResponse" /\ HandleRequestVoteResponse(i)
    \/ Line.event = "HandleAppendEntriesRequest" /\ HandleAppendEntriesRequest(i)
    \/ Line.event = "HandleAppendEntriesResponse" /\ HandleAppendEntriesResponse(i)
    \/ Line.event = "HandleConfirmLeaderRequest" /\ HandleConfirmLeaderRequest(i)
    \/ Line.event = "HandleConfirmLeaderResponse" /\ HandleConfirmLeaderResponse(i)
    \/ Line.event = "HandleReadIndexRequest" /\ HandleReadIndexRequest(i)
    \/ Line.event = "HandleReadIndexResponse" /\ HandleReadIndexResponse(i)
    \/ Line.event = "HandleTimeoutNowRequest" /\ HandleTimeoutNowRequest(i)
    \/ Line.event = "Start" /\ Start(i)
    \/ Ignored(i)

TraceNext ==
    \* Which line it is: the next one, or a variant in its place.
    /\ \/ l <= Len(TLCGet(1)) /\ variant' = variant
       \/ variant = 0 /\ variant' \in {k \in DOMAIN TLCGet(2) : TLCGet(2)[k].at = l}
    /\ \E i \in {Line.node} : Event(i) /\ Agrees(Recorded(i)')
    /\ l' = l + 1
    /\ PrintT(<<"explained", variant', l>>)

TraceInit ==
    LET started == [i \in Server |-> Started(i, Disks[i])] IN
    /\ messages = {}
    /\ currentTerm = [i \in Server |-> started[i].term]
    /\ votedFor = [i \in Server |-> started[i].vote]
    /\ log = [i \in Server |-> started[i].log]
    /\ role = [i \in Server |-> started[i].role]
    /\ leader = [i \in Server |-> started[i].leader]
    /\ leaderIsRecent = [i \in Server |-> started[i].recent]
    /\ session = [i \in Server |-> started[i].session]
    /\ lost = [i \in Server |-> started[i].lost]
    /\ votesGranted = [i \in Server |-> started[i].granted]
    /\ votesRefused = [i \in Server |-> started[i].refused]
    /\ snapshot = [i \in Server |-> started[i].snapshot]
    /\ snapshotMembership = [i \in Server |-> started[i].snapshotMembership]
    /\ fetch = [i \in Server |-> started[i].fetch]
    /\ commitIndex = [i \in Server |-> started[i].commit]
    /\ appliedIndex = [i \in Server |-> started[i].applied]
    /\ durableIndex = [i \in Server |-> started[i].durable]
    /\ progress = [i \in Server |-> started[i].progress]
    /\ readRound = [i \in Server |-> started[i].readRound]
    /\ leaseOver = [i \in Server |-> started[i].leaseOver]
    /\ leaseGivenUp = [i \in Server |-> started[i].leaseGivenUp]
    /\ reads = [i \in Server |-> started[i].reads]
    /\ followerReads = [i \in Server |-> started[i].followerReads]
    /\ readsAsked = [i \in Server |-> started[i].readsAsked]
    /\ transfer = [i \in Server |-> started[i].transfer]
    /\ pending = [i \in Server |-> started[i].pending]
    /\ disk = [i \in Server |-> started[i].disk]
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
    /\ l = 1
    /\ variant = 0

\* For whoever runs TLC by hand: the trace is accepted if and only if TLC reports that this is violated.
NotDone == l <= Len(Trace)
=============================================================================
