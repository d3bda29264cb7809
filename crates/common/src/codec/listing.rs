//! What a registry holds: subjects, versions, levels, and its own opinion of a schema. For starting and for tools; nothing
//! here stands on the path of an event.

use std::collections::BTreeSet;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use super::Registry;

/// Subjects of one page.
const SUBJECTS_PAGE: usize = 1_000;
/// Most subjects that are listed.
const SUBJECTS_MAX: usize = 100_000;

/// One version of one subject, as the registry has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Where.
    pub subject: String,
    /// Its number there, from 1.
    pub version: u32,
    /// Its id, which is in the bytes.
    pub id: u32,
    /// Its text.
    pub text: String,
}

/// Why the registry did not say.
#[derive(Debug, thiserror::Error)]
pub enum ListingError {
    /// It could not be asked.
    #[error("the schema registry at {url} did not answer")]
    Unavailable {
        /// Where it was looked for.
        url: String,
        /// The client's error.
        #[source]
        source: reqwest::Error,
    },
    /// It answered, but not that.
    #[error("the schema registry refuses {path}: {message} ({status})")]
    Refused {
        /// What was asked.
        path: String,
        /// The status of its answer.
        status: StatusCode,
        /// Its words.
        message: String,
    },
}

impl Registry {
    /// All subjects, in order. Asked for in pages, since a registry may leave out what goes beyond its own bound and say
    /// nothing.
    ///
    /// # Errors
    /// See [`ListingError`].
    pub async fn subjects(&self) -> Result<BTreeSet<String>, ListingError> {
        let mut all = BTreeSet::new();
        while all.len() < SUBJECTS_MAX {
            let path = format!("subjects?limit={SUBJECTS_PAGE}&offset={}", all.len());
            let page = texts(&self.ask(Method::GET, &path, None).await?);
            let (before, length) = (all.len(), page.len());
            all.extend(page);
            // One that does not know pages has told all of them at once.
            if length < SUBJECTS_PAGE || all.len() == before {
                break;
            }
        }
        Ok(all)
    }

    /// Where schema `id` is registered: subjects with versions.
    ///
    /// # Errors
    /// See [`ListingError`].
    pub async fn places(&self, id: u32) -> Result<Vec<(String, u32)>, ListingError> {
        let found = self
            .ask(Method::GET, &format!("schemas/ids/{id}/versions"), None)
            .await?;
        let places = found.as_array().into_iter().flatten();
        let place = |place: &Value| {
            let version = place["version"].as_u64()?.try_into().ok()?;
            Some((place["subject"].as_str()?.to_owned(), version))
        };
        Ok(places.filter_map(place).collect())
    }

    /// The numbers of the versions of `subject`, ascending; none for a subject that is not there.
    ///
    /// # Errors
    /// See [`ListingError`].
    pub async fn versions(&self, subject: &str) -> Result<Vec<u32>, ListingError> {
        match self
            .ask(Method::GET, &format!("subjects/{subject}/versions"), None)
            .await
        {
            Ok(found) => {
                let numbers = found.as_array().into_iter().flatten();
                let mut versions: Vec<u32> = numbers.filter_map(|number| number.as_u64()?.try_into().ok()).collect();
                versions.sort_unstable();
                Ok(versions)
            }
            Err(ListingError::Refused { status, .. }) if status == StatusCode::NOT_FOUND => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// One version of `subject`.
    ///
    /// # Errors
    /// See [`ListingError`]; there may be no such version.
    pub async fn version(&self, subject: &str, version: u32) -> Result<Registered, ListingError> {
        let path = format!("subjects/{subject}/versions/{version}");
        let found = self.ask(Method::GET, &path, None).await?;
        Ok(Registered {
            subject: subject.to_owned(),
            version,
            id: found["id"]
                .as_u64()
                .and_then(|id| id.try_into().ok())
                .unwrap_or_default(),
            text: found["schema"].as_str().unwrap_or_default().to_owned(),
        })
    }

    /// The level that counts for `subject`: its own or the global one.
    ///
    /// # Errors
    /// See [`ListingError`].
    pub async fn level(&self, subject: &str) -> Result<String, ListingError> {
        let path = format!("config/{subject}?defaultToGlobal=true");
        match self.ask(Method::GET, &path, None).await {
            Err(ListingError::Refused { status, .. }) if status == StatusCode::NOT_FOUND => self.global_level().await,
            found => Ok(level_in(&found?)),
        }
    }

    /// The level of subjects that have none of their own.
    ///
    /// # Errors
    /// See [`ListingError`].
    pub async fn global_level(&self) -> Result<String, ListingError> {
        Ok(level_in(&self.ask(Method::GET, "config", None).await?))
    }

    /// What the registry would say to `text` as the next version of `subject`: nothing, or why not.
    ///
    /// # Errors
    /// See [`ListingError`].
    pub async fn objections(&self, subject: &str, text: &str) -> Result<Vec<String>, ListingError> {
        let path = format!("compatibility/subjects/{subject}/versions?verbose=true");
        let body = json!({ "schema": text, "schemaType": "AVRO" });
        match self.ask(Method::POST, &path, Some(&body)).await {
            Ok(found) if found["is_compatible"] == true => Ok(Vec::new()),
            Ok(found) => {
                let messages = objections(texts(&found["messages"]));
                let silent = vec!["it is not compatible, and the registry does not say why".to_owned()];
                Ok(if messages.is_empty() { silent } else { messages })
            }
            // A subject that is not there yet objects to nothing.
            Err(ListingError::Refused { status, .. }) if status == StatusCode::NOT_FOUND => Ok(Vec::new()),
            Err(ListingError::Refused { message, status, .. }) if status == StatusCode::UNPROCESSABLE_ENTITY => {
                Ok(vec![message])
            }
            Err(error) => Err(error),
        }
    }

    /// Registers `text` under `subject`, or finds it there; its id.
    ///
    /// # Errors
    /// See [`ListingError`]; a refusal carries the registry's words.
    pub async fn register_text(&self, subject: &str, text: &str) -> Result<u32, ListingError> {
        let body = json!({ "schema": text, "schemaType": "AVRO" });
        let path = format!("subjects/{subject}/versions");
        let found = self.ask(Method::POST, &path, Some(&body)).await?;
        Ok(found["id"]
            .as_u64()
            .and_then(|id| id.try_into().ok())
            .unwrap_or_default())
    }

    /// A request with login, to the first of the registry's URLs.
    pub(super) fn request(&self, method: Method, url: &str, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{url}/{path}"));
        let request = match (&self.login.basic, &self.login.token) {
            (Some((user, password)), _) => request.basic_auth(user, Some(password)),
            (None, Some(token)) => request.bearer_auth(token),
            (None, None) => request,
        };
        request.header("content-type", "application/vnd.schemaregistry.v1+json")
    }

    /// Asks each of the registry's URLs in turn until one answers.
    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ListingError> {
        let mut last = None;
        for url in self.login.url.split(',') {
            let url = url.trim().trim_end_matches('/');
            let mut request = self.request(method.clone(), url, path);
            if let Some(body) = body {
                request = request.body(body.to_string());
            }
            let unavailable = |source| ListingError::Unavailable {
                url: url.to_owned(),
                source,
            };
            let answer = match request.send().await {
                Ok(answer) if answer.status().is_server_error() => {
                    last = answer.error_for_status().err().map(unavailable);
                    continue;
                }
                Ok(answer) => answer,
                Err(error) => {
                    last = Some(unavailable(error));
                    continue;
                }
            };
            let status = answer.status();
            let text = answer.text().await.map_err(unavailable)?;
            let found: Value = serde_json::from_str(&text).unwrap_or_default();
            if status.is_success() {
                return Ok(found);
            }
            return Err(ListingError::Refused {
                path: path.to_owned(),
                status,
                message: brief(found["message"].as_str().unwrap_or("no reason given")),
            });
        }
        Err(last.expect("a registry has at least one URL, and each was tried"))
    }
}

fn level_in(config: &Value) -> String {
    let level = config.get("compatibilityLevel").or_else(|| config.get("compatibility"));
    level.and_then(Value::as_str).unwrap_or("NONE").to_owned()
}

/// A registry's refusal without the whole text of the older schema, which Confluent's words end with and ours, too.
pub(super) fn brief(message: &str) -> String {
    match message.split_once(", {oldSchema: '") {
        Some((reasons, _)) if reasons.contains('[') => format!("{reasons}]"),
        Some((reasons, _)) => reasons.to_owned(),
        None => message.to_owned(),
    }
}

/// What is wrong, one entry each, and with which version; not the older schema's text, nor the level.
fn objections(messages: Vec<String>) -> Vec<String> {
    let version = messages
        .iter()
        .find_map(|message| message.strip_prefix("{oldSchemaVersion: ")?.strip_suffix('}'))
        .map(|version| format!("against version {version}: "))
        .unwrap_or_default();
    let told = messages
        .iter()
        .filter(|message| !message.starts_with("{oldSchema") && !message.starts_with("{validateFields"));
    told.map(|message| format!("{version}{message}")).collect()
}

fn texts(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRONG: &str = "{errorType:'TYPE_MISMATCH', description:'a field', additionalInfo:'reader type: STRING'}";

    #[test]
    fn a_refusal_is_told_without_the_older_schema() {
        let refusal = format!(
            "not compatible, details: [{WRONG}, {{oldSchemaVersion: 1}}, {{oldSchema: '{{\"type\":\"record\"}}'}}, {{validateFields: 'false'}}]"
        );
        assert_eq!(
            brief(&refusal),
            format!("not compatible, details: [{WRONG}, {{oldSchemaVersion: 1}}]")
        );
        assert_eq!(brief("no such subject"), "no such subject");
    }

    #[test]
    fn an_objection_names_the_version_that_it_is_held_against() {
        let messages = [
            WRONG,
            "{oldSchemaVersion: 3}",
            "{oldSchema: '…'}",
            "{validateFields: 'false'}",
        ];
        let told = objections(messages.map(str::to_owned).into());
        assert_eq!(told, [format!("against version 3: {WRONG}")]);
        assert_eq!(objections(vec!["no".to_owned()]), ["no"]);
    }
}
