//! Which dead letters: the arguments that all verbs of `dlq` share, and reading what they choose.

use anyhow::{Context as _, Result};
use clap::Args;
use common::parking::{self, DeadLetter, Filter};
use contracts::service::{SERVICES, Service};
use deadpool_postgres::Client;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, SpanRelativeTo, Timestamp};
use serde_json::{Value, json};

use super::LetterId;

/// Dead letters read at once.
const PAGE: i64 = 500;

/// Which dead letters. Each argument narrows.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Selection {
    /// Ids, as listed: `orders/12`.
    #[arg(value_name = "ID")]
    ids: Vec<LetterId>,
    /// Only of this service.
    #[arg(long, value_parser = service)]
    service: Option<&'static Service>,
    /// Only of this topic, with its namespace or without.
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Only those that this consumer could not handle.
    #[arg(long, value_name = "CONSUMER")]
    consumer: Option<String>,
    /// Only of this key, such as an order's id.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Only of this event type, such as OrderPlaced.
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Only those that died at this moment or later: RFC 3339, a date, or how long ago, such as 2h or 30m.
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    since: Option<Timestamp>,
    /// Only those that died before this moment.
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    until: Option<Timestamp>,
    /// Only with this header; may be given several times.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Only with this disposition or error class, or with this text in their error.
    #[arg(long, value_name = "TEXT")]
    failure: Option<String>,
}

/// A [`Selection`] of verbs that have no reason of their own: what made the letters fail is `--reason` there.
#[derive(Args, Clone, Debug, Default)]
#[command(mut_arg("failure", |failure| failure.long("reason").alias("failure")))]
pub(super) struct ByReason {
    #[command(flatten)]
    pub(super) selection: Selection,
}

impl Selection {
    /// Whether it chooses nothing in particular.
    pub(super) fn is_everything(&self) -> bool {
        self.ids.is_empty() && self.service.is_none() && self.filter(Vec::new(), false).is_everything()
    }

    /// Whether letters are named one by one.
    pub(super) fn names_each(&self) -> bool {
        !self.ids.is_empty()
    }

    /// The services in question, each with what is asked of it.
    pub(super) fn filters(&self, undecided: bool) -> Vec<(&'static str, Filter)> {
        let mut filters = Vec::new();
        for service in &SERVICES {
            if self.service.is_some_and(|only| only.name != service.name) {
                continue;
            }
            let ids: Vec<i64> = self
                .ids
                .iter()
                .filter(|id| id.service == service.name)
                .map(|id| id.row)
                .collect();
            if self.ids.is_empty() || !ids.is_empty() {
                filters.push((service.name, self.filter(ids, undecided)));
            }
        }
        filters
    }

    /// The ids that were asked for and are not among `found`.
    pub(super) fn missing(&self, found: &[LetterId]) -> Vec<LetterId> {
        self.ids.iter().filter(|id| !found.contains(id)).copied().collect()
    }

    fn filter(&self, ids: Vec<i64>, undecided: bool) -> Filter {
        Filter {
            ids: (!ids.is_empty()).then_some(ids),
            topic: self.topic.clone(),
            consumer: self.consumer.clone(),
            key: self.key.clone(),
            event_type: self.event_type.clone(),
            failure: self.failure.clone(),
            since: self.since,
            until: self.until,
            headers: self.headers.clone(),
            undecided,
        }
    }
}

/// A filter as a campaign remembers it.
pub(super) fn as_json(filter: &Filter) -> Value {
    serde_json::to_value(filter).unwrap_or_else(|_| json!({}))
}

/// Calls `each` with every chosen dead letter, newest first, up to `limit` of them. Memory holds a page.
pub(super) async fn each(
    client: &Client,
    filter: &Filter,
    limit: usize,
    mut each: impl AsyncFnMut(DeadLetter) -> Result<()>,
) -> Result<usize> {
    let (mut before, mut count) = (i64::MAX, 0);
    while count < limit {
        let wanted = PAGE.min(i64::try_from(limit - count).unwrap_or(PAGE));
        let page = parking::dead_letters(client, filter, before, wanted)
            .await
            .context("the dead letters cannot be read; has `rondo init` brought this database up to date?")?;
        let Some(last) = page.last() else { break };
        before = last.id;
        count += page.len();
        for letter in page {
            each(letter).await?;
        }
    }
    Ok(count)
}

fn service(text: &str) -> Result<&'static Service, String> {
    Service::named(text).ok_or_else(|| {
        let names: Vec<&str> = SERVICES.iter().map(|service| service.name).collect();
        format!("there is no such service; there are {}", names.join(", "))
    })
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a header is NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A moment: as such, as a day, or as how long ago it was.
fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    if let Ok(day) = text.parse::<Date>() {
        return day
            .to_zoned(TimeZone::UTC)
            .map(|midnight| midnight.timestamp())
            .map_err(|error| error.to_string());
    }
    let ago = text
        .parse::<Span>()
        .and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()))
        .and_then(|duration| Timestamp::now().checked_sub(duration.abs()));
    ago.map_err(|_| {
        "a moment is RFC 3339, such as 2026-01-31T12:00:00Z, a date, or how long ago, such as 2h, 30m or 3d".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use clap::Subcommand as _;

    use super::*;

    #[test]
    fn a_moment_is_given_in_three_ways() {
        assert_eq!(
            moment("2026-01-31T12:00:00Z").unwrap().to_string(),
            "2026-01-31T12:00:00Z"
        );
        assert_eq!(moment("2026-01-31").unwrap().to_string(), "2026-01-31T00:00:00Z");
        let ago = Timestamp::now().as_second() - moment("3d").unwrap().as_second();
        assert!((3 * 86_400 - 5..=3 * 86_400 + 5).contains(&ago), "{ago}");
        assert!(moment("yesterday").is_err_and(|why| why.contains("2h")));
    }

    #[test]
    fn ids_go_to_their_services_and_nothing_else_is_asked() {
        let selection = Selection {
            ids: ["orders/1", "payments/2", "orders/3"]
                .map(|id| id.parse().unwrap())
                .into(),
            ..Selection::default()
        };
        let filters = selection.filters(true);
        let asked: Vec<_> = filters
            .iter()
            .map(|(service, filter)| (*service, filter.ids.clone()))
            .collect();
        assert_eq!(asked, [("orders", Some(vec![1, 3])), ("payments", Some(vec![2]))]);
        assert!(!selection.is_everything());
        assert!(Selection::default().is_everything());
        let failed = Selection {
            failure: Some("decode".to_owned()),
            ..Selection::default()
        };
        assert!(!failed.is_everything());
    }

    #[test]
    fn what_made_them_fail_is_their_reason_unless_the_verb_has_one() {
        let parsed = |verb: &str, flag: &str| {
            let command = crate::cli::dlq::Command::augment_subcommands(clap::Command::new("dlq"));
            let matches = command.try_get_matches_from(["dlq", verb, flag, "decode", "--all"])?;
            let (_, matches) = matches.subcommand().expect("a verb was given");
            Ok::<_, clap::Error>(matches.get_one::<String>("failure").cloned())
        };
        for verb in ["list", "export", "redrive"] {
            for flag in ["--reason", "--failure"] {
                assert_eq!(parsed(verb, flag).unwrap().as_deref(), Some("decode"), "{verb} {flag}");
            }
        }
        for verb in ["skip", "discard"] {
            assert!(parsed(verb, "--failure").is_err_and(|why| why.to_string().contains("--reason")));
            assert_eq!(
                parsed(verb, "--reason").unwrap(),
                None,
                "{verb}'s reason is why they are let go"
            );
        }
    }

    #[test]
    fn a_header_has_a_name_and_a_value() {
        assert_eq!(header("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(header("a").is_err());
    }
}
