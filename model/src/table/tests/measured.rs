//! What many rows cost, measured. Ignored: it takes a minute or so, some 2.5 GiB of memory, and 2 GiB below the system's temporary folder.
//!
//! ```text
//! cargo test --release --locked -p headwater-model --lib table::tests::measured -- --ignored --nocapture
//! ```

use std::time::Instant;

use super::*;

/// Rows, unless `HEADWATER_TABLE_ROWS` says otherwise.
const ROWS: u32 = 10_000_000;
const BATCH: u32 = 12_800;

/// A quantity of this process's memory, in MiB, from /proc.
fn memory(of: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(of)).unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024.0
}

/// Processor time so far in seconds, from /proc: in ticks of 10 ms.
fn processor() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = text.rsplit_once(')').unwrap();
    let fields = fields.split_whitespace().skip(11).take(2);
    fields
        .map(|ticks| ticks.parse::<f64>().unwrap())
        .sum::<f64>()
        / 100.0
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let (before, spent) = (Instant::now(), processor());
    let done = work();
    let seconds = before.elapsed().as_secs_f64();
    let spent = processor() - spent;
    let memory = memory("VmRSS");
    println!("{what}: {seconds:.4} s, {spent:.2} s of a processor, memory {memory:.0} MiB");
    done
}

/// Goal: memory and time of a table of 10 M rows of 16 numbers are known. Method: filled, stepped, saved whole and in part, loaded; what it prints is what was measured, and what is
/// loaded is what was saved.
#[test]
#[ignore = "takes a minute, 2.5 GiB of memory and 2 GiB of disk"]
fn many_rows() {
    let rows = std::env::var("HEADWATER_TABLE_ROWS");
    let rows = rows.map_or(ROWS, |rows| rows.parse().unwrap());
    let settings = TableSettings {
        width: 16,
        memory: 64 << 30,
        ..settings()
    };
    let bytes = settings.bytes_of_row();
    println!("{rows} rows, {bytes} bytes each by `bytes_of_row`");
    let mut table = Table::new(settings).unwrap();
    let start = memory("VmRSS");
    timed("filling", || {
        for first in (0..rows).step_by(BATCH as usize) {
            let batch = keys(first..rows.min(first + BATCH));
            table.meet(&batch, first / 1_000_000, |_| None).unwrap();
        }
    });
    let each = (memory("VmRSS") - start) * 1024.0 * 1024.0 / f64::from(rows);
    println!("{each:.1} bytes a row in memory");
    let spread = |step: u32| (0..BATCH).map(move |at| (at * 7919 + step * 104_729) % rows);
    let step = |table: &mut Table, number| {
        let batch = keys(spread(number));
        let gathered = timed("gathering 12,800", || table.gather(&batch, None));
        let gradients = vec![0.01; gathered.len() * 16];
        timed("stepping them", || {
            table.step(&gathered, &gradients).unwrap()
        });
    };
    step(&mut table, 1);
    step(&mut table, 2);
    let snapshot = timed("a snapshot", || table.snapshot());
    step(&mut table, 3);
    step(&mut table, 3);
    let temporary = tempfile::tempdir().unwrap();
    let folder = TableFolder::new(temporary.path());
    let saved = timed("saving all", || folder.save(&snapshot, None).unwrap());
    println!("{saved:?}");
    let saved = timed("saving what a step changed", || {
        folder.save(&table.snapshot(), Some(1)).unwrap()
    });
    println!("{saved:?}");
    drop(snapshot);
    let champion = timed("loading the base", || folder.load(1, &[]).unwrap());
    let challenger = timed("loading the changes beside it", || {
        folder.load(2, &[&champion]).unwrap()
    });
    let [pages, same] = challenger.pages(&champion);
    println!("{same} of {pages} pages shared");
    for id in spread(3).take(1000) {
        let expected = table.gather(&[key(id)], None);
        assert_eq!(challenger.row(key(id)), Some(&expected.values()[16..]));
    }
    drop(challenger);
    let mut table = timed("resuming", || {
        Table::resume(*table.settings(), &champion).unwrap()
    });
    drop(champion);
    table = timed("dropping the oldest half", || {
        let memory = u64::from(rows) / 2 * bytes;
        Table::resume(TableSettings { memory, ..settings }, &table.snapshot()).unwrap()
    });
    assert_eq!(table.len(), rows as usize / 2);
}
