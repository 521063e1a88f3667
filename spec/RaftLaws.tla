------------------------------ MODULE RaftLaws ------------------------------
(***************************************************************************)
(* The laws of Raft.tla, under the names that they have everywhere: see    *)
(* docs/INVARIANTS.md.  What speaks of two states is an action property.   *)
(***************************************************************************)
EXTENDS Raft

Roles == {"Follower", "PreCandidate", "Candidate", "Leader"}
Terms == 0..MaxTerm
Indexes == 0..MaxLogLength
IsLog(entries) ==
    /\ Len(entries) <= MaxLogLength
    /\ \A k \in DOMAIN entries : entries[k].term \in 1..MaxTerm /\ entries[k].payload \in {"Noop", "Command"}

TypeOK ==
    /\ \A i \in Server :
        /\ currentTerm[i] \in Terms
        /\ votedFor[i] \in Server \cup {Nil}
        /\ role[i] \in Roles
        /\ leader[i] \in Server \cup {Nil}
        /\ leaderIsRecent[i] \in BOOLEAN
        /\ votesGranted[i] \subseteq Server
        /\ votesRefused[i] \subseteq Server
        /\ IsLog(log[i])
        /\ commitIndex[i] \in Indexes /\ appliedIndex[i] \in Indexes /\ durableIndex[i] \in Indexes
        /\ IF role[i] = "Leader" THEN DOMAIN progress[i] = Peers(i) ELSE progress[i] = NoProgress
        /\ Len(pending[i]) <= MaxPending
        /\ disk[i].term \in Terms /\ disk[i].vote \in Server \cup {Nil} /\ IsLog(disk[i].log)
    /\ Network = "lossy" => Cardinality(messages) <= MaxMessages
    /\ \A m \in messages : m.from \in Server /\ m.to \in Server \ {m.from} /\ m.term \in Terms
    /\ leaders \subseteq Terms \X Server
    /\ crashes \in 0..MaxCrashes

Prefix(entries, count) == SubSeq(entries, 1, count)
Leaders == {i \in Server : role[i] = "Leader"}

-----------------------------------------------------------------------------
(* Safety of the cluster (Figure 3.2) *)

ElectionSafety == \A one, other \in leaders : one[1] = other[1] => one[2] = other[2]

LogsMatch(one, other) ==
    \A k \in 1..Min(Len(one), Len(other)) : one[k].term = other[k].term => Prefix(one, k) = Prefix(other, k)

LogMatching ==
    \A i, j \in Server :
        /\ LogsMatch(log[i], log[j])
        /\ LogsMatch(log[i], disk[j].log)
        /\ LogsMatch(disk[i].log, disk[j].log)

IsEntry(entry, k) == entry.term = committed[k].term /\ entry.payload = committed[k].payload

\* The term in which it was committed counts, not the entry's own.
LeaderCompleteness ==
    \A i \in Leaders : \A k \in DOMAIN committed :
        committed[k].commitTerm < currentTerm[i] => k <= Len(log[i]) /\ IsEntry(log[i][k], k)

StateMachineSafety ==
    \A i \in Server :
        /\ commitIndex[i] <= Len(committed)
        /\ \A k \in 1..commitIndex[i] : IsEntry(log[i][k], k)

-----------------------------------------------------------------------------
(* What safety rests on *)

LeaderHasQuorum ==
    \A i \in Leaders :
        IsQuorum({j \in Server : \/ disk[j].term > currentTerm[i]
                                 \/ disk[j].term = currentTerm[i] /\ disk[j].vote = i})

MatchIndexSound ==
    \A i \in Leaders : \A j \in Peers(i) :
        currentTerm[j] = currentTerm[i] =>
            LET k == progress[i][j].matchIndex
            IN k <= Len(log[i]) /\ k <= Len(disk[j].log) /\ Prefix(disk[j].log, k) = Prefix(log[i], k)

CommittedIsDurable ==
    \A k \in DOMAIN committed :
        IsQuorum({j \in Server : k <= Len(disk[j].log) /\ \A earlier \in 1..k : IsEntry(disk[j].log[earlier], earlier)})

\* What a message on its way promises is on its sender's disk, or the sender's disk has moved on to a later term.
IsBacked(m) ==
    LET d == disk[m.from] IN
    \/ d.term > m.term
    \/ /\ d.term = m.term
       /\ CASE m.type = "RequestVoteRequest" -> d.vote = m.from
            [] m.type = "RequestVoteResponse" -> m.granted => d.vote = m.to
            [] m.type = "AppendEntriesResponse" ->
                 m.result.kind = "Accepted" => m.result.matchIndex <= Len(d.log)
            [] OTHER -> TRUE

\* Where nothing is ever removed, an old acceptance may be older than a later truncation: there the promise was kept when
\* it was given.
PersistFirst == \A m \in messages : IsBacked(m)

VotesOnce(old, new) == old.term = new.term /\ old.vote # Nil => new.vote = old.vote
VotesGrantedOnce == [][\A i \in Server : VotesOnce(disk[i], disk'[i])]_vars

-----------------------------------------------------------------------------
(* One server's own state *)

CommitWithinLog == \A i \in Server : commitIndex[i] <= Len(log[i])
AppliedIsCommitted == \A i \in Server : appliedIndex[i] <= commitIndex[i] /\ appliedIndex[i] <= durableIndex[i]
TermsWithinCurrent == \A i \in Server : TermAt(log[i], Len(log[i])) <= currentTerm[i]
TermsStartAtOne == \A i \in Server : \A k \in DOMAIN log[i] : log[i][k].term >= 1
TermsGrow == \A i \in Server : \A k \in 2..Len(log[i]) : log[i][k - 1].term <= log[i][k].term
DurableWithinLog ==
    \A i \in Server :
        /\ durableIndex[i] <= Len(log[i])
        /\ Prefix(disk[i].log, durableIndex[i]) = Prefix(log[i], durableIndex[i])
        /\ pending[i] = <<>> => disk[i] = [term |-> currentTerm[i], vote |-> votedFor[i], log |-> log[i]]
FollowerFollowsAnother == \A i \in Server : role[i] = "Follower" => leader[i] # i
CandidateKnowsNoLeader == \A i \in Server : role[i] \in {"PreCandidate", "Candidate"} => leader[i] = Nil
CandidateVotedForItself == \A i \in Server : role[i] = "Candidate" => votedFor[i] = i
LeaderKnowsItself == \A i \in Leaders : leader[i] = i
LeaderVotedForItself == \A i \in Leaders : votedFor[i] = i
LeaderHasItsNoop ==
    \A i \in Leaders : \E k \in DOMAIN log[i] :
        log[i][k] = Entry(currentTerm[i], "Noop") /\ (k = 1 \/ log[i][k - 1].term < currentTerm[i])
MatchBelowNext == \A i \in Leaders : \A j \in Peers(i) : progress[i][j].matchIndex < progress[i][j].nextIndex
NextWithinLog == \A i \in Leaders : \A j \in Peers(i) : progress[i][j].nextIndex <= Len(log[i]) + 1
RecentLeaderIsKnown == \A i \in Server : leaderIsRecent[i] => leader[i] # Nil /\ role[i] # "Leader"
RecentLeaderOnlyWithCheckQuorum == \A i \in Server : leaderIsRecent[i] => CheckQuorum

-----------------------------------------------------------------------------
(* Actions *)

Crashed(i) == crashes' > crashes /\ role'[i] = "Follower" /\ pending'[i] = <<>>

LeaderAppendOnly ==
    [][\A i \in Server :
        role[i] = "Leader" /\ role'[i] = "Leader" /\ currentTerm'[i] = currentTerm[i] =>
            Len(log'[i]) >= Len(log[i]) /\ Prefix(log'[i], Len(log[i])) = log[i]]_vars

TermMonotonic ==
    [][\A i \in Server : disk'[i].term >= disk[i].term /\ (currentTerm'[i] >= currentTerm[i] \/ Crashed(i))]_vars

CommitMonotonic == [][\A i \in Server : commitIndex'[i] >= commitIndex[i] \/ Crashed(i)]_vars

AppliedInOrder == [][\A i \in Server : appliedIndex'[i] >= appliedIndex[i] \/ Crashed(i)]_vars

\* Who asks for a pre-vote, or answers, keeps term and vote, and an answerer all the rest (9.6).
PreVoteLeavesHardStateAlone ==
    [][\A i \in Server :
        role'[i] = "PreCandidate" /\ role[i] # "PreCandidate" =>
            currentTerm'[i] = currentTerm[i] /\ votedFor'[i] = votedFor[i]]_vars

CampaignHasPreVotes ==
    [][\A i \in Server :
        PreVote /\ role[i] # "Candidate" /\ role'[i] = "Candidate" =>
            role[i] = "PreCandidate" /\ currentTerm'[i] = currentTerm[i] + 1 /\
            \E voter \in Server :
                /\ IsQuorum(votesGranted[i] \cup {voter})
                /\ \E m \in messages : m.type = "PreVoteResponse" /\ m.to = i /\ m.from = voter /\ m.granted]_vars

\* Where the answers are forgotten and the leader stays, a quorum had answered (6.2).
CheckedLeaderHasAnswers ==
    [][\A i \in Server :
        /\ role[i] = "Leader" /\ role'[i] = "Leader" /\ currentTerm'[i] = currentTerm[i]
        /\ \E j \in Peers(i) : progress[i][j].active /\ ~progress'[i][j].active
        => IsQuorum({j \in Peers(i) : progress[i][j].active} \cup {i})]_vars
=============================================================================
