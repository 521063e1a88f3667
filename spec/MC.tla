--------------------------------- MODULE MC ---------------------------------
(* What the configurations beside this file have in common. *)
EXTENDS RaftLaws

\* Servers are alike: states that differ in their names alone count as one.  Sound for everything but liveness.
Symmetry == Permutations(Server)

\* Goals: each must be VIOLATED, or else a configuration shows nothing.
NoLeader == Leaders = {}
NoCommit == committed = <<>>
NoReelection == \A one, other \in leaders : one[1] = other[1]
NoTruncation ==
    [][\A i \in Server : Crashed(i) \/ (Len(log'[i]) >= Len(log[i]) /\ Prefix(log'[i], Len(log[i])) = log[i])]_vars
=============================================================================
