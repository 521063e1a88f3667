--------------------------- MODULE RaftMembership ---------------------------
(***************************************************************************)
(* A configuration as data: who belongs to a cluster, and who of them has  *)
(* a vote (4; src/membership.rs, src/quorum.rs).  How a cluster moves from *)
(* one to the next is said in RaftServer.tla.                              *)
(*                                                                         *)
(* In a joint configuration (4.3) `voters` are the new voters, `outgoing`  *)
(* the old ones, and it takes a majority of each to decide anything; in a  *)
(* stable one `outgoing` is empty.  Learners get the log and have no vote; *)
(* those in `promoting` become voters once they have caught up (4.2.1).    *)
(* The code knows addresses as well, which mean nothing to the protocol.   *)
(***************************************************************************)
EXTENDS Integers, FiniteSets

Stable(voters, learners, promoting) ==
    [voters |-> voters, outgoing |-> {}, learners |-> learners, promoting |-> promoting]

\* What a joiner starts with: it learns from its leader who belongs to the cluster.
NoMembership == Stable({}, {}, {})

IsJoint(m) == m.outgoing # {}
Voting(m) == m.voters \cup m.outgoing
HasVote(m, i) == i \in Voting(m)
Members(m) == Voting(m) \cup m.learners

IsMajority(servers, voters) == 2 * Cardinality(servers \cap voters) > Cardinality(voters)

\* Whoever has no vote counts for nothing.
IsQuorum(m, servers) == IsMajority(servers, m.voters) /\ (IsJoint(m) => IsMajority(servers, m.outgoing))

-----------------------------------------------------------------------------
(* From one configuration to the next                                      *)

\* One server more or less can go at once, because any two majorities overlap (4.2); else both decide for a while (4.3).
Towards(m, target) ==
    LET differing == (m.voters \ target.voters) \cup (target.voters \ m.voters)
    IN IF Cardinality(differing) <= 1 THEN target ELSE [target EXCEPT !.outgoing = m.voters]

JointLeft(m) == [m EXCEPT !.outgoing = {}]

Promoted(m, i) ==
    [m EXCEPT !.voters = @ \cup {i}, !.learners = @ \ {i}, !.promoting = @ \ {i}]
=============================================================================
