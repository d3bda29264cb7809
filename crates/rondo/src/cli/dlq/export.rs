//! `rondo dlq export`: dead letters as lines of JSON, each with its bytes, what they say, and all that happened to it.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::campaigns;
use common::parking::DeadLetter;
use rdkafka::message::Headers as _;
use serde_json::{Value, json};

use super::list::summary;
use super::selection::{self, ByReason};
use super::{LetterId, show};
use crate::cli::target::remember_schemas;
use crate::cli::{Target, Verdict, output};

/// Steps of one letter's history that are written.
const HISTORY_MAX: i64 = 10_000;

/// What `dlq export` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    chosen: ByReason,
    /// Also those about which somebody has decided.
    #[arg(long)]
    all: bool,
    /// The file to write; stdout without it. It is there whole or not at all.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

/// Exports.
pub(super) async fn run(target: &Target, args: &Args) -> Result<Verdict> {
    let codec = target.codec()?;
    let mut file = args.to.as_deref().map(Beside::create).transpose()?;
    let bar = output::progress(None, "{spinner} {pos} dead letters  {elapsed}");
    let mut found = Vec::new();
    for (service, filter) in args
        .chosen
        .selection
        .filters(!args.all && !args.chosen.selection.names_each())
    {
        let client = target.database(service).await?;
        remember_schemas(&codec, &client).await?;
        selection::each(&client, &filter, usize::MAX, async |letter| {
            let history = campaigns::history(&client, letter.id, HISTORY_MAX).await?;
            let mut line = whole(service, &letter);
            let said = show::said(&codec, &letter).await;
            line["value"] = said.as_ref().ok().cloned().into();
            line["does_not_decode"] = said.err().into();
            line["history"] = show::history_json(service, &history);
            found.push(LetterId {
                service,
                row: letter.id,
            });
            bar.inc(1);
            match &mut file {
                Some(file) => file.line(&line),
                None => {
                    output::line(line);
                    Ok(())
                }
            }
        })
        .await?;
    }
    bar.finish_and_clear();
    if let Some(missing) = args.chosen.selection.missing(&found).first() {
        bail!("there is no dead letter {missing}; `rondo dlq list --all` lists those there are");
    }
    if let Some(file) = file {
        let shown = file.finish()?;
        let count = output::counted(found.len() as u64, "dead letter");
        eprintln!("{count} written to {}", shown.display());
    }
    Ok(Verdict::Done)
}

/// A file that takes its name when it is whole.
struct Beside {
    path: PathBuf,
    beside: PathBuf,
    writer: std::io::BufWriter<std::fs::File>,
}

impl Beside {
    fn create(path: &Path) -> Result<Self> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let beside = path.with_file_name(name);
        let file = std::fs::File::create(&beside).with_context(|| format!("{} cannot be written", beside.display()))?;
        Ok(Self {
            path: path.to_owned(),
            beside,
            writer: std::io::BufWriter::new(file),
        })
    }

    fn line(&mut self, line: &Value) -> Result<()> {
        writeln!(self.writer, "{line}").with_context(|| format!("{} cannot be written", self.beside.display()))
    }

    fn finish(self) -> Result<PathBuf> {
        let written = self
            .writer
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .and_then(|()| std::fs::rename(&self.beside, &self.path));
        written.with_context(|| format!("{} cannot be written", self.path.display()))?;
        Ok(self.path)
    }
}

/// A dead letter with its bytes.
fn whole(service: &str, letter: &DeadLetter) -> Value {
    let record = &letter.record;
    let headers: Vec<Value> = record
        .headers
        .iter()
        .flat_map(|headers| headers.iter())
        .map(|header| {
            json!({
                "name": header.key,
                "value": header.value.map(|value| show::header_text(Some(value))),
                "value_base64": header.value.map(|value| BASE64.encode(value)),
            })
        })
        .collect();
    let mut line = summary(service, letter);
    line["timestamp"] = json!(record.timestamp);
    line["record_key_base64"] = json!(record.key.as_deref().map(|key| BASE64.encode(key)));
    line["value_base64"] = json!(record.value.as_deref().map(|value| BASE64.encode(value)));
    line["headers"] = headers.into();
    line
}
