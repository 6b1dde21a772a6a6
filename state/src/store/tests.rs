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

/// Goal: a store that does not open is put aside and made anew. Method: its files overwritten with noise.
#[test]
fn a_damaged_store_is_put_aside() {
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
