//! What `rondo offsets` takes on the command line.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{ArgGroup, Args, Subcommand};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

use super::plan::{self, Aim};

/// Where services go on.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show where each service goes on, how far behind the log that is, and who reads for it.
    Show(ShowArgs),
    /// Move services to other offsets. Without --execute it only shows what would happen.
    ///
    /// Services may run meanwhile: they go on from there within seconds. What took effect before does not do so again.
    Reset(Box<ResetArgs>),
}

/// Which partitions are meant.
#[derive(Args, Debug)]
pub(super) struct Scope {
    /// A service; may be given several times.
    #[arg(long = "service", value_name = "NAME", value_parser = ["orders", "payments", "inventory"])]
    pub(super) services: Vec<String>,
    /// The same by its consumer group.
    #[arg(long = "group", value_name = "GROUP")]
    pub(super) groups: Vec<String>,
    /// A topic, with partitions if not all of them are meant; may be given several times.
    #[arg(long = "topic", value_name = "TOPIC[:P,P]")]
    pub(super) topics: Vec<String>,
}

/// What `offsets show` takes.
#[derive(Args, Debug)]
pub struct ShowArgs {
    #[command(flatten)]
    pub(super) scope: Scope,
    /// Also write the offsets as CSV, for `reset --from-file`; `-` is stdout, instead of the table.
    #[arg(long, value_name = "FILE")]
    pub(super) export: Option<PathBuf>,
}

/// What `offsets reset` takes.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("who").required(true).multiple(true).args(["services", "groups"])))]
#[command(group(ArgGroup::new("what").required(true).args(["topics", "all_topics", "from_file"])))]
#[command(group(ArgGroup::new("target").required(true)
    .args(["to_earliest", "to_latest", "to_offset", "shift_by", "to_datetime", "by_duration", "to_current", "from_file"])))]
pub struct ResetArgs {
    #[command(flatten)]
    pub(super) scope: Scope,
    /// All topics that the service reads.
    #[arg(long)]
    pub(super) all_topics: bool,
    /// To the first record that the log has.
    #[arg(long)]
    pub(super) to_earliest: bool,
    /// To the end of the log; what has not been read is skipped.
    #[arg(long)]
    pub(super) to_latest: bool,
    /// To this offset.
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    pub(super) to_offset: Option<i64>,
    /// By so many records on, or back.
    #[arg(long, value_name = "±RECORDS", allow_negative_numbers = true)]
    pub(super) shift_by: Option<i64>,
    /// To the first record of this time: 2026-01-31T12:00:00Z, or without a zone for UTC.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(super) to_datetime: Option<Timestamp>,
    /// To the first record of so long ago: P1DT2H.
    #[arg(long, value_name = "DURATION", value_parser = parse_ago)]
    pub(super) by_duration: Option<Timestamp>,
    /// To where the service is: nothing moves, and a group that is ahead is told to follow.
    #[arg(long)]
    pub(super) to_current: bool,
    /// To what a CSV file says: TOPIC,PARTITION,OFFSET or GROUP,TOPIC,PARTITION,OFFSET.
    #[arg(long, value_name = "CSV")]
    pub(super) from_file: Option<PathBuf>,
    /// Do it.
    #[arg(long)]
    pub(super) execute: bool,
    /// Only show what would happen, which is what happens without --execute.
    #[arg(long, conflicts_with = "execute")]
    pub(super) dry_run: bool,
    /// Records may be skipped: nobody will ever handle them.
    #[arg(long)]
    pub(super) accept_skipped: bool,
    /// Also write the plan as CSV, for --from-file; `-` is stdout, instead of the table.
    #[arg(long, value_name = "FILE")]
    pub(super) export: Option<PathBuf>,
}

impl ResetArgs {
    /// Where to.
    pub(super) fn aim(&self) -> Result<Aim> {
        if let Some(file) = &self.from_file {
            let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
            let listed = plan::from_csv(&text).with_context(|| format!("{} is no plan", file.display()))?;
            return Ok(Aim::Listed(listed));
        }
        Ok(
            match (self.to_offset, self.shift_by, self.to_datetime.or(self.by_duration)) {
                (Some(offset), ..) => Aim::Offset(offset),
                (_, Some(records), _) => Aim::ShiftBy(records),
                (.., Some(at)) => Aim::Since(at),
                _ if self.to_earliest => Aim::Earliest,
                _ if self.to_latest => Aim::Latest,
                _ => Aim::Current,
            },
        )
    }
}

/// A time with its zone, or in UTC.
pub(in crate::cli) fn parse_time(text: &str) -> Result<Timestamp, String> {
    let utc = || {
        Some(
            text.parse::<jiff::civil::DateTime>()
                .ok()?
                .to_zoned(TimeZone::UTC)
                .ok()?
                .timestamp(),
        )
    };
    let parsed = text.parse().ok().or_else(utc);
    parsed.ok_or_else(|| "a time is written as 2026-01-31T12:00:00Z".to_owned())
}

/// The moment that lies a duration back.
fn parse_ago(text: &str) -> Result<Timestamp, String> {
    let span: Span = text.parse().map_err(|_| "a duration is written as P1DT2H".to_owned())?;
    let then = Timestamp::now().to_zoned(TimeZone::UTC).checked_sub(span);
    then.map(|then| then.timestamp()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_kafkas_tool_reads_them() {
        let noon: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        for text in [
            "2026-01-31T12:00:00Z",
            "2026-01-31T12:00:00.000",
            "2026-01-31T14:00:00+02:00",
        ] {
            assert_eq!(parse_time(text).unwrap(), noon, "{text}");
        }
        assert!(parse_time("yesterday").is_err());
        let ago = Timestamp::now().as_second() - parse_ago("P1DT2H").unwrap().as_second();
        assert!((93_600..93_610).contains(&ago), "{ago}");
        assert!(parse_ago("1 fortnight").is_err());
    }
}
