//! Request headers that change what a request means: `Idempotency-Key`, `Prefer: wait`, `traceparent`.

use std::time::Duration;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::problem::Problem;
use crate::telemetry::TraceContext;

/// `Idempotency-Key`: names one intention, however often it is sent.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// `Prefer` (RFC 7240).
pub const PREFER: HeaderName = HeaderName::from_static("prefer");
/// `Preference-Applied` (RFC 7240).
pub const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// `traceparent` (W3C Trace Context).
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Longest idempotency key.
pub const IDEMPOTENCY_KEY_LENGTH_MAX: usize = 255;
/// Longest time that `Prefer: wait` can hold an answer; a longer wish is cut to this.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// The value of `Idempotency-Key`: 1 to 255 visible ASCII characters, bare or as a quoted string.
///
/// Extract `Option<IdempotencyKey>` where it may be absent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// Reads a header's value. The quoted form of the IETF draft means the text between the quotes.
    ///
    /// # Errors
    /// A 400 [`Problem`].
    pub fn parse(value: &[u8]) -> Result<Self, Problem> {
        let refused = |detail: &str| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                "invalid-idempotency-key",
                "The idempotency key cannot be used",
            )
            .detail(detail)
        };
        let text = std::str::from_utf8(value).unwrap_or("\0").trim();
        let key = match text.strip_prefix('"') {
            None => text.to_owned(),
            Some(rest) => {
                unquoted(rest).ok_or_else(|| refused("its quotes do not close, or it has a stray backslash"))?
            }
        };
        if key.is_empty() {
            return Err(refused("it is empty"));
        }
        if key.len() > IDEMPOTENCY_KEY_LENGTH_MAX {
            return Err(refused("it is longer than 255 characters"));
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(refused("it has characters other than visible ASCII"));
        }
        Ok(Self(key))
    }

    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The content of a structured-field string whose opening quote is gone.
fn unquoted(rest: &str) -> Option<String> {
    let mut text = String::with_capacity(rest.len());
    let mut characters = rest.chars();
    loop {
        match characters.next()? {
            '\\' => text.push(characters.next().filter(|escaped| matches!(escaped, '"' | '\\'))?),
            '"' => break,
            other => text.push(other),
        }
    }
    // Parameters may follow; none has a meaning here.
    let after = characters.as_str().trim_start();
    (after.is_empty() || after.starts_with(';')).then_some(text)
}

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let found = <Self as OptionalFromRequestParts<S>>::from_request_parts(parts, state).await?;
        found.ok_or_else(|| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                "missing-idempotency-key",
                "The request needs an idempotency key",
            )
            .detail("send the header `Idempotency-Key` with a value of your own, the same on each retry")
        })
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Option<Self>, Problem> {
        let mut values = parts.headers.get_all(&IDEMPOTENCY_KEY).iter();
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => Self::parse(value.as_bytes()).map(Some),
            (Some(_), Some(_)) => Err(Problem::malformed("there is more than one Idempotency-Key")),
        }
    }
}

/// How long the client would wait for an end: `Prefer: wait=SECONDS`, at most [`WAIT_MAX`].
///
/// A preference that is not understood is no preference (RFC 7240).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreferWait(pub Option<Duration>);

impl PreferWait {
    /// Reads all `Prefer` headers; the first `wait` counts.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let wait = headers
            .get_all(&PREFER)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .find_map(|preference| {
                let (name, value) = preference.split(';').next()?.split_once('=')?;
                let is_wait = name.trim().eq_ignore_ascii_case("wait");
                is_wait.then(|| value.trim().trim_matches('"').parse::<u64>().ok())
            })
            .flatten();
        Self(wait.map(|seconds| Duration::from_secs(seconds).min(WAIT_MAX)))
    }

    /// The `Preference-Applied` header of an answer that was waited for.
    pub fn applied(self) -> Option<(HeaderName, HeaderValue)> {
        let seconds = self.0?.as_secs();
        let value = HeaderValue::from_str(&format!("wait={seconds}")).expect("digits are a header value");
        Some((PREFERENCE_APPLIED, value))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PreferWait {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::from_headers(&parts.headers))
    }
}

/// The caller's place in its trace, if it sent one that is valid.
pub fn trace_context(headers: &HeaderMap) -> Option<TraceContext> {
    headers.get(&TRACEPARENT)?.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_bare_and_quoted_to_the_same_text() {
        let bare = IdempotencyKey::parse(b"8e03978e-40d5-43dd-bc93-6894a57f9324").unwrap();
        let quoted = IdempotencyKey::parse(b"\"8e03978e-40d5-43dd-bc93-6894a57f9324\"").unwrap();
        assert_eq!(bare, quoted);
        assert_eq!(IdempotencyKey::parse(br#""a\"b\\c";x=1"#).unwrap().as_str(), r#"a"b\c"#);
    }

    #[test]
    fn a_key_that_cannot_be_compared_safely_is_refused() {
        for value in [
            "",
            "  ",
            "\"\"",
            "a b",
            "\"open",
            "\"a\\x\"",
            "\"a\"b",
            "schlüssel",
            &"k".repeat(256),
        ] {
            assert!(IdempotencyKey::parse(value.as_bytes()).is_err(), "{value}");
        }
        assert!(IdempotencyKey::parse("k".repeat(255).as_bytes()).is_ok());
        assert!(IdempotencyKey::parse(b"\xff").is_err());
    }

    fn prefer(values: &[&'static str]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(PREFER, HeaderValue::from_static(value));
        }
        PreferWait::from_headers(&headers).0.map(|wait| wait.as_secs())
    }

    #[test]
    fn a_wish_to_wait_is_found_among_others_and_bounded() {
        assert_eq!(prefer(&["wait=10"]), Some(10));
        assert_eq!(prefer(&["respond-async, Wait = 5; x=y"]), Some(5));
        assert_eq!(prefer(&["return=minimal", "wait=\"7\""]), Some(7));
        assert_eq!(prefer(&["wait=3600"]), Some(60));
        assert_eq!(prefer(&["wait=0"]), Some(0));
        assert_eq!(prefer(&["wait=soon"]), None);
        assert_eq!(prefer(&["wait=-1"]), None);
        assert_eq!(prefer(&[]), None);
    }

    #[test]
    fn an_applied_wait_says_what_was_applied() {
        let (name, value) = PreferWait(Some(Duration::from_secs(60))).applied().unwrap();
        assert_eq!(
            (name.as_str(), value.to_str().unwrap()),
            ("preference-applied", "wait=60")
        );
        assert_eq!(PreferWait(None).applied(), None);
    }
}
