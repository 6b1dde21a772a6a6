//! Exactly once, whatever is killed: two daemons, their broker, and a rival of one of them.

use std::time::{Duration, Instant};

use headwater_config::{Config, Topic};
use headwater_tests::broker::Broker;

use self::fleet::{Fleet, PARTITIONS};
use self::verdict::Verdict;
use self::workload::Input;
use crate::onlooker::{Onlooker, Sees, Stretch};
use crate::{alone, number, progress};

mod fleet;
mod labels;
mod verdict;
mod workload;

/// Kills that count, unless `HEADWATER_KILLS` says another number.
const KILLS: u64 = 50;
/// How often each partition must have moved at least.
const MOVES: u32 = 10;
/// Counted kills between deaths of the broker.
const BROKER_EVERY: u64 = 25;
/// Counted kills between rivals.
const RIVAL_EVERY: u64 = 20;
/// Longest wait for a transaction to kill in, and for the last record to be counted.
const PATIENCE: Duration = Duration::from_secs(120);
/// Topics that a partition's owner alone writes to, with its number: what lies there behind the last stable offset is of its transaction.
const OWNED: [Topic; 3] = [Topic::Changelog, Topic::Scores, Topic::FeatureLog];

/// Goal: `STATE-1`, `STATE-2`, `PIPE-1` and `PIPE-2` with real processes on Apache Kafka. Method: steady input; one of two daemons is
/// killed -9 while records of its open transaction lie in the topics, and started again at once or after its partitions have moved; a
/// kill counts if a reader of everything sees records of that transaction that a reader of committed ones never does. In between the broker is
/// killed and started, and a second process with a daemon's transactional id is started beside it. Then state of all users, each output,
/// and statistics are compared with the input; and state again after it was restored from nothing.
#[test]
fn what_is_killed_counts_and_answers_once() {
    let _alone = alone();
    let wanted = number("HEADWATER_KILLS", KILLS);
    let began = Instant::now();
    let broker = Broker::start();
    let mut fleet = Fleet::new(&broker.bootstrap());
    let config = fleet.config();
    let name = |topic| config.topic_name(topic);
    let onlooker = Onlooker::new(&broker.bootstrap(), &config.group());
    workload::items(&broker.bootstrap(), &name(Topic::Items));
    let input = Input::start(
        &broker.bootstrap(),
        &name(Topic::Behaviors),
        &name(Topic::ScoreRequests),
    );
    fleet.start(0);
    fleet.start(1);
    fleet.settle("both to have partitions");

    let (mut round, mut counted, mut aborted) = (0, 0, 0);
    while counted < wanted || fleet.moved_least() < MOVES {
        round += 1;
        assert!(
            round <= 3 * wanted + 30,
            "{round} kills, of which {counted} count; moved {:?}",
            fleet.moves
        );
        // Both are killed in turn, each twice with its partitions kept for it and twice with them gone.
        let victim = round as usize % 2;
        let moves = round / 2 % 2 == 1;
        let open = kill_inside_a_transaction(&mut fleet, victim, &onlooker, &config);
        if moves {
            let other = 1 - victim;
            fleet.wait_until("the partitions of the dead to move", |working| {
                working[other].len() == PARTITIONS
            });
        }
        fleet.start(victim);
        let left = left_aborted(&onlooker, &open);
        counted += u64::from(left > 0);
        aborted += left;
        progress(&format!(
            "{:4} s: kill {round} of {}, {counted} of {wanted} count: it left {left} records of an aborted transaction; partitions moved {:?}",
            began.elapsed().as_secs(),
            fleet.name(victim),
            fleet.moves
        ));
        if left > 0 && counted < wanted {
            disturb(counted, &mut fleet, &broker);
        }
    }
    fleet.settle("all partitions to be worked on");
    let sent = input.stop();
    progress(&format!(
        "{counted} kills of {round} left {aborted} records of aborted transactions; partitions moved {:?}; sent {sent:?}",
        fleet.moves
    ));

    wait_until_drained(&onlooker, &config);
    let verdict = Verdict::of(&onlooker, &config, sent);
    let (behaviors, answers) = verdict.totals();
    let before = verdict.judge_users(&fleet.addresses());
    fleet.judge_skew(10);
    fleet.stop();
    let (labels, positives) = verdict.judge_outputs(&onlooker, &config);
    assert!(positives > 0 && labels > positives, "labels of both sorts");
    progress(&format!(
        "{behaviors} behaviors counted once, {} repeats not, {answers} answers seen once, {labels} labels ({positives} positives) exact; restoring from nothing",
        verdict.repeats
    ));
    fleet.forget();
    fleet.start(0);
    fleet.start(1);
    fleet.settle("all to be restored");
    let restored = verdict.judge_users(&fleet.addresses());
    for (user, view) in &before {
        assert_eq!(view, &restored[user], "restored from nothing");
    }
    fleet.stop();
    verdict.judge_outputs(&onlooker, &config);
    progress(&format!("done in {} s", began.elapsed().as_secs()));
}

/// Kills the victim when records of an open transaction of its own lie in the changelog; gives what of it lies in the topics after its death.
fn kill_inside_a_transaction(
    fleet: &mut Fleet,
    victim: usize,
    onlooker: &Onlooker,
    config: &Config,
) -> Vec<Stretch> {
    let deadline = Instant::now() + PATIENCE;
    let changelog = config.topic_name(Topic::Changelog);
    loop {
        let working = std::mem::take(&mut fleet.look()[victim]);
        let of: Vec<_> = working
            .iter()
            .map(|partition| (changelog.clone(), *partition))
            .collect();
        // It may have lost them since: it is asked again soon.
        for _ in 0..20 {
            if of.is_empty() || onlooker.open(&of).is_empty() {
                continue;
            }
            fleet.kill(victim);
            let topics = OWNED.map(|topic| config.topic_name(topic));
            let owned: Vec<_> = topics
                .iter()
                .flat_map(|topic| working.iter().map(|number| (topic.clone(), *number)))
                .collect();
            return onlooker.open(&owned);
        }
        assert!(
            Instant::now() < deadline,
            "{} works on {working:?} and has no transaction open for {PATIENCE:?}",
            fleet.name(victim)
        );
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Records that a reader of everything sees in what was open, and a reader of committed transactions does not.
fn left_aborted(onlooker: &Onlooker, open: &[Stretch]) -> usize {
    open.iter()
        .map(|stretch| {
            let committed = onlooker.records(Sees::Committed, stretch);
            onlooker.records(Sees::Everything, stretch) - committed
        })
        .sum()
}

/// What else happens, at its turn.
fn disturb(counted: u64, fleet: &mut Fleet, broker: &Broker) {
    if counted.is_multiple_of(RIVAL_EVERY) {
        let who = (counted / RIVAL_EVERY) as usize % 2;
        fleet.settle("all partitions to be worked on, before a rival comes");
        fleet.rival(who);
        fleet.settle("all partitions to be worked on, after a rival came");
        progress(&format!(
            "      a rival of {} came: one of the two ended with 3",
            fleet.name(who)
        ));
    }
    if counted.is_multiple_of(BROKER_EVERY) {
        fleet.broker_dies();
        broker.run("kill");
        broker.run("start");
        fleet.settle("all partitions to be worked on, after the broker's death");
        progress("      the broker was killed and started");
    }
}

/// Waits until the group has committed the end of every input.
fn wait_until_drained(onlooker: &Onlooker, config: &Config) {
    let deadline = Instant::now() + PATIENCE;
    for topic in [Topic::Behaviors, Topic::ScoreRequests, Topic::ItemDeltas] {
        let name = config.topic_name(topic);
        loop {
            // Deltas come with transactions, whose ends take offsets too: the last record is what counts.
            let mut ends = [0; PARTITIONS];
            onlooker.each(Sees::Committed, &onlooker.whole(&name), |message| {
                use rdkafka::Message as _;
                ends[message.partition() as usize] = message.offset() + 1;
            });
            let committed = onlooker.committed(&name);
            let behind: Vec<_> = (0..PARTITIONS)
                .map(|number| (number, committed[&(number as i32)], ends[number]))
                .filter(|(_, committed, end)| committed < end)
                .collect();
            if behind.is_empty() {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "{name}: not read to its end; partition, committed, end: {behind:?}"
            );
            std::thread::park_timeout(Duration::from_millis(200));
        }
    }
}
