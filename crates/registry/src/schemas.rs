//! Registering, looking up and checking schemas: the rules, in the order in which Confluent applies them.

use deadpool_postgres::{GenericClient, Pool};
use serde::Deserialize;

use crate::error::Error;
use crate::level::Earlier;
use crate::mode::Mode;
use crate::settings;
use crate::store::{self, Version};
use avro::{Defaults, Schema, parse};

/// A schema as it comes in a request. What Confluent also takes, metadata and rules, is read past.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Submitted {
    schema: Option<String>,
    schema_type: Option<String>,
    references: Option<Vec<serde::de::IgnoredAny>>,
    /// Given when importing.
    id: Option<i32>,
    /// Given when importing, or to insist on the next one.
    version: Option<i32>,
}

impl Submitted {
    /// The schema's text, if there is any.
    fn text(&self) -> Option<&str> {
        self.schema.as_deref().filter(|text| !text.trim().is_empty())
    }

    /// The id that an import insists on.
    fn own_id(&self) -> Option<i32> {
        self.id.filter(|id| *id >= 0)
    }

    /// The version that the request insists on.
    fn own_version(&self) -> Option<i32> {
        self.version.filter(|version| *version > 0)
    }

    /// Refuses what this registry does not do.
    fn check_kind(&self) -> Result<(), Error> {
        match self.schema_type.as_deref() {
            None | Some("AVRO") => {}
            Some(kind) => {
                return Err(Error::InvalidSchema(format!(
                    "Invalid schema type {kind}: this registry holds AVRO schemas only"
                )));
            }
        }
        if self
            .references
            .as_ref()
            .is_some_and(|references| !references.is_empty())
        {
            return Err(Error::InvalidSchema(
                "Invalid schema: references to other schemas are not supported; define the types in place".to_owned(),
            ));
        }
        Ok(())
    }
}

/// A schema that was read, and the text it is stored by.
struct Read {
    schema: Schema,
    text: String,
}

fn read(text: &str, defaults: Defaults, normalize: bool) -> Result<Read, Error> {
    let schema = parse(text, defaults).map_err(|error| match error {
        avro::Error::TooLarge(_) => Error::SchemaTooLarge,
        other => Error::InvalidSchema(format!("Invalid schema of type AVRO, details: {other}")),
    })?;
    let schema = if normalize { schema.normalized() } else { schema };
    let text = schema.canonical();
    Ok(Read { schema, text })
}

/// Reads back what was stored.
pub(crate) fn read_stored(version: &Version) -> Result<Schema, Error> {
    parse(&version.text, Defaults::Unchecked).map_err(|error| Error::Corrupt {
        id: version.schema_id,
        reason: error.to_string(),
    })
}

/// Registers a schema under `subject`, or finds it there, and returns its id.
pub(crate) async fn register(pool: &Pool, subject: &str, submitted: &Submitted, normalize: bool) -> Result<i32, Error> {
    submitted.check_kind()?;
    let mut db = pool.get().await?;
    let normalize = normalize || settings::in_scope(&db, subject).await?.normalize;
    // What is there already is answered whatever the mode, so that clients which register at start keep working.
    if submitted.own_version().is_none()
        && let Some(existing) = find(&db, subject, submitted, normalize, false).await?
        && submitted.own_id().is_none_or(|id| id == existing.schema_id)
    {
        return Ok(existing.schema_id);
    }
    let tx = db.transaction().await?;
    let highest = store::lock(&tx).await?;
    let scope = settings::in_scope(&tx, subject).await?;
    check_mode(subject, submitted, scope.mode)?;
    let versions = store::versions(&tx, subject).await?;
    let live: Vec<&Version> = versions.iter().rev().filter(|version| !version.deleted).collect();
    let text = match (submitted.text(), live.first()) {
        (Some(text), _) => text,
        // Confluent takes an empty schema for the latest one, with other metadata.
        (None, Some(latest)) if scope.mode != Mode::Import => latest.text.as_str(),
        _ => return Err(Error::InvalidSchema("Empty schema".to_owned())),
    };
    let defaults = if submitted.own_id().is_some() {
        Defaults::Unchecked
    } else {
        Defaults::Checked
    };
    let new = read(text, defaults, normalize)?;

    let ids = store::ids_of(&tx, &new.text).await?;
    let known = match submitted.own_id() {
        Some(own) => ids.contains(&own).then_some(own),
        // A text that an import gave several ids keeps the one that this subject knows.
        None => ids
            .iter()
            .copied()
            .find(|id| live.iter().any(|version| version.schema_id == *id))
            .or(ids.first().copied()),
    };
    if let Some(id) = known
        && submitted.own_version().is_none()
        && live.iter().any(|version| version.schema_id == id)
    {
        return Ok(id);
    }
    if scope.mode != Mode::Import {
        let details = judge(scope.level, &new.schema, &live)?;
        if !details.is_empty() {
            return Err(Error::Incompatible {
                subject: subject.to_owned(),
                details,
            });
        }
    }

    let next = versions.last().map_or(0, |version| version.version).checked_add(1);
    let version = submitted
        .own_version()
        .or(next)
        .ok_or_else(|| Error::NotPermitted("No version is left".to_owned()))?;
    if next != Some(version) && scope.mode != Mode::Import {
        return Err(Error::InvalidSchema(
            "Version is not one more than previous version".to_owned(),
        ));
    }
    let id = known.or(submitted.own_id()).or(highest.checked_add(1));
    let id = id.ok_or_else(|| Error::NotPermitted("No schema id is left".to_owned()))?;
    if store::schema_text(&tx, id).await?.is_some_and(|text| text != new.text) {
        return Err(Error::NotPermitted(format!(
            "Overwrite new schema with id {id} is not permitted."
        )));
    }
    store::add_schema(&tx, id, &new.text).await?;
    store::put_version(&tx, subject, version, id).await?;
    tx.commit().await?;
    tracing::info!(subject, version, schema.id = id, "a schema was registered");
    Ok(id)
}

fn check_mode(subject: &str, submitted: &Submitted, mode: Mode) -> Result<(), Error> {
    let wanted = match (mode.is_read_only(), submitted.own_id()) {
        (true, _) => return Err(Error::NotPermitted(format!("Subject {subject} is in read-only mode"))),
        (false, Some(_)) if mode != Mode::Import => "import",
        (false, None) if mode != Mode::ReadWrite => "read-write",
        _ => return Ok(()),
    };
    Err(Error::NotPermitted(format!(
        "Subject {subject} is not in {wanted} mode"
    )))
}

/// Finds the version of `subject` that has the submitted schema.
pub(crate) async fn look_up(
    pool: &Pool,
    subject: &str,
    submitted: &Submitted,
    normalize: bool,
    deleted: bool,
) -> Result<Version, Error> {
    submitted.check_kind()?;
    let db = pool.get().await?;
    let normalize = normalize || settings::in_scope(&db, subject).await?.normalize;
    if let Some(found) = find(&db, subject, submitted, normalize, deleted).await? {
        return Ok(found);
    }
    if store::has_versions(&db, Some(subject), deleted).await? {
        return Err(Error::SchemaNotFound);
    }
    Err(Error::SubjectNotFound(subject.to_owned()))
}

async fn find<C: GenericClient>(
    db: &C,
    subject: &str,
    submitted: &Submitted,
    normalize: bool,
    deleted: bool,
) -> Result<Option<Version>, Error> {
    let Some(text) = submitted.text() else {
        return Ok(None);
    };
    let read = read(text, Defaults::Unchecked, normalize)?;
    store::version_of(db, subject, &read.text, deleted).await
}

/// What a new schema is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Against {
    /// One version.
    Version(VersionId),
    /// As many as the subject's level says.
    All,
}

/// Checks a schema as registering it would, and returns what makes it incompatible.
pub(crate) async fn check(
    pool: &Pool,
    subject: &str,
    against: Against,
    submitted: &Submitted,
) -> Result<Vec<String>, Error> {
    let db = pool.get().await?;
    let versions = match against {
        Against::All => store::versions(&db, subject).await?,
        Against::Version(VersionId::Latest) => store::latest(&db, subject).await?.into_iter().collect(),
        Against::Version(VersionId::Number(number)) => {
            vec![version(&db, subject, VersionId::Number(number), false).await?]
        }
    };
    let scope = settings::in_scope(&db, subject).await?;
    submitted.check_kind()?;
    let text = submitted
        .text()
        .ok_or_else(|| Error::InvalidSchema("Empty schema".to_owned()))?;
    let new = read(text, Defaults::Checked, false)?;
    let live: Vec<&Version> = versions.iter().rev().filter(|version| !version.deleted).collect();
    judge(scope.level, &new.schema, &live)
}

/// Holds `new` against `live` versions, latest first.
fn judge(level: crate::Level, new: &Schema, live: &[&Version]) -> Result<Vec<String>, Error> {
    let earlier = live
        .iter()
        .map(|version| Ok((version.version, read_stored(version)?)))
        .collect::<Result<Vec<_>, Error>>()?;
    Ok(level.judge(
        new,
        earlier.iter().map(|(version, schema)| Earlier {
            version: *version,
            schema,
        }),
    ))
}

/// A version as a request names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VersionId {
    /// `latest` or `-1`.
    Latest,
    /// 1 or more.
    Number(i32),
}

impl VersionId {
    /// Reads `latest` in any case, or a number as Java's `Integer.parseInt` does.
    pub(crate) fn parse(text: &str) -> Result<VersionId, Error> {
        let trimmed = text.trim();
        if trimmed.eq_ignore_ascii_case("latest") {
            return Ok(VersionId::Latest);
        }
        match trimmed.parse::<i32>() {
            Ok(-1) => Ok(VersionId::Latest),
            Ok(number) if number > 0 => Ok(VersionId::Number(number)),
            Ok(number) => Err(Error::InvalidVersion(number.to_string())),
            Err(_) => Err(Error::InvalidVersion(text.to_owned())),
        }
    }

    /// The number by which messages speak of it.
    fn number(self) -> i32 {
        match self {
            VersionId::Latest => -1,
            VersionId::Number(number) => number,
        }
    }
}

/// One version of `subject`; a deleted one only if asked for. The latest is never a deleted one.
pub(crate) async fn version<C: GenericClient>(
    db: &C,
    subject: &str,
    id: VersionId,
    deleted: bool,
) -> Result<Version, Error> {
    let found = match id {
        VersionId::Latest => store::latest(db, subject).await?,
        VersionId::Number(number) => store::version(db, subject, number)
            .await?
            .filter(|found| deleted || !found.deleted),
    };
    match found {
        Some(found) => Ok(found),
        None if store::has_versions(db, Some(subject), deleted).await? => Err(Error::VersionNotFound(id.number())),
        None => Err(Error::SubjectNotFound(subject.to_owned())),
    }
}
