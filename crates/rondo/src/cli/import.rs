//! Sending a file of lines to a service: one request a line, several at a time, each until it has an answer.
//!
//! ```text
//!   file ─► lines, one by one ─► at most N requests in flight ─► answers ─► summary
//!                                   │ 429, 503, no connection
//!                                   └─► waits, then the same request again, with the same key
//! ```
//!
//! Every request may be repeated without effect, so an import that was broken off is resumed by running it again. Memory
//! is bounded by the number in flight; the file may be of any length. Nothing here knows what a line means.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::stream::{self, Stream, StreamExt as _};
use indicatif::ProgressBar;
use reqwest::{Response, StatusCode, header};
use serde::Serialize;
use serde_json::Value;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use super::output;

/// Longest line that is read; no service takes a body of this size.
const LINE_BYTES_MAX: u64 = 1024 * 1024;
/// Upper bound of the first wait between two tries of a line.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// Upper bound of any wait between two tries, whatever the server asks for.
const WAIT_MAX: Duration = Duration::from_secs(15);
/// How many refused lines are kept for the summary; all are counted.
const SHOWN_MAX: usize = 20;

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Counted from 1.
    pub(super) number: u64,
    /// Without its end.
    pub(super) text: String,
}

/// What came of one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Taken; with what has become of it so far.
    Accepted(String),
    /// It had been taken before; with what has become of it.
    AlreadyThere(String),
    /// Taken, but what was waited for did not come.
    Unfinished(String),
    /// Not taken, and not worth another try.
    Refused(String),
}

/// What one try of a line came to.
pub(super) enum Try {
    /// The line is dealt with.
    Done(Outcome),
    /// It was not, and may be later; after this long, if the server said so.
    Again {
        /// What was in the way.
        why: String,
        /// The server's wish.
        after: Option<Duration>,
    },
}

/// What a file was imported into, and how that went.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    file: PathBuf,
    /// Lines that were sent and answered, or refused.
    lines: u64,
    accepted: u64,
    already_there: u64,
    unfinished: u64,
    refused: u64,
    /// What became of those that are there, by how it is called.
    outcomes: std::collections::BTreeMap<String, u64>,
    /// The first lines that were refused or are unfinished.
    wanting: Vec<Wanting>,
    elapsed_ms: u64,
    per_second: f64,
    /// Why not all of the file was sent, if it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    broken_off: Option<String>,
}

#[derive(Debug, Serialize)]
struct Wanting {
    line: u64,
    why: String,
}

/// How an import is done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Most requests in flight.
    pub(super) concurrency: usize,
    /// How long a server may be away before the import gives up.
    pub(super) patience: Duration,
}

/// Sends every line of `file` by `send`, which is told how often it has tried this line, and sums up. Ends early, and says
/// so, on Ctrl-C and when the service stays away.
///
/// # Errors
/// The file cannot be read.
pub(super) async fn run(file: &Path, plan: Plan, noun: &str, send: impl AsyncFn(&Line, u32) -> Try) -> Result<Summary> {
    let opened = File::open(file)
        .await
        .with_context(|| format!("{} cannot be opened", file.display()))?;
    let length = opened.metadata().await.map(|metadata| metadata.len()).unwrap_or(0);
    let bar = output::progress(Some(length), "{spinner} {bar:30.cyan} {percent:>3} %  {msg}  {elapsed}");
    let away = Away::new(plan.patience);
    let mut summary = Summary::of(file);
    let started = Instant::now();

    let answers = lines(opened)
        .map(|line| answered(line, &send, &away))
        .buffer_unordered(plan.concurrency.max(1));
    let mut answers = std::pin::pin!(answers);
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let answer = tokio::select! {
            biased;
            _ = &mut interrupted => {
                summary.broken_off = Some("interrupted".to_owned());
                break;
            }
            answer = answers.next() => answer,
        };
        match answer {
            None => break,
            Some(Ok((line, end, outcome))) => {
                summary.count(line, outcome);
                bar.set_position(bar.position().max(end));
            }
            Some(Err(Stop::Away(why))) => {
                summary.broken_off = Some(why);
                break;
            }
            Some(Err(Stop::Unreadable(error))) => {
                bar.finish_and_clear();
                return Err(error.context(format!("{} cannot be read", file.display())));
            }
        }
        show(&bar, &summary, noun, started);
    }
    bar.finish_and_clear();
    summary.end(started.elapsed());
    Ok(summary)
}

fn show(bar: &ProgressBar, summary: &Summary, noun: &str, started: Instant) {
    let rate = summary.lines as f64 / started.elapsed().as_secs_f64().max(0.001);
    let failed = match summary.refused + summary.unfinished {
        0 => String::new(),
        failed => format!(", {failed} failed"),
    };
    bar.set_message(format!("{}{failed}, {rate:.0}/s", output::counted(summary.lines, noun)));
}

/// Why an import stops before the file's end.
enum Stop {
    Away(String),
    Unreadable(anyhow::Error),
}

async fn answered(
    line: Result<(Line, u64)>,
    send: &impl AsyncFn(&Line, u32) -> Try,
    away: &Away,
) -> Result<(u64, u64, Outcome), Stop> {
    let (line, end) = line.map_err(Stop::Unreadable)?;
    let first = Instant::now();
    let mut tries = 0;
    loop {
        match send(&line, tries).await {
            Try::Done(outcome) => {
                away.heard();
                return Ok((line.number, end, outcome));
            }
            Try::Again { why, after } => {
                if away.too_long() {
                    return Err(Stop::Away(why));
                }
                if first.elapsed() > away.patience {
                    return Ok((line.number, end, Outcome::Refused(why)));
                }
                tokio::time::sleep(pause(tries, after)).await;
                tries += 1;
            }
        }
    }
}

/// The wait before another try: what the server asks for, else exponential with full jitter.
fn pause(tries: u32, after: Option<Duration>) -> Duration {
    let jittered = |bound: Duration| bound.mul_f64(rand::random::<f64>());
    match after {
        // A little more than asked for, so that not everybody comes back in the same moment.
        Some(after) => after.min(WAIT_MAX) + jittered(FIRST_WAIT),
        None => jittered(FIRST_WAIT.saturating_mul(1 << tries.min(10)).min(WAIT_MAX)),
    }
}

/// When any line was last answered: what tells a service that is away from a line that it cannot take.
struct Away {
    patience: Duration,
    heard: Mutex<Instant>,
}

impl Away {
    fn new(patience: Duration) -> Self {
        Self {
            patience,
            heard: Mutex::new(Instant::now()),
        }
    }

    fn heard(&self) {
        *self.heard.lock().expect("no holder of this lock panics") = Instant::now();
    }

    fn too_long(&self) -> bool {
        self.heard.lock().expect("no holder of this lock panics").elapsed() > self.patience
    }
}

/// The lines of `file` that are not blank, each with where in the file it ends.
fn lines(file: File) -> impl Stream<Item = Result<(Line, u64)>> {
    let start = (BufReader::new(file), 0_u64, 0_u64);
    stream::try_unfold(start, |(mut reader, mut number, mut end)| async move {
        loop {
            let mut bytes = Vec::new();
            let read = (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes).await? as u64;
            if read == 0 {
                return Ok(None);
            }
            number += 1;
            end += read;
            if read == LINE_BYTES_MAX && !bytes.ends_with(b"\n") {
                anyhow::bail!("line {number} is longer than {LINE_BYTES_MAX} bytes");
            }
            let text = String::from_utf8(bytes).with_context(|| format!("line {number} is not UTF-8"))?;
            let text = text.trim();
            if !text.is_empty() {
                let line = Line {
                    number,
                    text: text.to_owned(),
                };
                return Ok(Some(((line, end), (reader, number, end))));
            }
        }
    })
}

/// What an answer means that is no success: whether to try again, and else why not.
pub(super) async fn not_taken(response: Response) -> Try {
    let status = response.status();
    let after = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|seconds| seconds.trim().parse().ok())
        .map(Duration::from_secs);
    let why = problem(status, &response.bytes().await.unwrap_or_default());
    if status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::REQUEST_TIMEOUT || status.is_server_error() {
        Try::Again { why, after }
    } else {
        Try::Done(Outcome::Refused(why))
    }
}

/// A request that had no answer: the service may be away, and the request may have been taken.
pub(super) fn unanswered(error: &reqwest::Error) -> Try {
    let mut why = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        why = format!("{why}: {cause}");
        source = cause.source();
    }
    Try::Again { why, after: None }
}

/// A problem+json body as one line for people: each field at fault, else the detail, else the title.
pub(super) fn problem(status: StatusCode, body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    let fields: Vec<String> = body
        .get("errors")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|error| {
            Some(format!(
                "{} {}",
                error.get("field")?.as_str()?,
                error.get("detail")?.as_str()?
            ))
        })
        .collect();
    let why = match (fields.is_empty(), text("detail"), text("title")) {
        (false, ..) => fields.join("; "),
        (true, Some(detail), _) => detail.to_owned(),
        (true, None, Some(title)) => title.to_owned(),
        (true, None, None) => status.canonical_reason().unwrap_or("no reason given").to_owned(),
    };
    format!("{} {why}", status.as_u16())
}

impl Summary {
    fn of(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            lines: 0,
            accepted: 0,
            already_there: 0,
            unfinished: 0,
            refused: 0,
            outcomes: std::collections::BTreeMap::new(),
            wanting: Vec::new(),
            elapsed_ms: 0,
            per_second: 0.0,
            broken_off: None,
        }
    }

    fn count(&mut self, line: u64, outcome: Outcome) {
        self.lines += 1;
        let wanting = match outcome {
            Outcome::Accepted(what) => {
                self.accepted += 1;
                *self.outcomes.entry(what).or_default() += 1;
                None
            }
            Outcome::AlreadyThere(what) => {
                self.already_there += 1;
                *self.outcomes.entry(what).or_default() += 1;
                None
            }
            Outcome::Unfinished(what) => {
                self.unfinished += 1;
                let why = format!("not ended: {what}");
                *self.outcomes.entry(what).or_default() += 1;
                Some(why)
            }
            Outcome::Refused(why) => {
                self.refused += 1;
                Some(why)
            }
        };
        if let Some(why) = wanting.filter(|_| self.wanting.len() < SHOWN_MAX) {
            self.wanting.push(Wanting { line, why });
        }
    }

    fn end(&mut self, elapsed: Duration) {
        self.elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        self.per_second = (self.lines as f64 / elapsed.as_secs_f64().max(0.001) * 10.0).round() / 10.0;
        self.wanting.sort_by_key(|wanting| wanting.line);
    }

    /// Whether all of the file is where it belongs.
    pub(super) fn is_well(&self) -> bool {
        self.refused == 0 && self.unfinished == 0 && self.broken_off.is_none()
    }

    /// Prints it.
    pub(super) fn print(&self, output: output::Output) {
        if output == output::Output::Json {
            output::json(self);
            return;
        }
        output::line(format_args!(
            "{} of {} in {}, {} a second\n",
            output::bold(output::counted(self.lines, "line")),
            self.file.display(),
            output::span(self.elapsed_ms.cast_signed()),
            self.per_second
        ));
        let mut table = output::Table::new(&["", ">"]);
        table.row(["accepted".to_owned(), output::count(self.accepted)]);
        table.row(["already there".to_owned(), output::count(self.already_there)]);
        for (what, number) in [("not ended", self.unfinished), ("refused", self.refused)] {
            if number > 0 {
                table.row([
                    output::bad(what).to_string(),
                    output::bad(output::count(number)).to_string(),
                ]);
            }
        }
        table.row([String::new(), String::new()]);
        for (what, number) in &self.outcomes {
            table.row([what.clone(), output::count(*number)]);
        }
        for text in table.lines().iter().skip(1) {
            output::line(format_args!("  {text}"));
        }
        self.print_wanting();
    }

    fn print_wanting(&self) {
        if !self.wanting.is_empty() {
            output::line("");
        }
        for Wanting { line, why } in &self.wanting {
            output::line(format_args!("  {} {why}", output::bad(format_args!("line {line}"))));
        }
        let more = self.refused + self.unfinished - self.wanting.len() as u64;
        if more > 0 {
            output::line(format_args!("  … and {more} more"));
        }
        if let Some(why) = &self.broken_off {
            let why = format!("broken off: {why}");
            output::line(format_args!(
                "\n{}\nRun the same command again to resume: what is there already has no second effect.",
                output::bad(why)
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn import(text: &str, patience: Duration, answer: impl Fn(&Line, u32) -> Try) -> Summary {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("lines.ndjson");
        std::fs::write(&file, text).unwrap();
        let plan = Plan {
            concurrency: 2,
            patience,
        };
        run(&file, plan, "line", async |line, tries| answer(line, tries))
            .await
            .unwrap()
    }

    fn accepted() -> Try {
        Try::Done(Outcome::Accepted("placed".to_owned()))
    }

    #[tokio::test]
    async fn every_line_but_blank_ones_is_sent_and_a_refused_one_is_named() {
        let summary = import("a\n\nb\r\nc", Duration::from_secs(60), |line, _| {
            match line.text.as_str() {
                "b" => Try::Done(Outcome::Refused("422 no".to_owned())),
                _ => accepted(),
            }
        })
        .await;
        assert_eq!((summary.lines, summary.accepted, summary.refused), (3, 2, 1));
        assert_eq!(
            (summary.wanting[0].line, summary.wanting[0].why.as_str()),
            (3, "422 no")
        );
        assert!(!summary.is_well());
    }

    #[tokio::test]
    async fn a_busy_server_is_asked_again() {
        let busy = || Try::Again {
            why: "503".to_owned(),
            after: Some(Duration::ZERO),
        };
        let summary = import("a\nb\n", Duration::from_secs(60), |_, tries| {
            if tries < 2 { busy() } else { accepted() }
        })
        .await;
        assert_eq!(summary.accepted, 2);
        assert!(summary.is_well());
    }

    #[tokio::test]
    async fn a_server_that_stays_away_ends_the_import() {
        let away = || Try::Again {
            why: "connection refused".to_owned(),
            after: None,
        };
        let summary = import("a\nb\nc\n", Duration::ZERO, |_, _| away()).await;
        assert_eq!(summary.broken_off.as_deref(), Some("connection refused"));
        assert_eq!(summary.lines, 0);
    }

    #[test]
    fn a_problem_says_which_field_and_why() {
        let body = br#"{"title":"The request is not valid","errors":[{"field":"lines[0].quantity","detail":"must be at least 1"}]}"#;
        assert_eq!(
            problem(StatusCode::UNPROCESSABLE_ENTITY, body),
            "422 lines[0].quantity must be at least 1"
        );
        assert_eq!(problem(StatusCode::BAD_GATEWAY, b"<html>"), "502 Bad Gateway");
    }

    #[test]
    fn a_wait_is_bounded_whatever_the_server_asks_for() {
        assert!(pause(40, None) <= WAIT_MAX);
        assert!(pause(0, Some(Duration::from_secs(86_400))) <= WAIT_MAX + FIRST_WAIT);
    }
}
