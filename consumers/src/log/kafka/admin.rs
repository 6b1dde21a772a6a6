//! Questions and orders about topics and the group, each with a client of its own: they are rare.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use headwater_config::{Cleanup, Topic};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::groups::GroupInfo;

use super::Shared;
use super::client::{self, Logging};
use super::error;
use crate::log::{Created, LogError, TopicFacts, TopicSpec};

/// What the topic is, or `None` if it does not exist.
pub(super) fn describe(shared: &Shared, topic: Topic) -> Result<Option<TopicFacts>, LogError> {
    const DOING: &str = "describing a topic";
    let name = shared.names.of(topic);
    let Some(partitions) = partitions(shared, topic)? else {
        return Ok(None);
    };
    let admin: AdminClient<Logging> = client::admin(&shared.settings)?;
    let timeout = shared.settings.operation_timeout;
    let described = wait(
        admin.describe_configs(
            &[ResourceSpecifier::Topic(name)],
            &AdminOptions::new().request_timeout(Some(timeout)),
        ),
        timeout,
    );
    let resource = match described {
        Ok(mut resources) => resources.pop().unwrap_or(Err(Code::Unknown)),
        Err(error) => return Err(shared.explain(DOING, error)),
    };
    let resource = match resource {
        Ok(resource) => resource,
        // Reading a topic does not need the right to describe its settings.
        Err(Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed) => {
            return Ok(Some(TopicFacts {
                partitions,
                cleanup_policy: String::new(),
                delete_retention_ms: None,
            }));
        }
        Err(code) => return Err(shared.explain(DOING, KafkaError::AdminOp(code))),
    };
    let value = |key| resource.get(key).and_then(|entry| entry.value.clone());
    Ok(Some(TopicFacts {
        partitions,
        cleanup_policy: value("cleanup.policy").unwrap_or_default(),
        delete_retention_ms: value("delete.retention.ms").and_then(|value| value.parse().ok()),
    }))
}

/// How many partitions the topic has, or `None` if it does not exist.
pub(super) fn partitions(shared: &Shared, topic: Topic) -> Result<Option<i32>, LogError> {
    const DOING: &str = "asking for a topic's partitions";
    let name = shared.names.of(topic);
    let metadata = shared
        .asking
        .fetch_metadata(Some(name), shared.settings.operation_timeout)
        .map_err(|error| shared.explain(DOING, error))?;
    let Some(found) = metadata.topics().iter().find(|topic| topic.name() == name) else {
        return Ok(None);
    };
    match found
        .error()
        .map(|error| KafkaError::MetadataFetch(error.into()))
    {
        None => Ok(Some(found.partitions().len() as i32)),
        Some(error) if error::is_unknown_topic(&error) => Ok(None),
        Some(error) => Err(shared.explain(DOING, error)),
    }
}

/// Makes a topic and waits until the brokers know it.
pub(super) fn create(shared: &Shared, spec: &TopicSpec) -> Result<Created, LogError> {
    const DOING: &str = "making a topic";
    let name = shared.names.of(spec.topic);
    let min_insync = spec.min_insync_replicas.to_string();
    let topic = NewTopic::new(
        name,
        spec.partitions,
        TopicReplication::Fixed(spec.replication_factor),
    )
    .set("min.insync.replicas", &min_insync)
    .set(
        "cleanup.policy",
        match spec.topic.cleanup() {
            Cleanup::Delete => "delete",
            Cleanup::Compact => "compact",
        },
    );
    let admin: AdminClient<Logging> = client::admin(&shared.settings)?;
    let timeout = shared.settings.operation_timeout;
    let options = AdminOptions::new()
        .request_timeout(Some(timeout))
        .operation_timeout(Some(timeout));
    let made = wait(admin.create_topics([&topic], &options), timeout);
    match made.map(|mut results| results.pop()) {
        Ok(Some(Ok(_))) => {}
        Ok(Some(Err((_, Code::TopicAlreadyExists)))) => return Ok(Created::Existed),
        Ok(Some(Err((_, code)))) => return Err(shared.explain(DOING, KafkaError::AdminOp(code))),
        Ok(None) => return Err(shared.explain(DOING, KafkaError::AdminOp(Code::Unknown))),
        Err(error) => return Err(shared.explain(DOING, error)),
    }
    let deadline = Instant::now() + timeout;
    while partitions(shared, spec.topic)?.is_none_or(|count| count < spec.partitions)
        && Instant::now() < deadline
    {
        std::thread::park_timeout(Duration::from_millis(10));
    }
    Ok(Created::Made)
}

/// The identities of an instance's workers that are in the group.
pub(super) fn members_of(shared: &Shared, instance: &str) -> Result<BTreeSet<String>, LogError> {
    let prefix = format!("{}-{instance}-", shared.settings.group);
    let workers = |id: &str| {
        id.strip_prefix(&prefix)
            .is_some_and(|rest| rest.parse::<usize>().is_ok())
    };
    Ok(clients(shared)?
        .into_iter()
        .filter(|id| workers(id))
        .collect())
}

/// Whether somebody is in the group under that identity.
pub(super) fn is_member(shared: &Shared, identity: &str) -> Result<bool, LogError> {
    Ok(clients(shared)?.contains(identity))
}

/// The client ids of the group's members: with us they are the identities.
fn clients(shared: &Shared) -> Result<BTreeSet<String>, LogError> {
    let groups = shared
        .asking
        .fetch_group_list(
            Some(&shared.settings.group),
            shared.settings.operation_timeout,
        )
        .map_err(|error| shared.explain("asking who is in the group", error))?;
    let members = groups.groups().iter().flat_map(GroupInfo::members);
    Ok(members
        .map(|member| member.client_id().to_owned())
        .collect())
}

/// Runs a future of the admin client, which has a thread of its own, to its end or to the deadline.
fn wait<T>(
    future: impl Future<Output = Result<T, KafkaError>>,
    within: Duration,
) -> Result<T, KafkaError> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let deadline = Instant::now() + within + Duration::from_secs(1);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return result;
        }
        let now = Instant::now();
        if now >= deadline {
            return Err(KafkaError::AdminOp(Code::OperationTimedOut));
        }
        std::thread::park_timeout(deadline - now);
    }
}
