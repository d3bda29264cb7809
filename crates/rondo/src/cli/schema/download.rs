//! `schema download`: the registry's schemas as files, and the form that schemas are written in.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use avro::Defaults;
use clap::Args as ClapArgs;
use serde_json::json;

use super::registered::{all, prefix};
use crate::cli::output::{self, Table, bad};
use crate::cli::{GlobalArgs, Output, Target, Verdict};

/// What `schema download` takes.
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// The directory to write to; made if it is not there.
    directory: PathBuf,
    /// Write over files that differ.
    #[arg(long)]
    force: bool,
}

/// Runs `schema download`: `<service>/<Event>.v<N>.avsc`, where the topic is `<service>.events`.
pub(super) async fn run(args: &Args, global: &GlobalArgs) -> Result<Verdict> {
    let target = Target::locate(global)?;
    let registry = target.registry()?;
    let prefix = prefix(&target)?;
    let mut files = Vec::new();
    let mut differing = 0;
    for (subject, versions) in all(&registry, &prefix).await? {
        let Some(rest) = subject.strip_prefix(prefix.as_str()) else {
            continue;
        };
        let Some((topic, full_name)) = rest.split_once('-') else {
            continue;
        };
        let service = safe(topic.strip_suffix(".events").unwrap_or(topic));
        let event = safe(full_name.rsplit('.').next().unwrap_or(full_name));
        for found in versions {
            let path = args
                .directory
                .join(&service)
                .join(format!("{event}.v{}.avsc", found.version));
            let state = write(&path, &found.text, args.force)?;
            differing += usize::from(state == "differs");
            files.push(
                json!({ "file": path.display().to_string(), "subject": subject, "id": found.id, "state": state }),
            );
        }
    }
    match global.output {
        Output::Json => output::json(&files),
        Output::Table => {
            let mut table = Table::new(&["state", ">id", "file"]);
            for file in &files {
                let text = |key: &str| file[key].as_str().unwrap_or_default().to_owned();
                let state = text("state");
                let state = if state == "differs" {
                    bad(state).to_string()
                } else {
                    state
                };
                table.row([state, file["id"].to_string(), text("file")]);
            }
            table.print();
            if differing > 0 {
                output::line("files that differ were left as they are; --force writes over them");
            }
        }
    }
    Ok(Verdict::of(differing == 0))
}

/// A part of a subject as a file's name: it may not lead elsewhere.
fn safe(part: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "_-.".contains(c) {
            c
        } else {
            '_'
        }
    };
    let name: String = part.chars().map(plain).collect();
    if name.trim_matches('.').is_empty() {
        "_".to_owned()
    } else {
        name
    }
}

/// Writes a schema, pretty, unless the file says the same already.
fn write(path: &Path, text: &str, force: bool) -> Result<&'static str> {
    let parse = |text: &str| {
        avro::parse(text, Defaults::Unchecked)
            .ok()
            .map(|schema| schema.canonical())
    };
    let there = std::fs::read_to_string(path).ok();
    if let Some(there) = &there {
        if parse(there).is_some() && parse(there) == parse(text) {
            return Ok("the same");
        }
        if !force {
            return Ok("differs");
        }
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).with_context(|| format!("{} cannot be made", directory.display()))?;
    }
    std::fs::write(path, pretty(text) + "\n").with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(if there.is_some() { "replaced" } else { "written" })
}

/// JSON with a line for each member, in the order that it came in.
pub(super) fn pretty(text: &str) -> String {
    let (mut out, mut depth, mut in_text, mut escaped) = (String::with_capacity(text.len() * 2), 0_usize, false, false);
    let mut rest = text.chars().peekable();
    let newline = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    while let Some(c) = rest.next() {
        if in_text {
            out.push(c);
            in_text = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            '{' | '[' => {
                out.push(c);
                while rest.next_if(|next| next.is_whitespace()).is_some() {}
                if rest.peek().is_some_and(|next| matches!(next, '}' | ']')) {
                    continue;
                }
                depth += 1;
                newline(&mut out, depth);
            }
            '}' | ']' => {
                if !out.ends_with(['{', '[']) {
                    depth = depth.saturating_sub(1);
                    newline(&mut out, depth);
                }
                out.push(c);
            }
            ',' => {
                out.push(c);
                newline(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_whitespace() => {}
            c => {
                in_text = c == '"';
                out.push(c);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_schema_is_written_out_in_its_own_order() {
        let text = r#"{"type":"record","name":"R","doc":"a {b} \"c\", d","fields":[ ]}"#;
        assert_eq!(
            pretty(text),
            "{\n  \"type\": \"record\",\n  \"name\": \"R\",\n  \"doc\": \"a {b} \\\"c\\\", d\",\n  \"fields\": []\n}"
        );
        assert_eq!(
            serde_json::from_str::<Value>(&pretty(text)).unwrap(),
            serde_json::from_str::<Value>(text).unwrap()
        );
    }

    #[test]
    fn a_subject_cannot_lead_out_of_the_directory() {
        assert_eq!(safe("../x"), ".._x");
        assert_eq!(safe(".."), "_");
    }
}
