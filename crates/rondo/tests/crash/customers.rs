//! Customers who order all the time, whatever is killed, and remember what they were promised.
//!
//! Each posts an order until it is acknowledged, writes the answer down, watches the order until it has ended, and posts
//! the next. An acknowledged order is never posted again: were it lost, a repetition would make it anew and hide the loss.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use reqwest::{Client, StatusCode};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::goods;

/// How long a customer waits once nothing is killed any more: a consumer group may have to notice a lost member, and
/// deadlines begin to wait anew at each start. Before that a customer waits as long as the faults go on.
const PATIENCE: Duration = Duration::from_secs(120);
/// A server that is being killed may leave a request without an answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a customer looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// One order in so many is paid by a method that never answers.
const NEVER_ANSWERED_ONE_IN: u32 = 25;

/// What was acknowledged: by reference, the order's id and whether its customer has seen its end.
type Promises = BTreeMap<String, Promise>;

/// One acknowledged order.
#[derive(Clone)]
pub(crate) struct Promise {
    pub(crate) order_id: String,
    pub(crate) ended: bool,
}

type Leaving = Arc<OnceLock<Instant>>;

/// The customers of one shop.
pub(crate) struct Customers {
    promises: Arc<Mutex<Promises>>,
    /// Since when nothing is killed any more, and nothing is ordered.
    leaving: Leaving,
    tasks: Vec<JoinHandle<()>>,
}

impl Customers {
    /// `count` customers who call the copies of orders at `addresses` in turn.
    pub(crate) fn arrive(count: u32, addresses: &[String], seed: u64) -> Self {
        let promises = Arc::<Mutex<Promises>>::default();
        let leaving = Leaving::default();
        let client = Client::builder().timeout(REQUEST_TIMEOUT).build().unwrap();
        let tasks = (0..count)
            .map(|number| {
                let customer = Customer {
                    number,
                    client: client.clone(),
                    addresses: addresses.to_vec(),
                    promises: Arc::clone(&promises),
                    leaving: Arc::clone(&leaving),
                };
                let rng = StdRng::seed_from_u64(seed.wrapping_add(u64::from(number)));
                tokio::spawn(customer.order_until_leaving(rng))
            })
            .collect();
        Self {
            promises,
            leaving,
            tasks,
        }
    }

    /// How many orders are acknowledged and have not been seen to end.
    pub(crate) fn waiting(&self) -> usize {
        self.count(|promise| !promise.ended)
    }

    /// How many orders have been seen to end.
    pub(crate) fn served(&self) -> usize {
        self.count(|promise| promise.ended)
    }

    fn count(&self, of: impl Fn(&Promise) -> bool) -> usize {
        let promises = self.promises.lock().unwrap();
        promises.values().filter(|promise| of(promise)).count()
    }

    /// Lets each see the end of what it has ordered; everything that was acknowledged.
    pub(crate) async fn leave(mut self) -> Promises {
        self.leaving.get_or_init(Instant::now);
        for task in self.tasks.drain(..) {
            task.await.expect("each customer is served");
        }
        self.promises.lock().unwrap().clone()
    }
}

impl Drop for Customers {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

struct Customer {
    number: u32,
    client: Client,
    addresses: Vec<String>,
    promises: Arc<Mutex<Promises>>,
    leaving: Leaving,
}

impl Customer {
    async fn order_until_leaving(self, mut rng: StdRng) {
        for count in 0.. {
            if self.leaving.get().is_some() {
                return;
            }
            let reference = format!("customer-{}-{count}", self.number);
            let order = match (count + self.number) % NEVER_ANSWERED_ONE_IN {
                1 => goods::order_never_answered(&reference, &mut rng),
                _ => goods::order(&reference, &mut rng),
            };
            let order_id = self.place(&reference, &order).await;
            self.remember(&reference, &order_id, false);
            self.watch(&order_id).await;
            self.remember(&reference, &order_id, true);
        }
    }

    async fn place(&self, reference: &str, order: &Value) -> String {
        for tries in 0.. {
            match self.try_to_place(self.address(tries), reference, order).await {
                Ok(order_id) => return order_id,
                Err(state) => self.again(&format!("{reference} to be acknowledged"), &state).await,
            }
        }
        unreachable!("tries are counted without end")
    }

    async fn try_to_place(&self, address: &str, reference: &str, order: &Value) -> Result<String, String> {
        let post = self
            .client
            .post(format!("{address}/orders"))
            .header("idempotency-key", reference);
        let answer = post.json(order).send().await.map_err(|error| format!("{error:?}"))?;
        let status = answer.status();
        // An answer that breaks off is none, and the order may exist: the key makes the repetition harmless.
        let body: Value = answer.json().await.map_err(|error| format!("{status} {error:?}"))?;
        match status {
            StatusCode::ACCEPTED | StatusCode::OK => Ok(body["order_id"].as_str().unwrap().to_owned()),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Err(format!("{status} {body}")),
            _ => panic!("{reference} was answered with {status} {body}"),
        }
    }

    async fn watch(&self, order_id: &str) {
        for tries in 0.. {
            match self.has_ended(self.address(tries), order_id).await {
                Ok(()) => return,
                Err(state) => self.again(&format!("order {order_id} to end"), &state).await,
            }
        }
    }

    async fn has_ended(&self, address: &str, order_id: &str) -> Result<(), String> {
        let get = self.client.get(format!("{address}/orders/{order_id}"));
        let answer = get.send().await.map_err(|error| format!("{error:?}"))?;
        let status = answer.status();
        assert_ne!(
            status,
            StatusCode::NOT_FOUND,
            "order {order_id} was acknowledged and is gone"
        );
        let order: Value = answer.json().await.map_err(|error| format!("{status} {error:?}"))?;
        match order["status"].as_str() {
            Some("completed" | "cancelled") => Ok(()),
            _ => Err(format!("{status} {order}")),
        }
    }

    /// The pause before another look, unless there have been enough.
    async fn again(&self, what: &str, state: &str) {
        assert!(
            self.leaving.get().is_none_or(|since| since.elapsed() < PATIENCE),
            "waited {PATIENCE:?} for {what}; found {state}"
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }

    /// Another copy at each try: the last one may be the one that was killed.
    fn address(&self, tries: usize) -> &str {
        &self.addresses[(self.number as usize + tries) % self.addresses.len()]
    }

    fn remember(&self, reference: &str, order_id: &str, ended: bool) {
        let promise = Promise {
            order_id: order_id.to_owned(),
            ended,
        };
        self.promises.lock().unwrap().insert(reference.to_owned(), promise);
    }
}
