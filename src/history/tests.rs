//! What histories say of each other, and their bytes.

use super::*;
use alloc::string::ToString;

fn id(bits: u128) -> HistoryId {
    HistoryId::from_bits(bits << 64 | bits)
}

fn first() -> History {
    History::new(id(1), EntryId::new(1, 1))
}

#[test]
fn an_identity_is_written_in_hexadecimal_digits() {
    let odd = HistoryId::from_bits(0xfeed_0000_0000_0000_0000_0000_0000_0001);
    assert_eq!(odd.to_string(), "feed0000000000000000000000000001");
    assert_eq!(odd.to_string().parse(), Ok(odd));
    for refused in ["", "feed", "+eed0000000000000000000000000001", "0000000000000000ffffffffffffffff"] {
        assert_eq!(refused.parse::<HistoryId>(), Err(HistoryIdError), "{refused}");
    }
}

#[test]
fn a_history_says_whose_each_entry_is() {
    let child = History::child(Some(&first()), id(2), EntryId::new(8, 5), [3_u64]);
    let grandchild = History::child(Some(&child), id(3), EntryId::new(20, 9), [2_u64]);
    let found: Vec<_> = [0, 1, 7, 8, 19, 20, 99].map(|index| grandchild.at(Index(index))).to_vec();
    assert_eq!(found, [None, Some(id(1)), Some(id(1)), Some(id(2)), Some(id(2)), Some(id(3)), Some(id(3))]);
    assert_eq!((grandchild.parent(), grandchild.lost()), (Some(id(2)), &[NodeId(2), NodeId(3)][..]));
}

/// Survivors adopt the child, those that were given up do not, and siblings stay apart.
#[test]
fn two_recoveries_of_one_parent_never_merge() {
    let one = History::child(Some(&first()), id(2), EntryId::new(8, 5), [3_u64]);
    let other = History::child(Some(&first()), id(4), EntryId::new(8, 5), [1, 2_u64]);
    assert!(one.takes_in(NodeId(2), id(1)) && one.takes_in(NodeId(9), id(1)));
    assert!(!one.takes_in(NodeId(3), id(1)), "it was given up");
    assert!(!one.takes_in(NodeId(2), id(4)) && !other.takes_in(NodeId(3), id(2)));
    let agree = |one: &History, other: &History, last| History::agree(Some(one), Some(other), Index(last));
    let parent = first();
    assert!(agree(&one, &parent, 7) && agree(&parent, &one, 7), "before they part");
    assert!(!agree(&one, &parent, 8) && !agree(&parent, &one, 8));
    assert!(!agree(&one, &other, 7), "siblings");
    assert!(agree(&one, &one, 99) && History::agree(None, None, Index(1)));
    let late = History::new(id(5), EntryId::new(12, 3));
    assert!(History::agree(Some(&late), None, Index(11)) && !History::agree(None, Some(&late), Index(12)));
}

/// A server that was added after the backup is named nowhere, and holds entries that the restored cluster does not have.
#[test]
fn nobody_comes_from_before_a_restore() {
    let restored = History::restored(Some(&first()), id(2), EntryId::new(8, 5));
    assert_eq!((restored.parent(), restored.closed().len(), restored.lost()), (Some(id(1)), 1, &[][..]));
    let agree = |one: &History, other: &History, last| History::agree(Some(one), Some(other), Index(last));
    assert!(agree(&restored, &first(), 7) && !agree(&restored, &first(), 8), "its data is the parent's up to there");
    for server in [1, 9] {
        assert!(!restored.takes_in(NodeId(server), id(1)) && restored.takes_in(NodeId(server), id(2)));
    }
    // A recovery of the restored cluster has survivors, and these only.
    let recovered = History::child(Some(&restored), id(3), EntryId::new(20, 9), [4_u64]);
    assert!(recovered.takes_in(NodeId(9), id(2)) && !recovered.takes_in(NodeId(4), id(2)));
    assert!(!recovered.takes_in(NodeId(9), id(1)));
    assert_eq!((first().restored_by(), recovered.restored_by()), (None, Some(restored.since())));
    // And a restore of that has none again.
    let grandchild = History::restored(Some(&recovered), id(4), EntryId::new(30, 11));
    assert_eq!(grandchild.closed().iter().map(|known| known.id).collect::<Vec<_>>(), [id(1), id(2), id(3)]);
    for history in [&restored, &recovered, &grandchild] {
        let mut bytes = Vec::new();
        history.encode_into(&mut bytes);
        assert_eq!(History::decode_from(&bytes).unwrap().0, *history);
    }
    let mut long = restored;
    for generation in 0..2 * History::ANCESTORS_MAX as u64 {
        long = History::child(
            Some(&long),
            id(100 + u128::from(generation)),
            EntryId::new(40 + generation, 20),
            [0_u64; 0],
        );
        let knows = long.descends_from(id(1));
        assert_eq!(long.closed().len(), usize::from(knows), "generation {generation}");
    }
}

/// A snapshot from before the entry that brought its cluster's history names that history, and is all that is left. What
/// goes on from there would have begun before its own parent, and no log opened with it.
#[test]
fn a_child_may_begin_before_its_parent() {
    let recovered = History::child(Some(&first()), id(2), EntryId::new(8, 5), [3_u64]);
    for since in [2, 7, 8] {
        let since = EntryId::new(since, 9);
        let child = History::child(Some(&recovered), id(3), since, [4_u64]);
        let restored = History::restored(Some(&recovered), id(3), since);
        for history in [&child, &restored] {
            let mut bytes = Vec::new();
            history.encode_into(&mut bytes);
            assert_eq!(History::decode_from(&bytes), Some((history.clone(), &[][..])));
            assert_eq!(history.at(since.index.previous()), Some(id(1)), "what is there is of the grandparent");
            assert_eq!((history.at(since.index), history.parent()), (Some(id(3)), Some(id(2))));
        }
        assert!(child.takes_in(NodeId(1), id(2)) && !child.takes_in(NodeId(4), id(2)));
        assert!(!restored.takes_in(NodeId(1), id(2)) && restored.restored_by() == Some(since));
    }
}

#[test]
fn servers_of_one_lineage_speak_with_each_other() {
    let parent = first();
    let child = History::child(Some(&parent), id(2), EntryId::new(8, 5), [3_u64]);
    let sibling = History::child(Some(&parent), id(4), EntryId::new(8, 5), [1, 2_u64]);
    let speak = |(one, at): (&History, u64), (other, there): (&History, u64)| {
        let forth = one.speaks_with(NodeId(there), &other.lineage(NodeId(at)));
        assert_eq!(forth, other.speaks_with(NodeId(at), &one.lineage(NodeId(there))), "either side alone finds it");
        forth
    };
    assert!(speak((&parent, 1), (&parent, 2)) && speak((&child, 1), (&parent, 2)));
    assert!(!speak((&child, 1), (&parent, 3)), "it was given up");
    assert!(!speak((&child, 1), (&sibling, 3)) && !speak((&child, 1), (&sibling, 9)));
    assert!(!speak((&parent, 1), (&History::new(id(9), EntryId::new(1, 1)), 2)), "equal numbers, two clusters");
    // A restored cluster, and servers of the one that was backed up; and a recovery of the restored one.
    let restored = History::restored(Some(&child), id(5), EntryId::new(30, 9));
    for server in [1, 2, 9] {
        assert!(!speak((&restored, 21), (&child, server)) && !speak((&restored, 21), (&parent, server)));
    }
    let recovered = History::child(Some(&restored), id(6), EntryId::new(40, 20), [22_u64]);
    assert!(speak((&recovered, 21), (&restored, 23)) && !speak((&recovered, 21), (&restored, 22)));
    assert!(!speak((&recovered, 21), (&child, 1)));
}

/// A history said its newest four ancestors, and left the rest to the server that knows them. Where both had more than four,
/// each left it to the other: two clusters that had nothing in common spoke with each other, and so did two recoveries of
/// one cluster.
#[test]
fn two_clusters_that_were_recovered_often_do_not_speak_with_each_other() {
    let recovered = |cluster: u128, times: u64| {
        let mut history = History::new(id(cluster * 1000), EntryId::new(1, 1));
        for time in 1..=times {
            let since = EntryId::new(10 * time, time << 20);
            history = History::child(Some(&history), id(cluster * 1000 + u128::from(time)), since, [7_u64]);
        }
        history
    };
    let speak = |(one, at): (&History, u64), (other, there): (&History, u64)| {
        let forth = one.speaks_with(NodeId(there), &other.lineage(NodeId(at)));
        assert_eq!(forth, other.speaks_with(NodeId(at), &one.lineage(NodeId(there))), "either side alone finds it");
        forth
    };
    for times in [0, 3, 4, 5, 16, 17, 63, 64, 65, 70] {
        let (one, two) = (recovered(1, times), recovered(2, times));
        assert!(!speak((&one, 1), (&two, 2)), "two clusters after {times} recoveries");
        let since = EntryId::new(10_000, 99 << 20);
        let siblings = [5, 6].map(|bits| History::child(Some(&one), id(bits), since, [7_u64]));
        assert!(!speak((&siblings[0], 1), (&siblings[1], 2)), "two recoveries after {times} others");
        assert!(speak((&siblings[0], 1), (&one, 2)) && !speak((&siblings[0], 1), (&one, 7)), "{times}");
        // A survivor that slept through all of them: as long as its history is remembered.
        assert_eq!(speak((&one, 1), (&recovered(1, 0), 2)), times <= History::ANCESTORS_MAX as u64, "after {times}");
    }
}

#[test]
fn bytes_come_back_as_they_were() {
    let mut history = first();
    for generation in 0..2 * History::ANCESTORS_MAX as u64 {
        let mut bytes = Vec::new();
        history.encode_into(&mut bytes);
        assert_eq!(bytes.len(), history.encoded_len());
        assert_eq!(History::decode_from(&bytes), Some((history.clone(), &[][..])));
        for cut in 0..bytes.len() {
            assert_eq!(History::decode_from(&bytes[..cut]), None, "cut at {cut}");
        }
        history = History::child(
            Some(&history),
            id(100 + u128::from(generation)),
            EntryId::new(2 + generation, 9),
            [generation],
        );
    }
    assert_eq!(history.ancestors().len(), History::ANCESTORS_MAX);
}

#[test]
fn other_bytes_are_refused() {
    let odd = |history: History| {
        let mut bytes = Vec::new();
        history.encode_into(&mut bytes);
        History::decode_from(&bytes).is_none()
    };
    assert!(odd(History::new(id(1), EntryId::ZERO)));
    assert!(odd(History { closed: 1, ..first() }));
    assert!(odd(History { lost: alloc::vec![NodeId(2), NodeId(1)], ..first() }));
    let later = Ancestor { id: id(2), since: EntryId::new(2, 1) };
    assert!(odd(History { ancestors: alloc::vec![later], ..first() }));
}
