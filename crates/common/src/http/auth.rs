//! The operator's bearer token.
//!
//! Where none is configured, everyone is an operator: that is for one's own machine. The token is compared in a time that
//! does not depend on where it differs.

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};

use super::problem::Problem;
use crate::config::Secret;

/// What an operator has to show; part of a router's state (`FromRef`), so that no route can forget it.
#[derive(Clone, Debug)]
pub struct OperatorToken(Option<Secret>);

impl OperatorToken {
    /// Operators show `token`; `None` leaves their endpoints open.
    pub fn new(token: Option<Secret>) -> Self {
        Self(token)
    }

    /// Whether nothing has to be shown.
    pub fn is_open(&self) -> bool {
        self.0.is_none()
    }

    fn accepts(&self, shown: &str) -> bool {
        self.0.as_ref().is_none_or(|token| equal(token.expose(), shown))
    }
}

/// Extracted where only an operator may pass; anyone else is answered 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operator;

/// Whether the request comes from an operator. A wrong token is answered 401 even where none is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaybeOperator(pub bool);

impl<S> FromRequestParts<S> for Operator
where
    S: Send + Sync,
    OperatorToken: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match MaybeOperator::from_request_parts(parts, state).await? {
            MaybeOperator(true) => Ok(Self),
            MaybeOperator(false) => Err(unauthorized("this needs the operator's token")),
        }
    }
}

impl<S> FromRequestParts<S> for MaybeOperator
where
    S: Send + Sync,
    OperatorToken: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let token = OperatorToken::from_ref(state);
        match bearer(&parts.headers) {
            _ if token.is_open() => Ok(Self(true)),
            None => Ok(Self(false)),
            Some(shown) if token.accepts(shown) => Ok(Self(true)),
            Some(_) => Err(unauthorized("the token is not the operator's")),
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?;
    // Credentials of another scheme are no operator's: shown, and wrong.
    let (scheme, token) = value.to_str().ok()?.trim().split_once(' ').unwrap_or_default();
    Some(if scheme.eq_ignore_ascii_case("bearer") {
        token.trim()
    } else {
        ""
    })
}

fn unauthorized(detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "Only an operator may do this")
        .detail(format!("{detail}; send `Authorization: Bearer TOKEN`"))
        .header(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer realm=\"operator\""),
        )
}

/// Compares hashes, all of both: neither the place of a difference nor the length shows in the time it takes.
fn equal(left: &str, right: &str) -> bool {
    let (left, right) = (Sha256::digest(left), Sha256::digest(right));
    let differences = left.iter().zip(right.iter()).fold(0, |found, (a, b)| found | (a ^ b));
    differences == 0
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::http::Request;
    use axum::routing::get;

    use super::*;
    use crate::http::server::tests::call;

    fn app(token: Option<&str>) -> Router {
        Router::new()
            .route("/operators", get(|_: Operator| async {}))
            .route(
                "/all",
                get(|MaybeOperator(operator): MaybeOperator| async move { operator.to_string() }),
            )
            .with_state(OperatorToken::new(token.map(Secret::from)))
    }

    async fn status(token: Option<&str>, path: &str, shown: Option<&str>) -> StatusCode {
        let mut request = Request::get(path);
        if let Some(shown) = shown {
            request = request.header(header::AUTHORIZATION, shown);
        }
        let response = call(&app(token), request.body(Body::empty()).unwrap()).await;
        if response.status() == StatusCode::UNAUTHORIZED {
            assert!(response.headers().contains_key(header::WWW_AUTHENTICATE));
        }
        response.status()
    }

    #[tokio::test]
    async fn only_the_right_token_opens_an_operators_endpoint() {
        for (shown, expected) in [
            (None, StatusCode::UNAUTHORIZED),
            (Some("Bearer wrong"), StatusCode::UNAUTHORIZED),
            (Some("Bearer "), StatusCode::UNAUTHORIZED),
            (Some("Basic cmlnaHQ="), StatusCode::UNAUTHORIZED),
            (Some("right-token"), StatusCode::UNAUTHORIZED),
            (Some("Bearer right-token"), StatusCode::OK),
            (Some("bearer  right-token"), StatusCode::OK),
        ] {
            assert_eq!(
                status(Some("right-token"), "/operators", shown).await,
                expected,
                "{shown:?}"
            );
        }
    }

    #[tokio::test]
    async fn without_a_configured_token_everyone_is_an_operator() {
        assert_eq!(status(None, "/operators", None).await, StatusCode::OK);
        assert_eq!(status(None, "/operators", Some("Bearer any")).await, StatusCode::OK);
    }

    #[tokio::test]
    async fn a_wrong_token_is_refused_even_where_none_is_needed() {
        assert_eq!(status(Some("right-token"), "/all", None).await, StatusCode::OK);
        assert_eq!(
            status(Some("right-token"), "/all", Some("Bearer wrong")).await,
            StatusCode::UNAUTHORIZED
        );
    }
}
