//! The Confluent wire format, Avro data, and the schema registry behind them.
//!
//! ```text
//! 0x00 | schema id, u32 big-endian | Avro datum
//! ```
//!
//! Writers pin their schema ids when the service starts, so that no registry call stands on the path of an event.
//! Readers resolve by the *writer's* schema straight into the newest wire type, and remember each id; a registry that is
//! away delays an unknown id, it never makes a message poison. Trailing bytes after a datum are refused: `0x00` plus a
//! valid prefix is not a valid message.

mod from_json;
mod listing;
mod older;

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use bytes::Bytes;
use schema_registry_converter::async_impl::schema_registry as registry;
use schema_registry_converter::error::SRCError;
use schema_registry_converter::schema_registry_common::{RawError, SchemaType, SrCall, SuppliedSchema};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_avro_fast::de::{DeError, DeserializerConfig, DeserializerState, read::SliceRead};
use serde_avro_fast::ser::SerializerConfig;

pub use from_json::{EncodeError, FitError, from_json};
pub use serde_avro_fast::Schema;
pub use serde_avro_fast::ser::SerError;

use crate::event::{EventSet, EventType, SchemaVersion};

pub use listing::{ListingError, Registered};
pub use older::WriteVersions;

/// First byte of every message in the Confluent wire format.
pub const MAGIC: u8 = 0;
/// Bytes before the datum: the magic byte and the schema id.
pub const HEADER_LENGTH: usize = 5;
/// Longest array or map that a datum may claim, so that four hostile bytes cannot ask for gigabytes.
pub const SEQUENCE_LENGTH_MAX: usize = 100_000;
/// Deepest nesting that is decoded.
pub const DEPTH_MAX: usize = 32;
/// How many foreign schemas are remembered; more than any real topic has.
pub const READER_SCHEMAS_MAX: usize = 10_000;
/// How long one registry request may take.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(5);

/// Why bytes are not one datum of a schema.
#[derive(Debug, thiserror::Error)]
pub enum DatumError {
    /// Truncated, or not of the schema's shape, or lacking a field that has no default.
    #[error("the Avro datum does not decode with the schema that its id names")]
    Malformed(#[source] DeError),
    /// A valid datum and then more.
    #[error("{0} bytes follow the Avro datum")]
    TrailingBytes(usize),
}

/// Why a message could not be decoded, and so what becomes of it.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// No value at all.
    #[error("the record has no value")]
    Empty,
    /// Not in the Confluent wire format.
    #[error("the value is not in the Confluent wire format: it begins with {0:#04x}, not 0x00 and a schema id")]
    NoMagicByte(u8),
    /// Too short to hold a schema id.
    #[error("the value has {0} bytes; a schema id alone needs {HEADER_LENGTH}")]
    TooShort(usize),
    /// The registry answered that it has no such schema.
    #[error("the registry has no schema with id {0}")]
    UnknownSchema(u32),
    /// The registry's schema text is not Avro as we read it.
    #[error("schema {id} is not a usable Avro record schema")]
    UnusableSchema {
        /// Its registry id.
        id: u32,
        /// What is wrong with it.
        #[source]
        source: serde_avro_fast::schema::SchemaError,
    },
    /// The bytes do not match the schema.
    #[error(transparent)]
    Datum(#[from] DatumError),
    /// The registry could not be asked. The only variant worth another try.
    #[error("the schema registry could not be asked for schema {id}")]
    RegistryUnavailable {
        /// The id in question.
        id: u32,
        /// The client's error.
        #[source]
        source: SRCError,
    },
}

impl DecodeError {
    /// Whether the same bytes can decode later without anyone mending them.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::RegistryUnavailable { .. })
    }
}

/// Why a service's own schemas could not be pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// Nobody registered this schema.
    #[error("schema {fullname} v{version} is not registered under subject {subject}; run `rondo init` first")]
    Unregistered {
        /// The record.
        fullname: &'static str,
        /// Its newest version in this build.
        version: u32,
        /// Where it was looked for.
        subject: String,
    },
    /// The registry refuses it.
    #[error(
        "the registry refuses schema {fullname} v{version} under subject {subject}: {reason}; `rondo schema check` says what to \
         change"
    )]
    Refused {
        /// The record.
        fullname: &'static str,
        /// Its newest version in this build.
        version: u32,
        /// Where it was to go.
        subject: String,
        /// The registry's words.
        reason: String,
    },
    /// The registry did not answer.
    #[error("the schema registry did not answer")]
    Unavailable(#[source] SRCError),
    /// The file in `schemas/` is not Avro.
    #[error("schema {fullname} of this build is not valid Avro")]
    Invalid {
        /// The record.
        fullname: &'static str,
        /// What is wrong with it.
        #[source]
        source: serde_avro_fast::schema::SchemaError,
    },
}

/// Where the registry is and how to log in.
#[derive(Clone)]
pub struct RegistrySettings {
    /// Base URL, or several separated by commas: the next is asked when one fails.
    pub url: String,
    /// User and password for basic authentication.
    pub basic: Option<(String, String)>,
    /// Bearer token.
    pub token: Option<String>,
}

/// A registry client that knows what is worth another try.
#[derive(Clone)]
pub struct Registry {
    settings: Arc<registry::SrSettings>,
    login: Arc<RegistrySettings>,
    http: reqwest::Client,
}

impl Registry {
    /// A client for `settings`; connects when first asked.
    ///
    /// # Errors
    /// The HTTP client cannot be built, for example without a TLS trust store.
    pub fn new(settings: &RegistrySettings) -> Result<Self, SRCError> {
        let mut urls = settings
            .url
            .split(',')
            .map(|url| url.trim().trim_end_matches('/').to_owned());
        let mut builder = registry::SrSettings::new_builder(urls.next().unwrap_or_default());
        for url in urls {
            builder.add_url(url);
        }
        if let Some((user, password)) = &settings.basic {
            builder.set_basic_authorization(user, Some(password));
        }
        if let Some(token) = &settings.token {
            builder.set_token_authorization(token);
        }
        let http = reqwest::Client::builder()
            .timeout(REGISTRY_TIMEOUT)
            .build()
            .map_err(unavailable)?;
        Ok(Self {
            settings: Arc::new(builder.set_timeout(REGISTRY_TIMEOUT).build()?),
            login: Arc::new(settings.clone()),
            http,
        })
    }

    /// The id under which `version` of `event_type` is registered for `topic`.
    ///
    /// # Errors
    /// See [`PinError`].
    pub async fn lookup(&self, topic: &str, event_type: &EventType, version: &SchemaVersion) -> Result<u32, PinError> {
        let subject = event_type.subject(topic);
        let body = serde_json::json!({ "schema": version.avsc, "schemaType": "AVRO" }).to_string();
        let unregistered = || PinError::Unregistered {
            fullname: event_type.fullname,
            version: version.version,
            subject: subject.clone(),
        };
        match registry::perform_sr_call(&self.settings, SrCall::PostForVersion(&subject, &body)).await {
            Ok(found) => found.id.ok_or_else(unregistered),
            Err(error) if answered(&error) => Err(unregistered()),
            Err(error) => Err(PinError::Unavailable(error)),
        }
    }

    /// Registers every version of `event_type` for `topic`, oldest first, and returns the newest one's id. With the first
    /// the subject gets `level`, so that the others are checked at that level: not every registry takes a level for a
    /// subject without a version.
    ///
    /// # Errors
    /// See [`PinError`]; [`PinError::Refused`] carries the registry's reason.
    pub async fn register(&self, topic: &str, event_type: &EventType, level: &str) -> Result<u32, PinError> {
        let subject = event_type.subject(topic);
        let mut id = 0;
        for (index, version) in event_type.versions.iter().enumerate() {
            let schema = SuppliedSchema::new(
                Some(event_type.fullname.to_owned()),
                SchemaType::Avro,
                version.avsc.to_owned(),
            );
            id = match registry::post_schema(&self.settings, subject.clone(), schema).await {
                Ok(registered) => registered.id,
                Err(error) if answered(&error) => {
                    return Err(PinError::Refused {
                        fullname: event_type.fullname,
                        version: version.version,
                        subject,
                        reason: listing::brief(&error.cause.clone().unwrap_or(error.error)),
                    });
                }
                Err(error) => return Err(PinError::Unavailable(error)),
            };
            if index == 0 {
                self.set_level(&subject, level).await?;
            }
        }
        Ok(id)
    }

    /// Sets the compatibility level of one subject, which the client crate has no call for.
    ///
    /// # Errors
    /// The registry did not answer, or refused.
    pub async fn set_level(&self, subject: &str, level: &str) -> Result<(), PinError> {
        let base = self
            .login
            .url
            .split(',')
            .next()
            .unwrap_or_default()
            .trim()
            .trim_end_matches('/');
        let body = serde_json::json!({ "compatibility": level }).to_string();
        let request = self
            .request(reqwest::Method::PUT, base, &format!("config/{subject}"))
            .body(body);
        let sent = request.send().await.and_then(reqwest::Response::error_for_status);
        sent.map(drop)
            .map_err(|error| PinError::Unavailable(unavailable(error)))
    }

    /// The newest schema of a subject: its id.
    ///
    /// # Errors
    /// The registry has no such subject, or does not answer.
    pub async fn newest(&self, subject: &str) -> Result<u32, SRCError> {
        let found = registry::perform_sr_call(&self.settings, SrCall::GetLatest(subject)).await?;
        found
            .id
            .ok_or_else(|| SRCError::new("the registry answers without an id", None, false))
    }

    /// The text of schema `id`.
    ///
    /// # Errors
    /// [`DecodeError::UnknownSchema`] when the registry says so, [`DecodeError::RegistryUnavailable`] when it says nothing.
    pub async fn schema_text(&self, id: u32) -> Result<String, DecodeError> {
        match registry::get_schema_by_id(id, &self.settings).await {
            Ok(found) => Ok(found.schema),
            Err(error) if answered(&error) => Err(DecodeError::UnknownSchema(id)),
            Err(source) => Err(DecodeError::RegistryUnavailable { id, source }),
        }
    }
}

fn unavailable(error: reqwest::Error) -> SRCError {
    SRCError::new(
        "HTTP request to the schema registry failed",
        Some(error.to_string()),
        true,
    )
}

/// Whether the registry itself refused, so that asking again would get the same answer. A 404 without a registry's error
/// code is a proxy's or another server's, and means no more than that the registry is not there now.
fn answered(error: &SRCError) -> bool {
    let refusal = std::error::Error::source(error).and_then(|source| source.downcast_ref::<RawError>());
    refusal.is_some_and(|refusal| matches!(refusal.error_code, 400 | 404 | 409 | 422 | 40_400..=40_499 | 40_900..=40_999 | 42_200..=42_299))
}

/// A schema as it was written, ready to decode with.
#[derive(Debug)]
pub struct WriterSchema {
    /// The record's simple name: the event's type.
    pub name: Box<str>,
    /// The parsed schema.
    pub schema: Schema,
    /// The text, as the registry has it.
    pub text: Box<str>,
}

impl WriterSchema {
    /// The schema `id`, from its text.
    ///
    /// # Errors
    /// [`DecodeError::UnusableSchema`].
    pub fn parse(id: u32, text: &str) -> Result<Self, DecodeError> {
        let unusable = |source| DecodeError::UnusableSchema { id, source };
        let schema: Schema = text.parse().map_err(unusable)?;
        let json: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
        let name = json.get("name").and_then(serde_json::Value::as_str).unwrap_or_default();
        let name = name.rsplit('.').next().unwrap_or_default().into();
        Ok(Self {
            name,
            schema,
            text: text.into(),
        })
    }
}

/// What one type is written with.
struct Pinned {
    id: u32,
    schema: Arc<WriterSchema>,
    /// The schema as JSON, where it is not the newest: values are made to fit it.
    older: Option<serde_json::Value>,
}

/// Encodes a service's own events and decodes everybody's.
pub struct Codec {
    registry: Registry,
    pinned: HashMap<&'static str, Pinned>,
    readers: RwLock<HashMap<u32, Arc<WriterSchema>>>,
    fetched: Mutex<Vec<u32>>,
}

impl Codec {
    /// A codec that only reads: for tools.
    pub fn reader(registry: Registry) -> Self {
        Self {
            registry,
            pinned: HashMap::new(),
            readers: RwLock::default(),
            fetched: Mutex::default(),
        }
    }

    /// Pins a schema of every type of `E`, registered for `topic`: the newest, where `written` names no older one.
    ///
    /// # Errors
    /// See [`PinError`]. The service must not take work after one.
    pub async fn pin<E: EventSet>(registry: Registry, topic: &str, written: &WriteVersions) -> Result<Self, PinError> {
        let mut codec = Self::reader(registry);
        for event_type in E::TYPES {
            let version = event_type.written(written);
            let id = codec.registry.lookup(topic, event_type, version).await?;
            codec.pin_as(event_type, version, id)?;
        }
        Ok(codec)
    }

    /// Pins `version` of one type to an id that is already known, for a start while the registry is away.
    ///
    /// # Errors
    /// [`PinError::Invalid`].
    pub fn pin_as(&mut self, event_type: &EventType, version: &SchemaVersion, id: u32) -> Result<(), PinError> {
        let text = version.avsc;
        let schema: Schema = text.parse().map_err(|source| PinError::Invalid {
            fullname: event_type.fullname,
            source,
        })?;
        let writer = Arc::new(WriterSchema {
            name: event_type.name.into(),
            schema,
            text: text.into(),
        });
        self.readers
            .write()
            .expect("no holder of this lock panics")
            .insert(id, writer.clone());
        let older = version.version != event_type.newest().version;
        let pinned = Pinned {
            id,
            schema: writer,
            older: older.then(|| serde_json::from_str(text).expect("what parses as Avro is JSON")),
        };
        self.pinned.insert(event_type.name, pinned);
        Ok(())
    }

    /// Every pinned type with its schema id and text.
    pub fn pinned(&self) -> impl Iterator<Item = (&'static str, u32, &str)> {
        self.pinned
            .iter()
            .map(|(name, pinned)| (*name, pinned.id, &*pinned.schema.text))
    }

    /// Keeps the text of schema `id`, as a database remembered it.
    ///
    /// # Errors
    /// [`DecodeError::UnusableSchema`].
    pub fn remember(&self, id: u32, text: &str) -> Result<Arc<WriterSchema>, DecodeError> {
        let schema = Arc::new(WriterSchema::parse(id, text)?);
        let mut readers = self.readers.write().expect("no holder of this lock panics");
        if readers.len() >= READER_SCHEMAS_MAX {
            readers.clear();
        }
        Ok(readers.entry(id).or_insert(schema).clone())
    }

    /// Schemas that the registry was asked for since the last call: for a database to remember.
    pub fn take_fetched(&self) -> Vec<(u32, Arc<WriterSchema>)> {
        let ids = std::mem::take(&mut *self.fetched.lock().expect("no holder of this lock panics"));
        let readers = self.readers.read().expect("no holder of this lock panics");
        ids.into_iter()
            .filter_map(|id| Some((id, readers.get(&id)?.clone())))
            .collect()
    }

    /// The registry client behind this codec.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Encodes `event` with its pinned schema: the very bytes for the event store and for Kafka.
    ///
    /// # Errors
    /// The value does not fit its schema; a defect of the wire type.
    ///
    /// # Panics
    /// If `E` was not pinned, a defect of the wiring.
    pub fn encode<E: EventSet>(&self, event: &E) -> Result<(u32, Bytes), SerError> {
        let Pinned { id, schema, older } = self
            .pinned
            .get(event.event_type().name)
            .expect("every type of the service's set is pinned");
        let mut buffer = Vec::with_capacity(128);
        buffer.push(MAGIC);
        buffer.extend_from_slice(&id.to_be_bytes());
        let written = match older {
            None => event.write(&schema.schema, buffer)?,
            Some(older) => write_datum(&older::fit(&event.to_json(), older), &schema.schema, buffer)?,
        };
        Ok((*id, written.into()))
    }

    /// The event that `payload` was [encoded](Self::encode) from, as its readers find it: an older version may have no room for
    /// all of it, and what is not in the log must not be in a state.
    ///
    /// # Errors
    /// What the older version holds is not enough for this build.
    pub fn as_written<E: EventSet>(&self, event: E, payload: &[u8]) -> Result<E, DecodeError> {
        let name = event.event_type().name;
        match self.pinned.get(name) {
            Some(Pinned {
                id,
                schema,
                older: Some(_),
            }) => match E::read(name, split(payload)?.1, &schema.schema) {
                Some(event) => Ok(event?),
                None => Err(DecodeError::UnknownSchema(*id)),
            },
            _ => Ok(event),
        }
    }

    /// The writer's schema of `value` and its datum, asking the registry for an id seen for the first time.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub async fn open<'a>(&self, value: &'a [u8]) -> Result<(Arc<WriterSchema>, &'a [u8]), DecodeError> {
        let (id, datum) = split(value)?;
        Ok((self.schema(id).await?, datum))
    }

    /// Schema `id`, asking the registry when it is seen for the first time.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub async fn schema(&self, id: u32) -> Result<Arc<WriterSchema>, DecodeError> {
        let known = self
            .readers
            .read()
            .expect("no holder of this lock panics")
            .get(&id)
            .cloned();
        match known {
            Some(schema) => Ok(schema),
            None => {
                let text = self.registry.schema_text(id).await?;
                self.fetched.lock().expect("no holder of this lock panics").push(id);
                self.remember(id, &text)
            }
        }
    }

    /// Decodes a stored event of the service's own set.
    ///
    /// # Errors
    /// See [`DecodeError`]; an unknown type is an unknown schema.
    pub async fn decode<E: EventSet>(&self, value: &[u8]) -> Result<E, DecodeError> {
        let (schema, datum) = self.open(value).await?;
        match E::read(&schema.name, datum, &schema.schema) {
            Some(event) => Ok(event?),
            None => Err(DecodeError::UnknownSchema(split(value)?.0)),
        }
    }

    /// Decodes any message into JSON, for people.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub async fn to_json(&self, value: &[u8]) -> Result<serde_json::Value, DecodeError> {
        let (schema, datum) = self.open(value).await?;
        Ok(read_datum(datum, &schema.schema)?)
    }
}

/// Splits a value into schema id and datum.
///
/// # Errors
/// The value is not in the Confluent wire format.
pub fn split(value: &[u8]) -> Result<(u32, &[u8]), DecodeError> {
    match value {
        [] => Err(DecodeError::Empty),
        [MAGIC, a, b, c, d, datum @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), datum)),
        [MAGIC, ..] => Err(DecodeError::TooShort(value.len())),
        [first, ..] => Err(DecodeError::NoMagicByte(*first)),
    }
}

/// Appends `event` as an Avro datum.
///
/// # Errors
/// The value does not fit the schema.
pub fn write_datum<T: Serialize>(event: &T, schema: &Schema, buffer: Vec<u8>) -> Result<Vec<u8>, SerError> {
    serde_avro_fast::to_datum(event, buffer, &mut SerializerConfig::new(schema))
}

/// JSON, for [`EventSet::to_json`].
pub type Json = serde_json::Value;

/// `event` as JSON.
///
/// # Panics
/// Never for a type that Avro can write: it has no maps with odd keys.
pub fn to_json<T: Serialize>(event: &T) -> Json {
    serde_json::to_value(event).expect("a wire type is JSON too")
}

/// Reads exactly one datum written with `writer`.
///
/// # Errors
/// See [`DatumError`].
pub fn read_datum<T: DeserializeOwned>(datum: &[u8], writer: &Schema) -> Result<T, DatumError> {
    let mut config = DeserializerConfig::new(writer);
    config.max_seq_size = SEQUENCE_LENGTH_MAX;
    config.allowed_depth = DEPTH_MAX;
    let mut state = DeserializerState::with_config(SliceRead::new(datum), config);
    let value = T::deserialize(state.deserializer()).map_err(DatumError::Malformed)?;
    let mut rest = Vec::new();
    state
        .into_reader()
        .read_to_end(&mut rest)
        .map_err(|_| DatumError::TrailingBytes(0))?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(DatumError::TrailingBytes(rest.len()))
    }
}
