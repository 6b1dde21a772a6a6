//! Both backends, as their users see them.

use super::*;

fn filled(stores: &dyn Stores) -> Arc<dyn Store> {
    let store = stores.open(3).unwrap();
    store
        .apply(&vec![
            (b"a1".to_vec(), Some(b"x".to_vec())),
            (b"a2".to_vec(), Some(b"y".to_vec())),
            (b"b1".to_vec(), Some(Vec::new())),
        ])
        .unwrap();
    store
}

fn keys(store: &dyn Store, prefix: &[u8]) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    store
        .scan(prefix, &mut |key, _| {
            keys.push(key.to_vec());
            true
        })
        .unwrap();
    keys
}

/// Goal: a backend is a store. Method: write, read, scan, delete, remove a partition, reopen; each backend.
#[test]
fn backends_keep_what_they_are_given() {
    for backend in [Backend::Sled, Backend::Fjall] {
        let folder = tempfile::tempdir().unwrap();
        {
            let opened = open(folder.path(), backend, 64 << 20).unwrap();
            assert!(opened.put_aside.is_none());
            let store = filled(&*opened.stores);
            assert_eq!(keys(&*store, b"a"), [b"a1", b"a2"]);
            store
                .apply(&vec![
                    (b"a1".to_vec(), None),
                    (b"a3".to_vec(), Some(b"z".to_vec())),
                ])
                .unwrap();
            filled(
                &*opened
                    .stores
                    .open(4)
                    .map(|_| Arc::clone(&opened.stores))
                    .unwrap(),
            );
            opened.stores.sync().unwrap();
        }
        let opened = open(folder.path(), backend, 64 << 20).unwrap();
        let store = opened.stores.open(3).unwrap();
        assert_eq!(
            keys(&*store, b"a"),
            [b"a1".to_vec(), b"a2".to_vec(), b"a3".to_vec()]
        );
        assert_eq!(store.get(b"b1").unwrap(), Some(Vec::new()));
        drop(store);
        opened.stores.remove(3).unwrap();
        assert_eq!(
            keys(&*opened.stores.open(3).unwrap(), b""),
            Vec::<Vec<u8>>::new(),
            "{backend:?}"
        );
    }
}

/// Goal: a store that somebody else has is refused, never put aside. Method: open it twice.
#[test]
fn a_store_in_use_is_refused() {
    std::thread::scope(|scope| {
        for backend in [Backend::Sled, Backend::Fjall] {
            scope.spawn(move || {
                let folder = tempfile::tempdir().unwrap();
                let _held = open(folder.path(), backend, 64 << 20).unwrap();
                let second = open(folder.path(), backend, 64 << 20);
                assert!(
                    matches!(second, Err(StoreError::Locked { .. })),
                    "{backend:?}: {second:?}"
                );
            });
        }
    });
}

/// Goal: whoever opens a store that is just being let go has it. Method: opened while it is open, and let go half a second later.
#[test]
fn a_store_that_is_let_go_is_waited_for() {
    for backend in [Backend::Sled, Backend::Fjall] {
        let folder = tempfile::tempdir().unwrap();
        let held = open(folder.path(), backend, 64 << 20).unwrap();
        filled(&*held.stores);
        let leaving = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(500));
            drop(held);
        });
        let next = open(folder.path(), backend, 64 << 20).unwrap();
        assert_eq!(keys(&*next.stores.open(3).unwrap(), b"a"), [b"a1", b"a2"]);
        leaving.join().unwrap();
    }
}

/// Overwrites all files below a folder with noise.
fn ruin(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            ruin(&path);
        } else {
            let noise: Vec<u8> = (0..5000u32).map(|at| (at * 31 + 7) as u8).collect();
            std::fs::write(&path, noise).unwrap();
        }
    }
}

/// Goal: a store that does not open is put aside and made anew. Method: its files overwritten with noise.
#[test]
fn a_damaged_store_is_put_aside() {
    for backend in [Backend::Sled, Backend::Fjall] {
        let folder = tempfile::tempdir().unwrap();
        {
            let opened = open(folder.path(), backend, 64 << 20).unwrap();
            filled(&*opened.stores);
            opened.stores.sync().unwrap();
        }
        ruin(folder.path());
        let opened = open(folder.path(), backend, 64 << 20).unwrap();
        let (aside, reason) = opened.put_aside.expect("it was put aside");
        assert!(aside.exists() && !reason.is_empty());
        assert_eq!(
            keys(&*opened.stores.open(3).unwrap(), b""),
            Vec::<Vec<u8>>::new()
        );
    }
}

/// Stores that cannot delete: a partition's pages cannot even be read for it.
#[derive(Debug)]
struct Stuck(Arc<dyn Stores>);

impl Stores for Stuck {
    fn open(&self, partition: i32) -> Result<Arc<dyn Store>, StoreError> {
        self.0.open(partition)
    }

    fn remove(&self, _: i32) -> Result<(), StoreError> {
        Err(StoreError::Broken {
            path: "here".into(),
            reason: "pages that cannot be read".to_owned(),
        })
    }

    fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.0.disk_bytes()
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.0.sync()
    }
}

/// Goal: damage that cannot be mended a partition at a time does not stay: the next start puts the folder aside, once. Method: a backend that cannot delete a
/// damaged partition, and a partition that is made again twice; each opened again, and once more.
#[test]
fn a_store_that_cannot_be_mended_is_put_aside() {
    for backend in [Backend::Sled, Backend::Fjall] {
        for stuck in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let opened = open(folder.path(), backend, 64 << 20).unwrap();
            filled(&*opened.stores);
            let path = folder.path().join(match backend {
                Backend::Sled => "sled",
                Backend::Fjall => "fjall",
            });
            let stores = if stuck {
                Arc::new(condemned::Mendable::new(
                    Arc::new(Stuck(opened.stores)),
                    &path,
                )) as Arc<dyn Stores>
            } else {
                opened.stores.remove(3).unwrap();
                opened.stores.open(3).unwrap();
                opened.stores
            };
            let error = stores.remove(3).unwrap_err();
            assert!(matches!(error, StoreError::Condemned { .. }), "{error}");
            drop(stores);
            let opened = open(folder.path(), backend, 64 << 20).unwrap();
            let (aside, reason) = opened.put_aside.expect("it was condemned");
            assert!(aside.exists());
            let expected = if stuck {
                "pages that cannot be read"
            } else {
                "partition 3 was damaged again"
            };
            assert_eq!(reason, expected);
            drop(opened.stores);
            assert!(
                open(folder.path(), backend, 64 << 20)
                    .unwrap()
                    .put_aside
                    .is_none()
            );
        }
    }
}

/// Goal: a disk that damages stores is not filled with them. Method: one store after the other is ruined; what else lies there stays.
#[test]
fn the_newest_stores_put_aside_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let others = ["sled.aside-x", "fjall.aside-0", "other"];
    for other in others {
        std::fs::create_dir(folder.path().join(other)).unwrap();
    }
    // As a person may have left it: numbers that are gone are not given again.
    std::fs::create_dir(folder.path().join("sled.aside-7")).unwrap();
    let mut removed = Vec::new();
    for round in 8..13 {
        drop(open(folder.path(), Backend::Sled, 64 << 20).unwrap());
        ruin(&folder.path().join("sled"));
        let opened = open(folder.path(), Backend::Sled, 64 << 20).unwrap();
        let (aside, _) = opened.put_aside.unwrap();
        assert_eq!(aside, folder.path().join(format!("sled.aside-{round}")));
        removed.extend(opened.removed.into_iter().map(|(path, outcome)| {
            outcome.unwrap();
            path
        }));
    }
    let names = [7, 8, 9].map(|number| folder.path().join(format!("sled.aside-{number}")));
    assert_eq!(removed, names);
    let there = |name: &str| folder.path().join(name).exists();
    assert!(
        ["sled.aside-10", "sled.aside-11", "sled.aside-12"]
            .iter()
            .all(|name| there(name))
    );
    assert!(!there("sled.aside-9"));
    assert!(others.iter().all(|name| there(name)));
}
