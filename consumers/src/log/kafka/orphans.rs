//! Partitions that the group has given to nobody. Before it stands a rebalance; after it, if need be, another one.
//!
//! Who is asked for partitions gives them back and joins again, and only that has them given on. If it is killed in between and comes back
//! under its static name, the brokers hand it what it had and rebalance nothing: the group is at rest, and what was given back is nobody's
//! until somebody comes or goes. So each member looks after each rebalance, and the one that has the fewest leaves and joins again.

use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;

use super::{Shared, admin};
use crate::log::{LogError, Membership};

/// Between a rebalance and a look, and between looks: longer than it takes to give back what was asked for.
const PAUSE: Duration = Duration::from_secs(3);
/// Looks that come to nothing before the next rebalance: the group's state is asked of every broker, and some may be away for long.
const LOOKS_MAX: usize = 4;
/// How long a look may take: the worker waits for it.
const WITHIN: Duration = Duration::from_millis(500);

/// What a look found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Partitions that are nobody's.
    orphans: Vec<i32>,
    /// Who has the fewest.
    fewest: Option<String>,
}

/// When to look, and what was found.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The membership that the last rebalance made.
    of: Membership,
    due: Option<Instant>,
    looks: usize,
    orphans: Vec<i32>,
}

impl Watch {
    /// If a rebalance has made another membership, what was found before is of the past.
    pub(super) fn follow(&mut self, membership: Membership) {
        if self.of != membership {
            *self = Self {
                of: membership,
                due: Some(Instant::now() + PAUSE),
                ..Self::default()
            };
        }
    }

    /// Looks, if it is time to; gives the partitions for whose sake this member is to leave and join again.
    pub(super) fn look(&mut self, shared: &Shared, identity: &str) -> Option<Vec<i32>> {
        let now = Instant::now();
        if self.due.is_none_or(|due| now < due) {
            return None;
        }
        let found = match find(shared) {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(target: "kafka", client = identity, %error, "who has which partition was not told");
                None
            }
        };
        self.judge(found, identity, now)
    }

    /// What is found twice has not come by itself.
    fn judge(&mut self, found: Option<Found>, identity: &str, now: Instant) -> Option<Vec<i32>> {
        self.looks += 1;
        self.due = (self.looks < LOOKS_MAX).then(|| now + PAUSE);
        let Found { orphans, fewest } = found?;
        if orphans.is_empty() {
            self.due = None;
            return None;
        }
        let again = self.orphans == orphans;
        self.orphans = orphans;
        (again && fewest.as_deref() == Some(identity)).then(|| self.orphans.clone())
    }
}

/// Asks the brokers; `None` while the group is not at rest.
fn find(shared: &Shared) -> Result<Option<Found>, LogError> {
    let input = shared.settings.input;
    let topic = shared.names.of(input);
    let Some(partitions) = admin::partitions(shared, input)? else {
        return Ok(None);
    };
    let groups = shared
        .asking
        .fetch_group_list(Some(&shared.settings.group), WITHIN)
        .map_err(|error| shared.explain("asking who has which partition", error))?;
    let Some(group) = groups
        .groups()
        .iter()
        .find(|group| group.name() == shared.settings.group && group.state() == "Stable")
    else {
        return Ok(None);
    };
    let mut shares = Vec::new();
    for member in group.members() {
        let Some(share) = partitions_of(member.assignment().unwrap_or_default(), topic) else {
            return Ok(None);
        };
        shares.push((member.client_id().to_owned(), share));
    }
    Ok(Some(orphans(partitions, &shares)))
}

fn orphans(partitions: i32, shares: &[(String, Vec<i32>)]) -> Found {
    let given = |partition: &i32| shares.iter().any(|(_, share)| share.contains(partition));
    Found {
        orphans: (0..partitions)
            .filter(|partition| !given(partition))
            .collect(),
        fewest: shares
            .iter()
            .min_by_key(|(identity, share)| (share.len(), identity))
            .map(|(identity, _)| identity.clone()),
    }
}

/// The partitions of a topic in a member's assignment, in the group protocol's form: `version i16`, then for each topic its name and
/// its partitions (counts `i32`, the name's length `i16`), then what is the assignor's own. Nothing is an empty assignment.
fn partitions_of(mut bytes: &[u8], topic: &str) -> Option<Vec<i32>> {
    fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = bytes.split_at_checked(count)?;
        *bytes = rest;
        Some(taken)
    }
    fn int(bytes: &mut &[u8]) -> Option<i32> {
        Some(i32::from_be_bytes(take(bytes, 4)?.try_into().ok()?))
    }
    let mut found = Vec::new();
    if bytes.is_empty() {
        return Some(found);
    }
    take(&mut bytes, 2)?;
    for _ in 0..int(&mut bytes)? {
        let length = u16::from_be_bytes(take(&mut bytes, 2)?.try_into().ok()?);
        let name = take(&mut bytes, usize::from(length))?;
        for _ in 0..int(&mut bytes)? {
            let partition = int(&mut bytes)?;
            if name == topic.as_bytes() {
                found.push(partition);
            }
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An assignment as a leader writes it.
    fn assignment(topics: &[(&str, &[i32])]) -> Vec<u8> {
        let mut bytes = vec![0, 1];
        bytes.extend((topics.len() as i32).to_be_bytes());
        for (name, partitions) in topics {
            bytes.extend((name.len() as u16).to_be_bytes());
            bytes.extend(name.as_bytes());
            bytes.extend((partitions.len() as i32).to_be_bytes());
            for partition in *partitions {
                bytes.extend(partition.to_be_bytes());
            }
        }
        bytes.extend((-1_i32).to_be_bytes());
        bytes
    }

    /// Goal: an assignment is read, and one that is cut short is no assignment. Method: two topics, at every length.
    #[test]
    fn an_assignment_is_read_or_refused() {
        let bytes = assignment(&[("other", &[7]), ("behaviors", &[0, 3])]);
        assert_eq!(partitions_of(&bytes, "behaviors"), Some(vec![0, 3]));
        assert_eq!(partitions_of(&[], "behaviors"), Some(vec![]));
        // The last four bytes are the assignor's.
        for length in 1..bytes.len() - 4 {
            assert_eq!(
                partitions_of(&bytes[..length], "behaviors"),
                None,
                "{length}"
            );
        }
    }

    /// Goal: only what is nobody's twice in a row makes a member leave, and only the one with the fewest. Method: looks of two members.
    #[test]
    fn who_has_fewest_mends_what_is_found_twice() {
        let now = Instant::now();
        let share = |identity: &str, partitions: &[i32]| (identity.to_owned(), partitions.to_vec());
        let found = || Some(orphans(4, &[share("a", &[]), share("b", &[2, 3])]));
        let whole = Some(orphans(4, &[share("a", &[0, 1]), share("b", &[2, 3])]));
        for (identity, mends) in [("a", Some(vec![0, 1])), ("b", None)] {
            let mut watch = Watch::default();
            watch.follow(Membership(1));
            assert_eq!(watch.judge(found(), identity, now), None);
            assert_eq!(watch.judge(None, identity, now), None, "not at rest");
            assert_eq!(watch.judge(found(), identity, now), mends);
            watch.follow(Membership(2));
            assert_eq!(
                watch.judge(found(), identity, now),
                None,
                "a rebalance came"
            );
        }
        let mut watch = Watch::default();
        watch.follow(Membership(1));
        assert_eq!(watch.judge(whole, "a", now), None);
        assert!(watch.due.is_none(), "all is well until the next rebalance");
    }
}
