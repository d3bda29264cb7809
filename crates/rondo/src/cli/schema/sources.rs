//! Where bytes lie: the topics, the event stores, the dead letters. Each is read in order and in bounded memory, whole or
//! in evenly placed windows.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use common::kafka::Settings;
use common::parking::{self, Filter};
use common::replay::log::{Log, Span, Start, spans};
use common::store;
use contracts::service::SERVICES;
use deadpool_postgres::Client;
use futures_util::future::BoxFuture;
use indicatif::ProgressBar;

use crate::cli::Target;

/// Windows that a sample is taken in: more would cost more seeks than they say.
const WINDOWS: u64 = 10;
/// Rows of one page.
const PAGE_ROWS: i64 = 5_000;
/// Dead letters of one page; each may be large.
const LETTERS_PAGE: i64 = 200;

/// One record: where it lies, and its value.
pub(super) struct Found {
    pub(super) place: Place,
    pub(super) value: Bytes,
}

/// Where a record lies; made text only when it is shown.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Log { partition: i32, offset: i64 },
    Store { position: i64 },
    Letter { row: i64 },
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Log { partition, offset } => write!(f, "{partition}:{offset}"),
            Self::Store { position } => write!(f, "position {position}"),
            Self::Letter { row } => write!(f, "letter {row}"),
        }
    }
}

/// Takes what was read, a portion at a time.
pub(super) trait Sink: Send {
    /// Looks at each of `records`.
    fn take<'a>(&'a mut self, records: &'a [Found]) -> BoxFuture<'a, Result<()>>;
}

/// Reads `topic`, with namespace; `sample` is about how many records of it.
pub(super) async fn topic(
    settings: &Settings,
    topic: &str,
    sample: Option<u64>,
    bar: &ProgressBar,
    sink: &mut impl Sink,
) -> Result<u64> {
    let whole = spans(settings, topic, Start::Earliest).await?;
    let length: u64 = whole.iter().map(Span::length).sum();
    let mut count = 0;
    for round in rounds(&whole, sample.filter(|sample| *sample < length)) {
        let mut log = Log::read(settings, topic, &round)?;
        while let Some(records) = log.next().await? {
            let found: Vec<Found> = records
                .into_iter()
                .map(|record| Found {
                    place: Place::Log {
                        partition: record.partition,
                        offset: record.offset,
                    },
                    value: record.value,
                })
                .collect();
            sink.take(&found).await?;
            count += found.len() as u64;
            bar.inc(found.len() as u64);
        }
    }
    Ok(count)
}

/// What is read at a time: everything, or one window of each partition after the other.
fn rounds(whole: &[Span], sample: Option<u64>) -> Vec<Vec<Span>> {
    let Some(sample) = sample else {
        return vec![whole.to_vec()];
    };
    let length: u64 = whole.iter().map(Span::length).sum();
    let window = |index: u64| {
        let of = |span: &Span| {
            let share = (sample * span.length()).div_ceil(length.max(1));
            let (from, to) = window(span.next, span.end, share, index);
            Span {
                next: from,
                end: to,
                ..span.clone()
            }
        };
        whole.iter().map(of).collect()
    };
    (0..WINDOWS).map(window).collect()
}

/// The `index`-th of [`WINDOWS`] windows, of `share` records in all, between `from` and `to`.
fn window(from: i64, to: i64, share: u64, index: u64) -> (i64, i64) {
    let length = (to - from).max(0).cast_unsigned();
    let start = length * index / WINDOWS;
    let next = length * (index + 1) / WINDOWS;
    // The remainder goes to the first windows.
    let size = (share / WINDOWS + u64::from(index < share % WINDOWS)).min(next - start);
    let begin = from + start.cast_signed();
    (begin, begin + size.cast_signed())
}

/// Reads the event store of `service`.
pub(super) async fn event_store(
    client: &Client,
    sample: Option<u64>,
    bar: &ProgressBar,
    sink: &mut impl Sink,
) -> Result<u64> {
    let (first, last) = store::positions(client).await?;
    let length = (last - first + 1).max(0).cast_unsigned();
    let windows: Vec<(i64, i64)> = match sample.filter(|sample| *sample < length) {
        None => vec![(first, last + 1)],
        Some(share) => (0..WINDOWS)
            .map(|index| window(first, last + 1, share, index))
            .collect(),
    };
    let mut count = 0;
    for (from, to) in windows {
        let mut after = from - 1;
        while after + 1 < to {
            let rows = store::payloads(client, after, to, PAGE_ROWS).await?;
            let Some((last, _)) = rows.last() else { break };
            after = *last;
            let found: Vec<Found> = rows
                .into_iter()
                .map(|(position, value)| Found {
                    place: Place::Store { position },
                    value,
                })
                .collect();
            sink.take(&found).await?;
            count += found.len() as u64;
            bar.inc(found.len() as u64);
        }
    }
    Ok(count)
}

/// Reads the dead letters of `service` that nobody has decided about.
pub(super) async fn dead_letters(client: &Client, bar: &ProgressBar, sink: &mut impl Sink) -> Result<u64> {
    let undecided = Filter {
        undecided: true,
        ..Filter::default()
    };
    let mut before = i64::MAX;
    let mut count = 0;
    loop {
        let page = parking::dead_letters(client, &undecided, before, LETTERS_PAGE).await?;
        let Some(last) = page.last() else { return Ok(count) };
        before = last.id;
        let found: Vec<Found> = page
            .into_iter()
            .map(|letter| Found {
                place: Place::Letter { row: letter.id },
                value: letter.record.value.unwrap_or_default(),
            })
            .collect();
        sink.take(&found).await?;
        count += found.len() as u64;
        bar.inc(found.len() as u64);
    }
}

/// The topics that were asked for, without a namespace: all for none.
pub(super) fn topics(wanted: &[String], known: &[String]) -> Result<Vec<String>> {
    if wanted.is_empty() {
        return Ok(known.to_vec());
    }
    for topic in wanted {
        known
            .contains(topic)
            .then_some(())
            .with_context(|| format!("no schema is of the topic {topic}; there are {}", known.join(", ")))?;
    }
    Ok(wanted.to_vec())
}

/// The databases of the services whose events were asked for.
pub(super) async fn databases(target: &Target, topics: &[String]) -> Result<Vec<(&'static str, Client)>> {
    let mut found = Vec::new();
    for service in SERVICES
        .iter()
        .filter(|service| topics.iter().any(|topic| topic == service.topic))
    {
        found.push((service.name, target.database(service.name).await?));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(partition: i32, first: i64, end: i64) -> Span {
        Span {
            partition,
            first,
            next: first,
            end,
        }
    }

    #[test]
    fn a_sample_is_spread_over_every_partition_and_is_as_large_as_was_asked() {
        let rounds = rounds(&[span(0, 100, 1_100), span(1, 0, 3_000), span(2, 0, 0)], Some(400));
        let spans: Vec<&Span> = rounds.iter().flatten().collect();
        let of = |partition: i32| -> u64 {
            spans
                .iter()
                .filter(|span| span.partition == partition)
                .map(|span| span.length())
                .sum()
        };
        assert_eq!((of(0), of(1), of(2)), (100, 300, 0));
        let first: Vec<i64> = spans
            .iter()
            .filter(|span| span.partition == 0)
            .map(|span| span.next)
            .collect();
        assert_eq!(first, [100, 200, 300, 400, 500, 600, 700, 800, 900, 1_000]);
    }

    #[test]
    fn windows_do_not_overlap_however_small_the_log_is() {
        for length in 0..40 {
            let windows: Vec<_> = (0..WINDOWS).map(|index| window(0, length, 25, index)).collect();
            assert!(
                windows.windows(2).all(|pair| pair[0].1 <= pair[1].0),
                "{length}: {windows:?}"
            );
            assert!(
                windows.iter().all(|(from, to)| from <= to && *to <= length),
                "{length}: {windows:?}"
            );
        }
    }
}
