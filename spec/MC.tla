--------------------------------- MODULE MC ---------------------------------
(* What the configurations beside this file have in common. *)
EXTENDS RaftLaws

\* Servers are alike, but for who campaigns, where clients read and whose disks are put back: states that differ in their names alone count as one.
\* Sound for everything but liveness.
Symmetry ==
    {p \in Permutations(Server) : \A some \in {Campaigners, Readers, Restorable} : \A i \in some : p[i] \in some}

\* Liveness.  While something can happen, something does.  Where no message is ever lost and no timeout repeats, every
\* action is progress, so this is enough.  It is WF_vars(Next), with ENABLED <<Next>>_vars written out for a network
\* that forgets nothing: TLC would evaluate every handler again for each variable that it sets.
Handled(m) ==
    CASE m.type = "PreVoteRequest" -> AfterPreVoteRequest(m)
      [] m.type = "PreVoteResponse" -> AfterPreVoteResponse(m)
      [] m.type = "RequestVoteRequest" -> AfterRequestVoteRequest(m)
      [] m.type = "RequestVoteResponse" -> AfterRequestVoteResponse(m)
      [] m.type = "AppendEntriesRequest" -> AfterAppendEntriesRequest(m)
      [] m.type = "AppendEntriesResponse" -> AfterAppendEntriesResponse(m)
      [] m.type = "ConfirmLeaderRequest" -> AfterConfirmLeaderRequest(m)
      [] m.type = "ConfirmLeaderResponse" -> AfterConfirmLeaderResponse(m)
      [] m.type = "ReadIndexRequest" -> AfterReadIndexRequest(m)
      [] m.type = "ReadIndexResponse" -> AfterReadIndexResponse(m)
      [] m.type = "TimeoutNowRequest" -> AfterTimeoutNowRequest(m)
      [] m.type = "InstallSnapshotRequest" -> AfterInstallSnapshotRequest(m)
ChangesSomething(n) ==
    IsWithinBounds(n) /\ (~(n.out \subseteq messages) \/ [n EXCEPT !.out = {}] # Local(n.id))
CanStep ==
    \/ \E i \in Campaigners : role[i] # "Leader" /\ MayCampaign(Local(i)) /\ IsWithinBounds(BecomeCandidate(Local(i), FALSE))
    \/ \E i \in Server : pending[i] # <<>>
    \/ \E i \in Leaders : transfer[i] = Nil /\ IsWithinBounds(AppendAsLeader(Local(i), <<Entry(currentTerm[i], "Command")>>))
    \/ Len(readHistory) < MaxReads /\ (Leaders # {} \/ \E i \in Readers : role[i] = "Follower" /\ leader[i] # Nil)
    \/ \E i \in Leaders : \/ transfer[i] # Nil
                          \/ transfers < MaxTransfers /\ \E j \in OtherVoters(Local(i)) : IsReady(Local(i), j)
    \/ \E i \in Server : fetch[i] # NoFetch \/ (appliedIndex[i] > snapshot[i].index /\ snapshotsTaken < MaxSnapshots)
    \/ \E m \in messages : ChangesSomething(Handled(m))
FairSpec == Spec /\ ([]<>(~CanStep) \/ []<><<Next>>_vars)

\* Somebody leads in the end, and what a leader has taken is committed in the end.  (One campaigner: its leader stays.)
EventuallyLeader == <>(Leaders # {})
ProposalCommits ==
    \A k \in 1..MaxLogLength : (\E i \in Leaders : Len(log[i]) >= k) ~> (Len(committed) >= k)

\* Goals.  Each is violated where what it denies is reached; where one of them holds, the laws hold of too little.
NoLeader == Leaders = {}
NoCommit == committed = <<>>
NoReelection == \A one, other \in leaders : one[1] = other[1]
NoCommitOfAnOlderTerm == \A k \in DOMAIN committed : committed[k].commitTerm = committed[k].term
NoTruncation ==
    [][LivesGoOn =>
        \A i \in Server : Len(log'[i]) >= Len(log[i]) /\ Prefix(log'[i], Len(log[i])) = log[i]]_vars
NoLostWrite == [][LivesGoOn \/ UNCHANGED <<currentTerm, votedFor, log>>]_vars
\* A server's log begins anew after a snapshot that it fetched.
NoInstalledSnapshot == \A i \in Server : snapshot[i].index <= appliedIndex[i]
NoRead == \A c \in DOMAIN readHistory : readHistory[c].index = Nil
\* A leader knows of a follower that it lost data, and commits without it.
NoLossTold ==
    [][\A i \in Server : commitIndex'[i] > commitIndex[i] => \A j \in DOMAIN progress[i] : progress[i][j].lost = 0]_vars
\* A read is answered at a follower.
NoReadAtAFollower ==
    [][\A i \in Server : \A c \in AtFollower(followerReads[i]) : readHistory'[c].index = Nil]_vars
\* A read waits at a leader while a later term has a leader too: only such reads can be stale.
NoReadAtADeposedLeader ==
    \A i \in Leaders : \A j \in Leaders : currentTerm[j] > currentTerm[i] => reads[i] = <<>>
\* Where few campaign by themselves, the others lead by a transfer alone.
NoLeaderByTransfer == \A led \in leaders : led[2] \in Campaigners
NoStepDown ==
    [][\A i \in Server : role[i] = "Leader" /\ currentTerm'[i] = currentTerm[i] /\ LivesGoOn =>
                            role'[i] = "Leader"]_vars
=============================================================================
