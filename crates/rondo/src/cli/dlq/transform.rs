//! `rondo dlq redrive --transform`: what a record says is mended by a patch, and encoded again.
//!
//! ```text
//!   bytes ─ writer's schema ─► JSON ─ patch ─► JSON ─ named schema, its defaults ─► bytes
//! ```
//!
//! The original bytes stay as they are in the dead letter; what is made here is kept beside them, in the campaign.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use common::codec::{self, Codec, WriterSchema};
use common::parking::DeadLetter;
use json_patch::Patch;
use serde_json::{Value, json};

/// Longest patch file that is read.
const PATCH_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Which schema a mended value is encoded with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// The newest of the record's subject.
    Newest,
    /// The one with this id.
    Id(u32),
}

impl FromStr for Encoding {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "newest" => Ok(Self::Newest),
            id => id
                .parse()
                .map(Self::Id)
                .map_err(|_| "a schema is given by its id in the registry, or as `newest`".to_owned()),
        }
    }
}

/// What is done to each record.
pub(super) struct Transform {
    file: PathBuf,
    patch: Change,
    /// How it is encoded; as it was, if nothing is said.
    encoding: Option<Encoding>,
    /// What its bytes were really written with.
    writer: Option<u32>,
}

enum Change {
    /// RFC 6902: a list of operations.
    Patch(Patch),
    /// RFC 7396: an object that is laid over the value.
    Merge(Value),
    /// Only encoded again.
    None,
}

/// A record before and after.
pub(super) struct Changed {
    pub(super) before: Value,
    pub(super) after: Value,
    pub(super) schema_id: u32,
    pub(super) bytes: Vec<u8>,
}

impl Transform {
    /// Reads the patch. `None` if nothing is to be changed at all.
    pub(super) fn read(file: Option<&Path>, encoding: Option<Encoding>, writer: Option<u32>) -> Result<Option<Self>> {
        let Some(file) = file else {
            let asked = encoding.is_some() || writer.is_some();
            return Ok(asked.then(|| Self {
                file: PathBuf::new(),
                patch: Change::None,
                encoding,
                writer,
            }));
        };
        let shown = file.display();
        let length = std::fs::metadata(file)
            .with_context(|| format!("{shown} cannot be read"))?
            .len();
        ensure!(
            length <= PATCH_BYTES_MAX,
            "{shown} has {length} bytes; a patch has {PATCH_BYTES_MAX} at most"
        );
        let text = std::fs::read_to_string(file).with_context(|| format!("{shown} cannot be read"))?;
        let value: Value = serde_json::from_str(&text).with_context(|| format!("{shown} is no JSON"))?;
        let patch = match value {
            Value::Array(_) => {
                let patch = serde_json::from_value(value);
                Change::Patch(patch.with_context(|| format!("{shown} is an array, but no JSON Patch (RFC 6902)"))?)
            }
            Value::Object(_) => Change::Merge(value),
            _ => bail!(
                "{shown} is neither a JSON Patch (RFC 6902: an array of operations) nor a merge patch (RFC 7396: an object)"
            ),
        };
        Ok(Some(Self {
            file: file.to_owned(),
            patch,
            encoding,
            writer,
        }))
    }

    /// What a campaign remembers of it.
    pub(super) fn as_json(&self) -> Value {
        let (kind, patch) = match &self.patch {
            Change::Patch(patch) => ("json_patch", serde_json::to_value(patch).unwrap_or_default()),
            Change::Merge(patch) => ("merge_patch", patch.clone()),
            Change::None => ("none", Value::Null),
        };
        let schema = match self.encoding {
            None => Value::Null,
            Some(Encoding::Newest) => "newest".into(),
            Some(Encoding::Id(id)) => id.into(),
        };
        json!({ "file": self.file, "kind": kind, "patch": patch, "schema": schema, "writer_schema": self.writer })
    }

    /// What becomes of one record.
    pub(super) async fn apply(&self, codec: &Codec, letter: &DeadLetter) -> Result<Changed> {
        let value = letter.record.value.as_deref().unwrap_or_default();
        let (writer_id, before) = self.decoded(codec, value).await?;
        let mut after = before.clone();
        match &self.patch {
            Change::Patch(patch) => json_patch::patch(&mut after, patch).context("the patch does not apply")?,
            Change::Merge(patch) => json_patch::merge(&mut after, patch),
            Change::None => {}
        }
        let writer = codec.schema(writer_id).await?;
        let schema_id = match self.encoding {
            None => writer_id,
            Some(Encoding::Id(id)) => id,
            Some(Encoding::Newest) => newest(codec, &letter.record.topic, &writer).await?,
        };
        let schema = codec.schema(schema_id).await?;
        if let Some(event_type) = &letter.event_type {
            ensure!(
                **event_type == *schema.name,
                "schema {schema_id} is of {}, and the record is a {event_type}",
                schema.name
            );
        }
        let bytes = codec::from_json(schema_id, &schema, &after)?;
        // What the consumer will read, defaults included.
        let after = codec.to_json(&bytes).await?;
        Ok(Changed {
            before,
            after,
            schema_id,
            bytes,
        })
    }

    /// What the bytes say, by the schema that they name or the one that they were really written with.
    async fn decoded(&self, codec: &Codec, value: &[u8]) -> Result<(u32, Value)> {
        let Some(id) = self.writer else {
            let (id, _) = codec::split(value)?;
            let said = codec.to_json(value).await.context(
                "it does not decode; if its bytes were written with another schema than they name, say which by \
                 --writer-schema",
            )?;
            return Ok((id, said));
        };
        let schema = codec.schema(id).await?;
        // With the wire format's header or without it.
        let datum = codec::split(value).map_or(value, |(_, datum)| datum);
        let said = codec::read_datum(datum, &schema.schema)
            .or_else(|error| codec::read_datum(value, &schema.schema).map_err(|_| error))
            .with_context(|| format!("it does not decode with schema {id} either"))?;
        Ok((id, said))
    }
}

async fn newest(codec: &Codec, topic: &str, writer: &Arc<WriterSchema>) -> Result<u32> {
    let text: Value = serde_json::from_str(&writer.text).unwrap_or_default();
    let namespace = text.get("namespace").and_then(Value::as_str).unwrap_or_default();
    let subject = format!("{topic}-{namespace}.{}", writer.name);
    codec
        .registry()
        .newest(&subject)
        .await
        .with_context(|| format!("the registry does not tell the newest schema of {subject}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Transform>> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("patch.json");
        std::fs::write(&file, text).unwrap();
        Transform::read(Some(&file), None, None)
    }

    #[test]
    fn an_array_is_a_json_patch_and_an_object_a_merge_patch() {
        let patch = read(r#"[{ "op": "replace", "path": "/a", "value": 1 }]"#)
            .unwrap()
            .unwrap();
        assert_eq!(patch.as_json()["kind"], "json_patch");
        let merge = read(r#"{ "a": 1 }"#).unwrap().unwrap();
        assert_eq!(merge.as_json()["kind"], "merge_patch");
        for (wrong, why) in [("7", "neither"), ("[1]", "no JSON Patch"), ("{", "no JSON")] {
            let error = read(wrong).err().map(|error| format!("{error:#}")).unwrap_or_default();
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }

    #[test]
    fn without_a_patch_a_record_may_still_be_encoded_anew() {
        assert!(Transform::read(None, None, None).unwrap().is_none());
        let anew = Transform::read(None, Some(Encoding::Newest), None).unwrap().unwrap();
        assert_eq!(anew.as_json()["schema"], "newest");
        assert_eq!("7".parse(), Ok(Encoding::Id(7)));
        assert!("latest".parse::<Encoding>().is_err());
    }
}
