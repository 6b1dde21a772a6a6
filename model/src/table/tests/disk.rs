//! What a folder holds is what was saved, or it is refused.

use std::fs;
use std::sync::Arc;

use super::*;

/// A table of some pages that has learned and counted.
fn learned(rows: u32) -> Table {
    let mut settings = settings();
    settings.admission.count = 2;
    settings.admission.counters = 16;
    let mut table = Table::new(settings).unwrap();
    for hour in 0..2 {
        table.meet(&keys(0..rows), hour, |_| None).unwrap();
    }
    table.meet(&keys(90_000..90_005), 3, |_| None).unwrap();
    learn(&mut table, &keys(0..rows + 5), None, 0.3);
    table
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Goal: a version loads to the bit; one that holds changed pages alone is as good as a whole one; a trainer goes on from it as if it had never stopped. Method: drawn changes between two
    /// saves, both versions loaded in both ways; then the same step on both sides.
    #[test]
    fn versions_load_to_the_bit(
        rows in 1_u32..700,
        changed in prop::collection::vec(0_u32..900, 0..40),
        now in 0_u32..4,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let folder = TableFolder::new(&folder.path().join("items"));
        prop_assert_eq!(folder.versions().unwrap(), [0_u64; 0]);
        let mut table = learned(rows);
        let first = table.snapshot();
        let base = folder.save(&first, None).unwrap();
        prop_assert_eq!((base.version, base.written), (1, base.pages));

        let batch = keys(changed);
        table.meet(&batch, 2, |_| None).unwrap();
        learn(&mut table, &batch, None, 1.0);
        table.expire(now);
        let second = table.snapshot();
        let changes = folder.save(&second, Some(1)).unwrap();
        let whole = folder.save(&second, None).unwrap();
        prop_assert_eq!((changes.version, whole.version), (2, 3));
        let [pages, shared] = second.pages(&first);
        prop_assert!(changes.written <= pages - shared, "{:?}", changes);

        prop_assert_eq!(bits(&folder.load(1, &[]).unwrap()), bits(&first));
        let champion = folder.load(1, &[]).unwrap();
        for version in [2, 3] {
            let loaded = folder.load(version, &[]).unwrap();
            prop_assert_eq!(bits(&loaded), bits(&second));
            let beside = folder.load(version, &[&champion]).unwrap();
            prop_assert_eq!(bits(&beside), bits(&second));
            prop_assert!(beside.pages(&champion)[1] >= pages - changes.written);
        }
        let mut resumed = Table::resume(*table.settings(), &folder.load(2, &[]).unwrap()).unwrap();
        for table in [&mut table, &mut resumed] {
            table.meet(&keys(600..900), 5, |_| None).unwrap();
            learn(table, &keys(500..800), None, 0.7);
            table.expire(5);
        }
        prop_assert_eq!(bits(&resumed.snapshot()), bits(&table.snapshot()));
    }
}

/// Goal: whatever byte of a version is damaged, it is refused with the file's name. Method: each byte of a version's files (a base's and a later one's) changed in turn.
#[test]
fn every_damaged_byte_is_found() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = TableFolder::new(temporary.path());
    let mut table = learned(70);
    folder.save(&table.snapshot(), None).unwrap();
    learn(&mut table, &keys([3]), None, 0.4);
    let saved = folder.save(&table.snapshot(), Some(1)).unwrap();
    assert_eq!((saved.pages, saved.written), (2, 1));
    let good = bits(&folder.load(2, &[]).unwrap());
    let mut refused = 0;
    for name in ["00000002.index", "00000002.pages", "00000001.pages"] {
        let path = temporary.path().join(name);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(&path, &damaged).unwrap();
            match folder.load(2, &[]) {
                // The base's page that was written anew, and its counts, are no part of the later version.
                Ok(loaded) => {
                    assert_eq!(name, "00000001.pages");
                    assert_eq!(bits(&loaded), good);
                    folder.load(1, &[]).unwrap_err();
                }
                Err(error) => {
                    refused += 1;
                    assert!(error.to_string().contains(name), "{error}");
                }
            }
        }
        for length in [0, 7, 15, 16, 17, whole.len() / 2, whole.len() - 1] {
            fs::write(&path, &whole[..length]).unwrap();
            let error = folder.load(2, &[]).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
        let error = folder.load(2, &[]).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        fs::remove_file(&path).unwrap();
        let error = folder.load(2, &[]).unwrap_err().to_string();
        assert!(
            error.contains(&format!("{name}: cannot be read")),
            "{error}"
        );
        fs::write(&path, &whole).unwrap();
    }
    // All of the later version's own bytes; of the base's, the head and the page that did not change.
    let snapshot = table.snapshot();
    let same = 1 - snapshot.rows.find(key(3)).0;
    let lengths = ["00000002.index", "00000002.pages"].map(|name| {
        let metadata = fs::metadata(temporary.path().join(name));
        metadata.unwrap().len() as usize
    });
    let same = snapshot.rows.pages[same].len() * 36;
    assert_eq!(refused, lengths[0] + lengths[1] + 16 + same);
    assert_eq!(bits(&folder.load(2, &[]).unwrap()), good);
}

/// Goal: a damaged page is named with its number and place, and a page in another's place is found though its bytes are whole. Method: a bit of a known page; two equally long pages exchanged, then with
/// an index that says so.
#[test]
fn a_bad_page_is_named() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = TableFolder::new(temporary.path());
    let table = learned(200);
    let snapshot = table.snapshot();
    folder.save(&snapshot, None).unwrap();
    let path = temporary.path().join("00000001.pages");
    let whole = fs::read(&path).unwrap();
    let lengths = snapshot.rows.pages.iter().map(|page| page.len() * 36);
    let lengths: Vec<usize> = lengths.collect();
    let second = 16 + lengths[0];
    let mut damaged = whole.clone();
    damaged[second + 5] ^= 4;
    fs::write(&path, &damaged).unwrap();
    let error = folder.load(1, &[]).unwrap_err().to_string();
    let expected =
        format!("00000001.pages: page 1 at byte {second}: was damaged: its hash differs");
    assert!(error.ends_with(&expected), "{error}");

    // A table whose pages lie in each other's places, with hashes that are right.
    let mut swapped = snapshot.rows.as_ref().clone();
    swapped.pages.swap(0, 1);
    let swapped = Snapshot {
        rows: Arc::new(swapped),
        counting: snapshot.counting.clone(),
    };
    fs::write(&path, &whole).unwrap();
    let saved = folder.save(&swapped, None).unwrap();
    let error = folder.load(saved.version, &[]).unwrap_err().to_string();
    assert!(
        error.contains("page 0 at byte 16: holds a row that belongs to another page"),
        "{error}"
    );
}

/// Goal: a save that broke off leaves no version and hinders none; old versions go when nobody needs them, and pages stay that somebody does. Method: leftovers planted, then versions pruned.
#[test]
fn leftovers_and_old_versions_go() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = TableFolder::new(temporary.path());
    let mut table = learned(200);
    folder.save(&table.snapshot(), None).unwrap();
    fs::write(temporary.path().join("00000002.pages"), b"broken off").unwrap();
    fs::write(temporary.path().join("00000002.partial"), b"broken").unwrap();
    assert_eq!(folder.versions().unwrap(), [1]);
    let mut expected = Vec::new();
    for id in 0..3 {
        learn(&mut table, &keys([id]), None, 0.4);
        let since = folder.versions().unwrap().last().copied();
        let saved = folder.save(&table.snapshot(), since).unwrap();
        assert_eq!((saved.version, saved.written), (3 + u64::from(id), 1));
        expected.push(bits(&table.snapshot()));
    }
    folder.prune(&[4]).unwrap();
    assert_eq!(folder.versions().unwrap(), [4, 5]);
    let mut names: Vec<String> = fs::read_dir(temporary.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    // The base and what the kept versions took of others stay; what broke off goes.
    assert!(names.contains(&"00000001.pages".to_owned()), "{names:?}");
    assert!(!names.contains(&"00000002.pages".to_owned()), "{names:?}");
    assert_eq!(bits(&folder.load(4, &[]).unwrap()), expected[1]);
    assert_eq!(bits(&folder.load(5, &[]).unwrap()), expected[2]);
    let error = folder.load(3, &[]).unwrap_err().to_string();
    assert!(error.contains("00000003.index: cannot be read"), "{error}");
    folder.prune(&[3]).unwrap_err();
    assert_eq!(folder.versions().unwrap(), [4, 5]);
    // A whole one needs nobody else.
    folder.save(&table.snapshot(), None).unwrap();
    folder.prune(&[]).unwrap();
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 2);
    assert_eq!(bits(&folder.load(6, &[]).unwrap()), expected[2]);
}
