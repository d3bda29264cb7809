//! What the log says of the bench's orders, told to whoever waits for it: confirmed, ended.
//!
//! A thread reads `orders.events` from its end on, as a consumer of no group. An ending may be read before the request
//! that placed the order has been answered; the latest such are kept.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use common::envelope::names;
use common::kafka::{self, QuietContext, Settings};
use contracts::topics::Topics;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::oneshot;
use uuid::Uuid;

/// How long one poll waits.
const POLL: Duration = Duration::from_millis(100);
/// News of orders that nobody has asked about yet; of what others place, the oldest is forgotten.
const UNASKED_MAX: usize = 50_000;

/// How an order ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Paid and delivered.
    Completed,
    /// Undone.
    Cancelled,
    /// Waits for a person, which for a bench is an end.
    Stuck,
}

/// What the log said of one order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    /// When its confirmation was read, if it was confirmed.
    pub(super) confirmed: Option<Instant>,
    /// When its ending was read.
    pub(super) at: Instant,
    /// Which.
    pub(super) outcome: Outcome,
}

#[derive(Default)]
struct News {
    confirmed: Option<Instant>,
    ended: Option<(Instant, Outcome)>,
    asked: Option<oneshot::Sender<Ended>>,
}

#[derive(Default)]
struct Board {
    news: HashMap<Uuid, News>,
    /// In the order in which news came.
    arrived: VecDeque<Uuid>,
}

/// The endings of orders.
#[derive(Clone)]
pub(super) struct Endings(Arc<Shared>);

#[derive(Default)]
struct Shared(Mutex<Board>);

impl Endings {
    /// Listens from now on.
    ///
    /// # Errors
    /// The log cannot be read.
    pub(super) async fn listen(settings: &Settings) -> Result<Self> {
        let topic = Topics::new(settings.namespace.as_deref()).orders();
        let ends = kafka::log_ends(settings, std::slice::from_ref(&topic)).await?;
        let mut config = kafka::client_config(settings);
        config
            .set("group.id", "rondo-bench")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // The embedded broker answers an empty fetch no sooner than this.
            .set("fetch.wait.max.ms", "10");
        let consumer: BaseConsumer<QuietContext> = config
            .create_with_context(QuietContext)
            .context("a Kafka client could not be made")?;
        let mut partitions = TopicPartitionList::new();
        for end in &ends {
            partitions.add_partition_offset(&topic, end.partition, Offset::Offset(end.end))?;
        }
        consumer
            .assign(&partitions)
            .with_context(|| format!("{topic} cannot be read"))?;
        let shared = Arc::new(Shared::default());
        let heard = Arc::downgrade(&shared);
        std::thread::spawn(move || {
            // Until nobody listens any more.
            while let Some(shared) = heard.upgrade() {
                if let Some(Ok(message)) = consumer.poll(POLL) {
                    shared.read(&message);
                }
            }
        });
        Ok(Self(shared))
    }

    /// Asks about an order: answered once it has ended.
    pub(super) fn of(&self, order: Uuid) -> oneshot::Receiver<Ended> {
        let (tell, told) = oneshot::channel();
        let mut board = self.0.lock();
        let news = board.news.entry(order).or_default();
        news.asked = Some(tell);
        board.settle(order);
        told
    }

    /// Takes a question back.
    pub(super) fn forget(&self, order: Uuid) {
        self.0.lock().news.remove(&order);
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Board> {
        self.0.lock().expect("no holder of this lock panics")
    }

    fn read(&self, message: &BorrowedMessage<'_>) {
        let now = Instant::now();
        let Some(order) = message.key().and_then(|key| Uuid::try_parse_ascii(key).ok()) else {
            return;
        };
        let outcome = match event_type(message) {
            Some("OrderConfirmed") => None,
            Some("OrderCompleted") => Some(Outcome::Completed),
            Some("OrderCancelled") => Some(Outcome::Cancelled),
            Some("OrderStuck") => Some(Outcome::Stuck),
            _ => return,
        };
        self.lock().hear(order, now, outcome);
    }
}

impl Board {
    /// `outcome` is none for a confirmation.
    fn hear(&mut self, order: Uuid, at: Instant, outcome: Option<Outcome>) {
        let known = self.news.contains_key(&order);
        let news = self.news.entry(order).or_default();
        match outcome {
            None => news.confirmed = news.confirmed.or(Some(at)),
            Some(outcome) => news.ended = news.ended.or(Some((at, outcome))),
        }
        if !known {
            self.arrived.push_back(order);
        }
        self.settle(order);
        while self.arrived.len() > UNASKED_MAX {
            let oldest = self.arrived.pop_front().expect("it is not empty");
            if self.news.get(&oldest).is_some_and(|news| news.asked.is_none()) {
                self.news.remove(&oldest);
            }
        }
    }

    /// Answers, if there is both a question and an ending.
    fn settle(&mut self, order: Uuid) {
        let answerable = self
            .news
            .get(&order)
            .is_some_and(|news| news.asked.is_some() && news.ended.is_some());
        if !answerable {
            return;
        }
        let News {
            confirmed,
            ended: Some((at, outcome)),
            asked: Some(asked),
        } = self.news.remove(&order).unwrap_or_default()
        else {
            return;
        };
        // Whoever asked may have gone.
        let _ = asked.send(Ended { confirmed, at, outcome });
    }
}

/// The record's name without its namespace.
fn event_type<'a>(message: &'a BorrowedMessage<'_>) -> Option<&'a str> {
    let header = message.headers()?.iter().find(|header| header.key == names::TYPE)?;
    std::str::from_utf8(header.value?).ok()?.rsplit('.').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ending_is_told_whether_it_or_the_question_comes_first() {
        let endings = Endings(Arc::default());
        let (early, late) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let now = Instant::now();
        endings.0.lock().hear(early, now, None);
        endings.0.lock().hear(early, now, Some(Outcome::Completed));
        let mut told = endings.of(early);
        let ended = told.try_recv().unwrap();
        assert_eq!((ended.outcome, ended.confirmed), (Outcome::Completed, Some(now)));

        let mut told = endings.of(late);
        assert!(told.try_recv().is_err());
        endings.0.lock().hear(late, now, Some(Outcome::Cancelled));
        assert_eq!(told.try_recv().unwrap().outcome, Outcome::Cancelled);
        assert!(endings.0.lock().news.is_empty());
    }

    #[test]
    fn what_nobody_asks_about_is_forgotten_in_the_end() {
        let endings = Endings(Arc::default());
        let asked = Uuid::from_u128(u128::MAX);
        let _told = endings.of(asked);
        for order in 0..2 * UNASKED_MAX {
            endings
                .0
                .lock()
                .hear(Uuid::from_u128(order as u128), Instant::now(), None);
        }
        let board = endings.0.lock();
        assert!(board.news.len() <= UNASKED_MAX + 1, "{}", board.news.len());
        assert!(board.news.contains_key(&asked));
    }
}
