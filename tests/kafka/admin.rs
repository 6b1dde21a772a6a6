//! Topics as a careless person makes, widens and deletes them: what `headwater topics create` would never do.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::broker::{DEADLINE, until};

fn client(brokers: &str) -> AdminClient<DefaultClientContext> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config.create().unwrap()
}

/// Waits for an answer of the admin client, which has a thread of its own.
fn wait<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    until("an answer of the brokers", || {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => {
                std::thread::park_timeout(std::time::Duration::from_millis(20));
                None
            }
        }
    })
}

/// Makes a topic with these settings.
pub(crate) fn create(brokers: &str, name: &str, partitions: i32, settings: &[(&str, &str)]) {
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    let topic = settings
        .iter()
        .fold(topic, |topic, (key, value)| topic.set(key, value));
    // A topic that was just deleted is there for another moment.
    until("the topic to be made", || {
        let made = wait(client(brokers).create_topics([&topic], &AdminOptions::new()));
        made.unwrap().pop().unwrap().ok()
    });
    until("the topic to be known", || {
        (count(brokers, name) == partitions).then_some(())
    });
}

/// Deletes a topic.
pub(crate) fn delete(brokers: &str, name: &str) {
    let deleted = wait(client(brokers).delete_topics(&[name], &AdminOptions::new()));
    deleted.unwrap().pop().unwrap().unwrap();
    until("the topic to be gone", || {
        (count(brokers, name) == 0).then_some(())
    });
}

/// Gives a topic more partitions.
pub(crate) fn widen(brokers: &str, name: &str, partitions: usize) {
    let wider = NewPartitions::new(name, partitions);
    let widened = wait(client(brokers).create_partitions([&wider], &AdminOptions::new()));
    widened.unwrap().pop().unwrap().unwrap();
    until("the topic to be wider", || {
        (count(brokers, name) == partitions as i32).then_some(())
    });
}

/// How many partitions a topic has; 0 if there is none.
fn count(brokers: &str, name: &str) -> i32 {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("allow.auto.create.topics", "false");
    let asking: BaseConsumer = config.create().unwrap();
    let metadata = asking.fetch_metadata(Some(name), DEADLINE).unwrap();
    let found = metadata.topics().iter().find(|topic| topic.name() == name);
    found
        .filter(|topic| topic.error().is_none())
        .map_or(0, |topic| topic.partitions().len() as i32)
}
