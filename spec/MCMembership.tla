---------------------------- MODULE MCMembership ----------------------------
(* What the configurations have in common in which the membership changes: servers that can be told apart. *)
EXTENDS MC

CONSTANTS s1, s2, s3, s4

Target(voters, learners, promoting) == [voters |-> voters, learners |-> learners, promoting |-> promoting]

\* A voter is replaced by a learner: a joint configuration.
Replacement == {Target({s1, s3}, {}, {})}
\* One voter of three goes.
WithoutFirst == {Target({s2, s3}, {}, {})}
WithoutThird == {Target({s1, s2}, {}, {})}
\* A joiner is taken in as a learner, and then as a voter.
Joining == {Target({s1}, {s2}, {}), Target({s1, s2}, {}, {})}
\* A joiner is taken in as a learner, removed, taken in again, and gets a vote.
Readmission == {Target({s1}, {s2}, {}), Target({s1}, {}, {}), Target({s1, s2}, {}, {})}
\* A learner that becomes a voter by itself.
Promotion == {Target({s1, s2}, {s3}, {s3})}

-----------------------------------------------------------------------------
\* Goals, as in MC.tla.
NoPromotion == \A i \in Server : ~(s3 \in InForce(Local(i)).voters)
\* A joint configuration is left, and that is committed.
NoJointLeft ==
    \A k \in DOMAIN committed : IsChange(committed[k]) =>
        ~\E earlier \in 1..(k - 1) :
            /\ IsChange(committed[earlier])
            /\ IsJoint(committed[earlier].membership[1]) /\ committed[k].membership[1] = JointLeft(committed[earlier].membership[1])
\* A leader has no vote any more, and a server that never campaigns by itself leads after it.
NoLeaderAfterRemoval ==
    \A i \in Server : ~HasVote(InForce(Local(i)), s1) => \A led \in leaders : led[2] = s1
\* A configuration is taken back.
NoChangeTakenBack ==
    [][LivesGoOn =>
        \A i \in Server : \A k \in Changes(log[i]) : k <= Len(log'[i]) /\ log'[i][k].membership = log[i][k].membership]_vars
\* A joiner knows the configuration by a snapshot.
NoMembershipBySnapshot == \A i \in Server : InitialMembership(i) = NoMembership => snapshotMembership[i] = NoMembership
=============================================================================
