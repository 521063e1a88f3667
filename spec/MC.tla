--------------------------------- MODULE MC ---------------------------------
(* What the configurations beside this file have in common. *)
EXTENDS RaftLaws

\* Servers are alike, but for who campaigns: states that differ in their names alone count as one.  Sound for everything
\* but liveness.
Symmetry == {p \in Permutations(Server) : \A i \in Campaigners : p[i] \in Campaigners}

\* Liveness: whatever can happen in the end happens.  Only meaningful where nothing is lost and the bounds cut nothing off.
Fairness ==
    \A i \in Server :
        /\ WF_vars(ElectionTimeout(i)) /\ WF_vars(Persisted(i)) /\ WF_vars(ClientRequest(i))
        /\ WF_vars(HandlePreVoteRequest(i)) /\ WF_vars(HandlePreVoteResponse(i))
        /\ WF_vars(HandleRequestVoteRequest(i)) /\ WF_vars(HandleRequestVoteResponse(i))
        /\ WF_vars(HandleAppendEntriesRequest(i)) /\ WF_vars(HandleAppendEntriesResponse(i))
FairSpec == Spec /\ Fairness

\* Somebody leads in the end, and what a leader that stays has taken is committed in the end.
EventuallyLeader == <>(Leaders # {})
ProposalCommits ==
    \A i \in Server : \A k \in 1..MaxLogLength :
        (role[i] = "Leader" /\ Len(log[i]) = k) ~> (role[i] # "Leader" \/ commitIndex[i] >= k)

\* Goals.  Each is violated where what it denies is reached; where one of them holds, the laws hold of too little.
NoLeader == Leaders = {}
NoCommit == committed = <<>>
NoReelection == \A one, other \in leaders : one[1] = other[1]
NoTruncation ==
    [][\A i \in Server : Crashed(i) \/ (Len(log'[i]) >= Len(log[i]) /\ Prefix(log'[i], Len(log[i])) = log[i])]_vars
=============================================================================
