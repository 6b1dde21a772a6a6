//! One sequence: its order, its limit, its digests, and its bytes.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn entry(time: i64, offset: i64) -> SequenceEntry {
    SequenceEntry {
        text: [offset as u8; 16],
        time: Timestamp(time),
        at: Coordinates {
            offset,
            index: offset as u16 % 3,
        },
    }
}

fn with(entries: &[(i64, i64)], sequence_max: usize) -> Sequence {
    let mut sequence = Sequence::new(SequenceId(1));
    for &(time, offset) in entries {
        sequence.insert(entry(time, offset), sequence_max);
    }
    sequence
}

fn offsets(sequence: &Sequence) -> Vec<i64> {
    let entries = sequence.entries().iter();
    entries.map(|entry| entry.at.offset).collect()
}

fn bytes(sequence: &Sequence) -> Vec<u8> {
    let mut bytes = Vec::new();
    sequence.write(&mut bytes);
    bytes
}

/// As training has it, in `model::bahe::segment`.
fn start_of(count: u64, limit: u64) -> u64 {
    if count < limit {
        return 0;
    }
    let half = limit / 2;
    ((count - limit) / half + 1) * half
}

/// Goal: which behaviors a run has follows from their number, as where a model is trained. Method: all counts up to 200, for several limits.
#[test]
fn a_run_follows_from_the_number_of_behaviors() {
    for limit in [2u64, 4, 6, 10, 64] {
        let mut sequence = Sequence::new(SequenceId(1));
        for count in 1..=200u64 {
            let inserted = sequence.insert(entry(count as i64, count as i64), limit as usize);
            let start = start_of(count, limit);
            assert_eq!(sequence.start(), start, "{count} of {limit}");
            let run: Vec<i64> = (start as i64 + 1..=count as i64).collect();
            assert_eq!(offsets(&sequence), run, "{count} of {limit}");
            assert_eq!(inserted.restarted, start > start_of(count - 1, limit));
            let place = inserted.place.unwrap();
            assert!(u64::from(place) < limit, "places are taken again");
            assert_eq!(sequence.entry_in(place).unwrap().at.offset, count as i64);
        }
    }
}

/// Goal: a late behavior comes where its time and coordinates put it, or stays out. Method: one before all, one among equal times, then a run that has
/// begun anew and one as old as its first, one younger, and one that leaves at once.
#[test]
fn late_behaviors_find_their_place() {
    let mut sequence = with(&[(10, 1), (20, 2), (20, 4), (5, 5), (20, 3)], 8);
    assert_eq!(offsets(&sequence), [5, 1, 2, 3, 4]);
    let before = [5, 6, 20, 21].map(|time| sequence.before(Timestamp(time)));
    assert_eq!(before, [0, 1, 2, 5]);
    // The eighth is the oldest: it comes and goes.
    sequence.insert(entry(30, 6), 8);
    sequence.insert(entry(31, 7), 8);
    let gone = sequence.insert(entry(1, 8), 8);
    let (place, restarted) = (None, true);
    assert_eq!(gone, Inserted { place, restarted });
    assert_eq!(sequence.start(), 4);
    assert_eq!(offsets(&sequence), [3, 4, 6, 7]);
    let bytes_before = bytes(&sequence);
    for (time, offset) in [(1, 9), (20, 2), (20, 3)] {
        let out = sequence.insert(entry(time, offset), 8);
        assert_eq!(out, Inserted::default(), "{time}, {offset}");
    }
    assert_eq!(bytes(&sequence), bytes_before);
    assert_eq!(sequence.insert(entry(20, 9), 8).place, Some(0));
    assert_eq!(offsets(&sequence), [3, 4, 9, 6, 7]);
    assert_eq!(sequence.start(), 4);
}

/// Goal: a limit that was lowered or raised puts the run where it would be had it always held, as far as it is there. Method: both.
#[test]
fn a_changed_limit_holds_from_the_next_behavior_on() {
    let entries: Vec<_> = (1..=9).map(|offset| (offset, offset)).collect();
    let mut sequence = with(&entries, 10);
    sequence.insert(entry(10, 10), 4);
    assert_eq!(sequence.start(), start_of(10, 4));
    assert_eq!(offsets(&sequence), [9, 10]);
    for offset in 11..=40 {
        sequence.insert(entry(offset, offset), 12);
        let start = start_of(offset as u64, 12).max(8);
        assert_eq!(sequence.start(), start, "{offset}");
        let run: Vec<i64> = (start as i64 + 1..=offset).collect();
        assert_eq!(offsets(&sequence), run);
    }
}

/// Goal: a digest is of all that its entries' vector is made of, the same for every way there, and never changes. Method: each part changed; a run that
/// grows keeps the digests it had; those of all counts are those of each; two pinned values, computed once.
#[test]
fn digests_are_of_start_texts_and_times() {
    let sequence = with(&[(1, 1), (2, 2), (3, 3)], 8);
    let digests = sequence.digests();
    assert_eq!(digests.len(), 4);
    for (count, digest) in digests.iter().enumerate() {
        assert_eq!(sequence.digest(count), *digest);
        assert!(!digests[..count].contains(digest));
    }
    let mut grown = sequence.clone();
    grown.insert(entry(4, 4), 8);
    assert_eq!(grown.digests()[..4], digests);
    let late = with(&[(3, 3), (1, 1), (2, 2)], 8);
    assert_eq!(late.digests(), digests);
    let mut changed = Vec::new();
    let mut texts = sequence.clone();
    texts.entries[1].text[15] ^= 1;
    changed.push(texts);
    let mut times = sequence.clone();
    times.entries[1].time.0 ^= 1 << 40;
    changed.push(times);
    for changed in &changed {
        assert_eq!(changed.digests()[..2], digests[..2]);
        assert_ne!(changed.digest(2), digests[2]);
        assert_ne!(changed.digest(3), digests[3]);
    }
    let mut start = sequence.clone();
    start.start = Some(SequenceStart {
        before: 1,
        first: entry(1, 1).order(0),
    });
    assert!(start.digests().iter().all(|one| !digests.contains(one)));
    let hex = |digest: &[u8; 16]| format!("{:032x}", u128::from_be_bytes(*digest));
    assert_eq!(hex(&digests[0]), "b26556039db4c345547d14dc998a0a2c");
    assert_eq!(hex(&digests[3]), "9808b054885694a1ea3bea9c2b3e2777");
}

/// Goal: a record says what its place holds, whatever was there; one that is dead empties it. Method: one place, four records.
#[test]
fn a_record_is_what_its_place_holds() {
    let mut sequence = with(&[(1, 1)], 8);
    sequence.apply_entry(0, Some(entry(3, 3))).unwrap();
    assert_eq!(offsets(&sequence), [3]);
    sequence.apply_entry(0, None).unwrap();
    assert_eq!(offsets(&sequence), [0i64; 0]);
    sequence.apply_entry(0, Some(entry(3, 3))).unwrap();
    sequence.apply_start(Some(SequenceStart {
        before: 2,
        first: entry(3, 3).order(0),
    }));
    assert_eq!((sequence.start(), offsets(&sequence)), (2, vec![3]));
    sequence.apply_entry(0, Some(entry(2, 2))).unwrap();
    assert_eq!((sequence.start(), offsets(&sequence)), (2, vec![]));
}

/// Goal: bytes that contradict themselves are refused. Method: each contradiction, under the reader without a checksum before it.
#[test]
fn contradictions_are_refused() {
    let sequence = with(&[(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)], 4);
    assert_eq!(sequence.start(), 2);
    let good = bytes(&sequence);
    let read = |bytes: &[u8]| Sequence::read(SequenceId(1), Take(bytes)).map(|_| ());
    assert_eq!(read(&good), Ok(()));
    let spoilt = |spoil: &dyn Fn(&mut Sequence)| {
        let mut sequence = sequence.clone();
        spoil(&mut sequence);
        read(&bytes(&sequence))
    };
    let start = |sequence: &mut Sequence, before, time| {
        sequence.start = Some(SequenceStart {
            before,
            first: entry(time, 3).order(2),
        });
    };
    assert_eq!(spoilt(&|sequence| start(sequence, 2, 3)), Ok(()));
    let contradictions: [(&str, &dyn Fn(&mut Sequence)); 6] = [
        ("an entry before the start", &|sequence| {
            start(sequence, 2, 4);
        }),
        ("a start that is none", &|sequence| start(sequence, 0, 3)),
        ("too many before", &|sequence| start(sequence, 1 << 49, 3)),
        ("a place twice", &|sequence| {
            sequence.places[1] = sequence.places[0];
        }),
        ("a place too far", &|sequence| {
            sequence.places[1] = PLACES_MAX;
        }),
        ("another order", &|sequence| sequence.entries.swap(0, 1)),
    ];
    for (what, spoil) in contradictions {
        assert_eq!(spoilt(spoil), Err(Damage::Contradiction), "{what}");
    }
    for length in 0..good.len() {
        assert!(read(&good[..length]).is_err(), "{length}");
    }
    assert!(read(&[&good[..], &[0]].concat()).is_err());
    let mut empty = Sequence::new(SequenceId(1));
    let refused = empty.apply_entry(PLACES_MAX, Some(entry(1, 1)));
    assert_eq!(refused, Err(Damage::Contradiction));
}

proptest! {
    /// Goal: STATE-2 for one sequence: it follows from the newest record of each key. Method: behaviors with times of a few values and with coordinates
    /// that come twice; the newest records applied in any order, the start among them anywhere.
    #[test]
    fn records_give_the_same_bytes(
        behaviors in proptest::collection::vec((0..20i64, 0..30i64, 2..6usize), 1..60),
        ranks in proptest::collection::vec(any::<u32>(), 20),
    ) {
        let mut sequence = Sequence::new(SequenceId(1));
        let mut records = BTreeMap::new();
        let mut start = None;
        for (time, offset, half) in behaviors {
            // Times move on, most of the time.
            let time = time + offset;
            let sequence_max = 2 * half;
            let inserted = sequence.insert(entry(time, offset), sequence_max);
            if let Some(place) = inserted.place {
                records.insert(place, *sequence.entry_in(place).unwrap());
            }
            if inserted.restarted {
                start = sequence.start;
                prop_assert!(start.is_some());
            }
            prop_assert!(sequence.entries().len() < 10);
            let ordered = sequence.entries().iter().zip(&sequence.places);
            prop_assert!(ordered.map(|(entry, place)| entry.order(*place)).is_sorted());
        }
        let mut all: Vec<_> = records.into_iter().map(Some).chain([None]).collect();
        let mut ranks = ranks.into_iter();
        all.sort_by_cached_key(|_| ranks.next());
        let mut restored = Sequence::new(SequenceId(1));
        for record in all {
            match record {
                Some((place, entry)) => restored.apply_entry(place, Some(entry)).unwrap(),
                None => restored.apply_start(start),
            }
        }
        prop_assert_eq!(bytes(&restored), bytes(&sequence));
        let read = Sequence::read(SequenceId(1), Take(&bytes(&sequence))).unwrap();
        prop_assert_eq!(bytes(&read), bytes(&sequence));
    }
}
