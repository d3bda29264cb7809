//! What the services rest on goes away and comes back; orders are taken meanwhile, and all of them end.

use futures_util::future::join_all;
use testkit::Proxy;
use testkit::kafka::OwnBroker;

use crate::shop::{PATIENCE, SERVICES, Shop, order_of};

/// Records that could not be handled.
const SET_ASIDE: &str = "SELECT (SELECT count(*) FROM dead_letters) + (SELECT count(*) FROM parked)";

/// Ends every connection to the databases of one shop but the one that asks; how many there were.
const END_CONNECTIONS: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = ANY($1) AND pid <> pg_backend_pid() AND application_name = 'rondo'";

/// Holds the shop to have sold one cup by each of so many orders, and to have lost nothing on the way.
async fn assert_sold(shop: &Shop, orders: i64) {
    let ends = shop.until_all_ended(orders).await;
    assert_eq!(ends["completed"], orders, "{ends:?}");
    shop.assert_stock("cup", 1_000 - orders, 0).await;
    for service in SERVICES {
        assert_eq!(shop.number(service, SET_ASIDE).await, 0, "{service}");
    }
    shop.audit().await;
}

/// On the embedded broker whatever the environment names, since a broker that others use cannot be stopped.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_broker_is_away_orders_are_taken_and_none_is_given_up_when_it_returns() {
    let cup = order_of(&[("cup", 1)], "tok_visa");
    let mut broker = OwnBroker::start().await;
    let shop = Shop::open_with(&[
        ("KAFKA_BROKERS", broker.address()),
        ("KAFKA_FETCH_WAIT_MAX_MS", "10"),
        // They pass while the broker is away, and the services get time to catch up before that counts.
        ("RONDO_DECIDE_SECS", "2"),
        ("RONDO_DEADLINE_GRACE_MS", "60000"),
    ])
    .await;
    shop.stock("cup", 1_000).await;
    let first = shop.place(&cup).await;
    shop.until(&first, "completed").await;

    broker.stop().await;
    for _ in 0..50 {
        shop.place(&cup).await;
    }
    let overdue = "SELECT count(*) FROM timers WHERE due_at < clock_timestamp()";
    testkit::eventually("every deadline has passed", PATIENCE, async || {
        shop.number("orders", overdue).await == 50
    })
    .await;
    let placed = "SELECT count(*) FROM orders WHERE status = 'placed'";
    assert_eq!(shop.number("orders", placed).await, 50);

    broker.start_again().await;
    assert_sold(&shop, 51).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_registry_is_away_orders_are_taken_and_no_record_is_given_up() {
    let cup = order_of(&[("cup", 1)], "tok_visa");
    let registry = testkit::registry().await;
    let proxy = Proxy::before(registry).await;
    let mut shop = Shop::prepare(&[("SCHEMA_REGISTRY_URL", &proxy.instead_of(registry))]).await;
    let copy = shop.start(&SERVICES).await;
    shop.stock("cup", 1_000).await;

    // Nobody has seen anybody else's schema yet.
    proxy.cut();
    for _ in 0..20 {
        shop.place(&cup).await;
    }
    let unpublished = "SELECT count(*) FROM events WHERE position > (SELECT cursor FROM relay)";
    testkit::eventually("the orders are in the log", PATIENCE, async || {
        shop.number("orders", unpublished).await == 0
    })
    .await;
    // Not even a restart needs the registry, since each service keeps what it writes.
    shop.stop(copy).await;
    shop.start(&SERVICES).await;
    for _ in 0..20 {
        shop.place(&cup).await;
    }
    assert_eq!(shop.number("payments", "SELECT count(*) FROM events").await, 0);

    proxy.restore();
    assert_sold(&shop, 40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_posted_while_postgres_is_away_are_taken_when_it_returns() {
    let cup = order_of(&[("cup", 1)], "tok_visa");
    let mut shop = Shop::prepare(&[]).await;
    let proxy = Proxy::before(shop.database("orders").url()).await;
    for service in SERVICES {
        let url = proxy.instead_of(shop.database(service).url());
        shop.set(&format!("{}_DATABASE_URL", service.to_uppercase()), &url);
    }
    shop.start(&SERVICES).await;
    shop.stock("cup", 1_000).await;
    let first = shop.place(&cup).await;
    shop.until(&first, "completed").await;

    proxy.cut();
    let posting = join_all((0..20).map(|_| shop.place(&cup)));
    let returning = async {
        testkit::eventually("the service knows that it is not ready", PATIENCE, async || {
            let ready = shop.client.get(format!("{}/readyz", shop.base("orders"))).send().await;
            ready.is_ok_and(|answer| answer.status() == 503)
        })
        .await;
        proxy.restore();
    };
    tokio::join!(posting, returning);
    assert_sold(&shop, 21).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_postgres_that_end_again_and_again_under_load_cost_nothing() {
    const BUYERS: usize = 8;
    const ORDERS_EACH: usize = 25;
    const CUTS: usize = 15;
    let cup = order_of(&[("cup", 1)], "tok_visa");
    let shop = Shop::open().await;
    shop.stock("cup", 1_000).await;
    // Without keys: a commit whose outcome is unknown is the service's to find out.
    let buying = join_all((0..BUYERS).map(async |_| {
        for _ in 0..ORDERS_EACH {
            shop.place(&cup).await;
        }
    }));
    let cutting = async {
        let names: Vec<&str> = SERVICES.iter().map(|service| shop.database(service).name()).collect();
        let client = shop.database("orders").client().await;
        let mut taken = 0;
        for cut in 1..=CUTS {
            // Between two cuts something gets done, or nothing ever would.
            taken = testkit::eventually(&format!("something is done before cut {cut}"), PATIENCE, async || {
                let row = client.query_one("SELECT count(*) FROM orders", &[]).await.unwrap();
                Some(row.get::<_, i64>(0)).filter(|now| *now > taken)
            })
            .await;
            testkit::eventually(
                &format!("there is something to cut for the {cut}th time"),
                PATIENCE,
                async || {
                    let row = client.query_one(END_CONNECTIONS, &[&names]).await.unwrap();
                    row.get::<_, i64>(0) > 0
                },
            )
            .await;
        }
    };
    tokio::join!(buying, cutting);
    assert_sold(&shop, (BUYERS * ORDERS_EACH) as i64).await;
}
