//! Both backends, as their users see them.

use super::*;

/// Opens stores that were open a moment ago: a backend's own threads may still hold the folder after the last handle is gone.
fn reopened(folder: &Path, backend: Backend) -> Opened {
    for _ in 0..500 {
        match open(folder, backend, 64 << 20) {
            Err(StoreError::Locked { .. }) => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            opened => return opened.unwrap(),
        }
    }
    panic!("{} stays locked", folder.display());
}

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
        let opened = reopened(folder.path(), backend);
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

/// Goal: a store that another process has is refused, never put aside. Method: open it twice.
#[test]
fn a_store_in_use_is_refused() {
    for backend in [Backend::Sled, Backend::Fjall] {
        let folder = tempfile::tempdir().unwrap();
        let _held = open(folder.path(), backend, 64 << 20).unwrap();
        let second = open(folder.path(), backend, 64 << 20);
        assert!(
            matches!(second, Err(StoreError::Locked { .. })),
            "{backend:?}: {second:?}"
        );
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
        let opened = reopened(folder.path(), backend);
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
            let opened = reopened(folder.path(), backend);
            let (aside, reason) = opened.put_aside.expect("it was condemned");
            assert!(aside.exists());
            let expected = if stuck {
                "pages that cannot be read"
            } else {
                "partition 3 was damaged again"
            };
            assert_eq!(reason, expected);
            drop(opened.stores);
            assert!(reopened(folder.path(), backend).put_aside.is_none());
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
        drop(reopened(folder.path(), Backend::Sled));
        ruin(&folder.path().join("sled"));
        let opened = reopened(folder.path(), Backend::Sled);
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
