//! The end of a step: its transaction is decided, and our own copy follows.

use std::collections::BTreeMap;

use headwater_config::Topic;

use super::{Error, TopicPartition, Worker};

impl Worker {
    pub(super) fn commit_pending(&mut self) -> Result<(), Error> {
        let Some(pending) = self.pending.take() else {
            return Ok(());
        };
        let metrics = self.pipeline.metrics().clone();
        let committed = {
            let _timer = metrics
                .step_seconds
                .with_label_values(&["commit"])
                .start_timer();
            self.member.commit(pending.membership, &pending.positions)?
        };
        if let Some(times) = committed.times {
            for (stage, time) in [
                ("acknowledge", times.acknowledge),
                ("positions", times.positions),
                ("decide", times.decide),
            ] {
                metrics
                    .step_seconds
                    .with_label_values(&[stage])
                    .observe(time.as_secs_f64());
            }
        }
        let next = |topic, number| {
            let at = TopicPartition::new(topic, number);
            committed
                .next
                .iter()
                .find(|(other, _)| *other == at)
                .map(|(_, next)| *next)
        };
        for (number, has_statistics) in &pending.changed {
            let Some(owned) = self.owned.get_mut(number) else {
                continue;
            };
            let reached = owned.users.position().changelog;
            let changelog = next(Topic::Changelog, *number);
            owned.users.committed(changelog.unwrap_or(reached));
            check_grown((Topic::Changelog, *number), reached, changelog)?;
            let reached = owned.statistics.position;
            let item_state = next(Topic::ItemState, *number).filter(|_| *has_statistics);
            owned.statistics.committed(item_state);
            check_grown((Topic::ItemState, *number), reached, item_state)?;
        }
        self.commits += 1;
        metrics.steps.inc();
        let now = self.world.now();
        // Handles are looked up once a scenario: this runs once an event.
        let mut handles = BTreeMap::new();
        for (scenario, time) in &pending.causes {
            let (freshness, folded) = handles.entry(*scenario).or_insert_with(|| {
                let name = self.pipeline.scenario_name(*scenario);
                (metrics.freshness.with_label_values(&[name]), 0u64)
            });
            freshness.observe(now.since(*time) as f64 / 1000.0);
            *folded += 1;
        }
        for (scenario, (_, folded)) in handles {
            let name = self.pipeline.scenario_name(scenario);
            metrics.folded.with_label_values(&[name]).inc_by(folded);
        }
        Ok(())
    }
}

/// Offsets only grow: where what was just written lies before what is known to lie there, the topic was made anew under us. What it held is in the local
/// copies alone then, and each further step would hide that.
fn check_grown(
    (topic, number): (Topic, i32),
    reached: i64,
    next: Option<i64>,
) -> Result<(), Error> {
    match next {
        Some(next) if next <= reached => Err(Error::Topic {
            name: format!("{topic} partition {number}"),
            reason: format!(
                "ends at {next} now, and reached {reached} before: it was made anew while this daemon wrote to it. What it held is in the local copies \
                 alone: restore the topic, or start anew under another `instance.prefix`"
            ),
        }),
        Some(_) | None => Ok(()),
    }
}
