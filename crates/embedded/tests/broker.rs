//! The embedded broker, over the wire, with the client the services use: what they rely on must hold here too.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use embedded::broker::{Broker, Error, RECORD_BYTES_MAX, Settings};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};
use tansu_sans_io::join_group_request::JoinGroupRequestProtocol;
use tansu_sans_io::sync_group_request::SyncGroupRequestAssignment;
use tansu_sans_io::{
    ApiKey as _, Body, Frame, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse,
    SyncGroupRequest, SyncGroupResponse,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(30);
const TOPIC: &str = "things";
const PARTITIONS: i32 = 4;

#[tokio::test]
async fn records_times_and_committed_offsets_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    create_topic(&broker, &[]).await;
    let producer = producer(&broker);
    for n in 0..100_i64 {
        send(
            &producer,
            &format!("key-{}", n % 10),
            n.to_string().as_bytes(),
            Some(1_000_000 + n),
        )
        .await;
    }
    let consumer = consumer(&broker, "readers", &[]);
    consumer.assign(&everywhere(Offset::Beginning)).unwrap();
    let mut seen = read(&consumer, 100);
    seen.sort_by_key(|record| text(record).parse::<i64>().unwrap());
    let values: Vec<String> = seen.iter().map(text).collect();
    assert_eq!(values, (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
    let header = seen[7].headers().unwrap().get(0);
    assert_eq!((header.key, header.value), ("trace", Some(&b"\x00\xff"[..])));

    let partition = seen[50].partition();
    let mut committed = TopicPartitionList::new();
    committed
        .add_partition_offset(TOPIC, partition, Offset::Offset(seen[50].offset() + 1))
        .unwrap();
    consumer.commit(&committed, CommitMode::Sync).unwrap();
    drop((consumer, producer));
    broker.stop().await;
    drop(broker);

    let broker = start(dir.path()).await;
    let consumer = self::consumer(&broker, "readers", &[]);
    let mut asked = TopicPartitionList::new();
    asked.add_partition(TOPIC, partition);
    let found = consumer.committed_offsets(asked, PATIENCE).unwrap();
    assert_eq!(found.elements()[0].offset(), Offset::Offset(seen[50].offset() + 1));

    let at_50 = consumer
        .offsets_for_times(everywhere(Offset::Offset(1_000_050)), PATIENCE)
        .unwrap();
    for found in at_50.elements() {
        let first = seen
            .iter()
            .filter(|record| record.partition() == found.partition())
            .find(|record| record.timestamp().to_millis().unwrap() >= 1_000_050);
        match first {
            Some(record) => assert_eq!(found.offset(), Offset::Offset(record.offset())),
            None => assert_eq!(found.offset(), Offset::End),
        }
    }
    consumer.assign(&everywhere(Offset::Beginning)).unwrap();
    assert_eq!(read(&consumer, 100).len(), 100);
    let watermarks: i64 = (0..PARTITIONS)
        .map(|n| consumer.fetch_watermarks(TOPIC, n, PATIENCE).unwrap().1)
        .sum();
    assert_eq!(watermarks, 100);
    broker.stop().await;
}

#[tokio::test]
async fn a_topic_to_be_kept_for_ever_is_not_emptied_by_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    create_topic(&broker, &[("retention.ms", "-1"), ("cleanup.policy", "delete")]).await;
    send(&producer(&broker), "key", b"kept", None).await;
    broker.stop().await;
    drop(broker);

    for _ in 0..2 {
        let broker = start(dir.path()).await;
        let consumer = consumer(&broker, "readers", &[]);
        // The clean-up of a start runs beside the first requests: it is over once a second produce is through.
        send(&producer(&broker), "key", b"later", None).await;
        consumer.assign(&everywhere(Offset::Beginning)).unwrap();
        assert_eq!(text(&read(&consumer, 1)[0]), "kept");
        broker.stop().await;
    }
}

#[tokio::test]
async fn records_up_to_the_bound_come_back_whole() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    create_topic(&broker, &[]).await;
    let producer = producer(&broker);
    let sizes = [2_000_000, 5_000_000, RECORD_BYTES_MAX - "key".len()];
    for size in sizes {
        send(&producer, "key", &vec![b'x'; size], None).await;
    }
    let consumer = consumer(&broker, "readers", &[]);
    consumer.assign(&everywhere(Offset::Beginning)).unwrap();
    let read = read(&consumer, sizes.len());
    assert_eq!(
        read.iter()
            .map(|record| record.payload().unwrap().len())
            .collect::<Vec<_>>(),
        sizes
    );
    assert!(
        read.iter()
            .all(|record| record.headers().unwrap().get(0).key == "trace")
    );
    broker.stop().await;
}

#[tokio::test]
async fn a_compressed_batch_is_read_from_its_middle_after_a_restart() {
    const COUNT: i64 = 60;
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    create_topic(&broker, &[]).await;
    let producer: FutureProducer = config(&broker)
        .set("compression.codec", "gzip")
        .set("linger.ms", "100")
        .create()
        .unwrap();
    let all = (0..COUNT).map(async |n| send(&producer, "one key", n.to_string().as_bytes(), None).await);
    futures_util::future::join_all(all).await;
    drop(producer);
    broker.stop().await;
    drop(broker);

    let broker = start(dir.path()).await;
    let consumer = consumer(&broker, "readers", &[]);
    consumer.assign(&everywhere(Offset::Beginning)).unwrap();
    let partition = read(&consumer, 1)[0].partition();
    for from in [COUNT / 2, COUNT - 1, 1] {
        let mut middle = TopicPartitionList::new();
        middle
            .add_partition_offset(TOPIC, partition, Offset::Offset(from))
            .unwrap();
        consumer.assign(&middle).unwrap();
        let records = read(&consumer, usize::try_from(COUNT - from).unwrap());
        let told: Vec<_> = records.iter().map(|record| (record.offset(), text(record))).collect();
        assert_eq!(told, (from..COUNT).map(|n| (n, n.to_string())).collect::<Vec<_>>());
        assert!(records.iter().all(|record| record.headers().unwrap().count() == 1));
    }
    assert_eq!(
        consumer.fetch_watermarks(TOPIC, partition, PATIENCE).unwrap(),
        (0, COUNT)
    );
    broker.stop().await;
}

#[tokio::test]
async fn members_of_a_group_share_its_partitions_as_they_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    create_topic(&broker, &[]).await;
    let cooperative = [
        ("partition.assignment.strategy", "cooperative-sticky"),
        ("auto.offset.reset", "earliest"),
    ];
    let first = only_reader(&broker, "shared", &cooperative);
    let second = consumer(&broker, "shared", &cooperative);
    second.subscribe(&[TOPIC]).unwrap();
    poll_until(&[&first, &second], || assigned(&first) == 2 && assigned(&second) == 2);

    drop(second);
    poll_until(&[&first], || assigned(&first) == PARTITIONS as usize);
    broker.stop().await;
}

#[tokio::test]
async fn members_that_were_lost_with_the_broker_are_not_waited_for() {
    // A lost member would be waited for until its session is over.
    let session = Duration::from_secs(25);
    let session_ms = session.as_millis().to_string();
    let joined = |broker: &Broker| only_reader(broker, "sharers", &[("session.timeout.ms", &session_ms)]);
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    create_topic(&broker, &[]).await;
    let lost = joined(&broker);
    broker.stop().await;
    drop(broker);

    let broker = start(dir.path()).await;
    let since = Instant::now();
    let next = joined(&broker);
    assert!(since.elapsed() < session / 2, "{:?}", since.elapsed());
    drop((lost, next));
    broker.stop().await;
}

#[tokio::test]
async fn a_member_that_leaves_before_the_group_has_formed_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    create_topic(&broker, &[]).await;
    let mut gone = BareMember::join(&broker, "sharers", PATIENCE * 2).await;
    gone.leave().await;

    drop(only_reader(&broker, "sharers", &[]));
    broker.stop().await;
}

#[tokio::test]
async fn a_member_that_dies_without_leaving_loses_its_partitions_when_its_session_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    create_topic(&broker, &[]).await;
    let mut dead = BareMember::join(&broker, "sharers", Duration::from_secs(2)).await;
    dead.take_everything().await;

    let next = only_reader(&broker, "sharers", &[("heartbeat.interval.ms", "200")]);
    drop((dead, next));
    broker.stop().await;
}

#[tokio::test]
async fn a_broker_that_a_request_has_broken_is_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    create_topic(&broker, &[]).await;
    send(&producer(&broker), "key", b"kept", None).await;
    let admin: AdminClient<DefaultClientContext> = config(&broker).create().unwrap();
    // Not implemented there; it takes the log's owner down.
    let _ = admin
        .delete_records(&everywhere(Offset::End), &AdminOptions::new())
        .await;
    let reason = tokio::time::timeout(PATIENCE, broker.wait())
        .await
        .expect("it is noticed");
    assert!(reason.contains("requests fail"), "{reason}");
    broker.stop().await;
    drop(broker);

    let broker = start(dir.path()).await;
    let consumer = consumer(&broker, "readers", &[]);
    consumer.assign(&everywhere(Offset::Beginning)).unwrap();
    assert_eq!(text(&read(&consumer, 1)[0]), "kept");
    broker.stop().await;
}

#[tokio::test]
async fn a_broker_that_has_started_answers_at_once() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let broker = start(dir.path()).await;
        let admin: AdminClient<DefaultClientContext> = config(&broker).create().unwrap();
        admin.inner().fetch_metadata(None, PATIENCE).unwrap();
        broker.stop().await;
    }
}

#[tokio::test]
async fn a_directory_or_port_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let again = Broker::start(Settings::new(dir.path())).await;
    assert!(matches!(again, Err(Error::InUse { .. })), "{again:?}");

    let other = tempfile::tempdir().unwrap();
    let taken = broker.address().rsplit(':').next().unwrap().parse().unwrap();
    let refused = Broker::start(Settings {
        port: Some(taken),
        ..Settings::new(other.path())
    })
    .await;
    assert!(
        matches!(refused, Err(Error::PortTaken { port }) if port == taken),
        "{refused:?}"
    );
    broker.stop().await;
    drop(broker);
    start(dir.path()).await.stop().await;
}

/// A member of a group that says what a test wants, and when: the first of its group, which therefore leads it.
struct BareMember {
    stream: TcpStream,
    group: String,
    id: String,
    generation: i32,
}

impl BareMember {
    /// What librdkafka calls the assignor that it prefers.
    const PROTOCOL: &str = "range";

    async fn join(broker: &Broker, group: &str, session: Duration) -> Self {
        let stream = TcpStream::connect(broker.address()).await.unwrap();
        let mut member = Self {
            stream,
            group: group.to_owned(),
            id: String::new(),
            generation: -1,
        };
        // The first answer is an id to come back with.
        for _ in 0..2 {
            let protocol = JoinGroupRequestProtocol::default()
                .name(Self::PROTOCOL.to_owned())
                .metadata(subscription().into());
            let session_ms = i32::try_from(session.as_millis()).unwrap();
            let request = JoinGroupRequest::default()
                .group_id(member.group.clone())
                .session_timeout_ms(session_ms)
                .rebalance_timeout_ms(Some(session_ms))
                .member_id(member.id.clone())
                .protocol_type("consumer".to_owned())
                .protocols(Some(vec![protocol]));
            let answer = member.ask(JoinGroupRequest::KEY, 5, request.into()).await;
            let answer = JoinGroupResponse::try_from(answer).unwrap();
            (member.id, member.generation) = (answer.member_id, answer.generation_id);
        }
        assert!(member.generation >= 0, "the group takes it");
        member
    }

    /// Ends the forming of the group, in which it is alone.
    async fn take_everything(&mut self) {
        // What it is given is between the group's members; the broker only keeps it.
        let assignment = SyncGroupRequestAssignment::default()
            .member_id(self.id.clone())
            .assignment(b"everything".to_vec().into());
        let request = SyncGroupRequest::default()
            .group_id(self.group.clone())
            .generation_id(self.generation)
            .member_id(self.id.clone())
            .assignments(Some(vec![assignment]));
        let answer = self.ask(SyncGroupRequest::KEY, 3, request.into()).await;
        assert_eq!(SyncGroupResponse::try_from(answer).unwrap().error_code, 0);
    }

    async fn leave(&mut self) {
        let request = LeaveGroupRequest::default()
            .group_id(self.group.clone())
            .member_id(Some(self.id.clone()));
        let answer = self.ask(LeaveGroupRequest::KEY, 1, request.into()).await;
        assert_eq!(LeaveGroupResponse::try_from(answer).unwrap().error_code, 0);
    }

    async fn ask(&mut self, api_key: i16, api_version: i16, body: Body) -> Body {
        let header = tansu_sans_io::Header::Request {
            api_key,
            api_version,
            correlation_id: 0,
            client_id: Some("bare".to_owned()),
        };
        self.stream
            .write_all(&Frame::request(header, body).unwrap())
            .await
            .unwrap();
        let size = self.stream.read_i32().await.unwrap();
        let mut answer = size.to_be_bytes().to_vec();
        answer.resize(answer.len() + usize::try_from(size).unwrap(), 0);
        self.stream.read_exact(&mut answer[4..]).await.unwrap();
        Frame::response_from_bytes(&answer[..], api_key, api_version)
            .unwrap()
            .body
    }
}

/// What a consumer says of itself: version 0, one topic, no data of its own.
fn subscription() -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, 0, 1, 0, TOPIC.len() as u8];
    bytes.extend_from_slice(TOPIC.as_bytes());
    bytes.extend_from_slice(&(-1_i32).to_be_bytes());
    bytes
}

async fn start(dir: &Path) -> Broker {
    Broker::start(Settings::new(dir)).await.unwrap()
}

async fn create_topic(broker: &Broker, configs: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> = config(broker).create().unwrap();
    let mut topic = NewTopic::new(TOPIC, PARTITIONS, TopicReplication::Fixed(1));
    topic.config = configs.to_vec();
    let results = admin.create_topics(&[topic], &AdminOptions::new()).await.unwrap();
    assert_eq!(results, [Ok(TOPIC.to_owned())]);
}

fn config(broker: &Broker) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.address());
    config
}

fn producer(broker: &Broker) -> FutureProducer {
    config(broker)
        .set("enable.idempotence", "true")
        .set("message.max.bytes", "10000000")
        .set("partitioner", "murmur2_random")
        .create()
        .unwrap()
}

fn consumer(broker: &Broker, group: &str, more: &[(&str, &str)]) -> BaseConsumer {
    let mut config = config(broker);
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", "10");
    for (name, value) in more {
        config.set(*name, *value);
    }
    config.create().unwrap()
}

/// A member of the group to which all partitions have come.
fn only_reader(broker: &Broker, group: &str, more: &[(&str, &str)]) -> BaseConsumer {
    let consumer = consumer(broker, group, more);
    consumer.subscribe(&[TOPIC]).unwrap();
    poll_until(&[&consumer], || assigned(&consumer) == PARTITIONS as usize);
    consumer
}

async fn send(producer: &FutureProducer, key: &str, payload: &[u8], timestamp_ms: Option<i64>) {
    let headers = OwnedHeaders::new().insert(Header {
        key: "trace",
        value: Some(&b"\x00\xff"[..]),
    });
    let mut record = FutureRecord::to(TOPIC).key(key).payload(payload).headers(headers);
    record.timestamp = timestamp_ms;
    producer.send(record, PATIENCE).await.unwrap();
}

fn everywhere(offset: Offset) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(TOPIC, partition, offset).unwrap();
    }
    list
}

fn read(consumer: &BaseConsumer, count: usize) -> Vec<OwnedMessage> {
    let deadline = Instant::now() + PATIENCE;
    let mut records = Vec::new();
    while records.len() < count {
        assert!(Instant::now() < deadline, "read {} of {count} records", records.len());
        if let Some(record) = consumer.poll(Duration::from_millis(100)) {
            records.push(record.unwrap().detach());
        }
    }
    records
}

fn text(record: &OwnedMessage) -> String {
    String::from_utf8(record.payload().unwrap().to_vec()).unwrap()
}

fn assigned(consumer: &BaseConsumer) -> usize {
    let partitions: BTreeSet<_> = consumer
        .assignment()
        .unwrap()
        .elements()
        .iter()
        .map(|element| element.partition())
        .collect();
    partitions.len()
}

fn poll_until(consumers: &[&BaseConsumer], done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(
            Instant::now() < deadline,
            "assigned: {:?}",
            consumers.iter().map(|c| assigned(c)).collect::<Vec<_>>()
        );
        for consumer in consumers {
            if let Some(Err(error)) = consumer.poll(Duration::from_millis(20)) {
                eprintln!("poll: {error}");
            }
        }
    }
}
