//! How fast it is, by hand: `cargo test -p headwater-consumers -- --ignored --nocapture local_log_speed`.

use std::time::Instant;

use super::*;

/// Goal: the log is not what limits the loop. Method: 2 M records of 100 bytes in transactions of 500, then a member reads them.
#[test]
#[ignore = "a measurement"]
fn local_log_speed() {
    const RECORDS: usize = 2_000_000;
    let folder = tempfile::tempdir().unwrap();
    for (name, log) in [
        ("memory", LocalLog::in_memory(options())),
        ("disk", LocalLog::open(folder.path(), options()).unwrap()),
    ] {
        make_topics(&log, 4);
        let mut writer = member(&log);
        let under = membership(&mut *writer);
        let value = "v".repeat(90);
        let keys: Vec<String> = (0..1000).map(|key| format!("user-{key:05}")).collect();
        for topic in [Topic::Behaviors, Topic::Changelog] {
            let begun = Instant::now();
            let mut worst = Duration::ZERO;
            for first in (0..RECORDS).step_by(500) {
                let step = Instant::now();
                writer.begin().unwrap();
                for index in first..first + 500 {
                    let to = at(topic, (index % 4) as i32);
                    writer
                        .send(record(to, &keys[index % 1000], Some(&value)))
                        .unwrap();
                }
                writer
                    .commit(under, &[(at(Topic::Behaviors, 0), first as i64)])
                    .unwrap();
                worst = worst.max(step.elapsed());
            }
            let rate = RECORDS as f64 / begun.elapsed().as_secs_f64();
            println!(
                "{name}: {topic:?} appended at {rate:.0} records/s, longest step {worst:?}, {:?}",
                log.usage()
            );
        }
        let mut reader = member(&log);
        let places: Vec<_> = (0..4)
            .map(|partition| (at(Topic::Behaviors, partition), Start::Beginning))
            .collect();
        reader.start(&places).unwrap();
        let mut batch = RecordBatch::default();
        let limit = PollLimit {
            records: 500,
            ..NOW
        };
        let begun = Instant::now();
        let mut seen = 0;
        while seen < RECORDS {
            reader.poll(limit, &mut batch).unwrap();
            seen += batch.len();
        }
        let rate = seen as f64 / begun.elapsed().as_secs_f64();
        println!("{name}: read at {rate:.0} records/s");
    }
    let begun = Instant::now();
    let log = LocalLog::open(folder.path(), options()).unwrap();
    println!("disk: reopened {:?} in {:?}", log.usage(), begun.elapsed());
}
