//! Path and query parameters whose refusals are problems like all others.

use axum::extract::{FromRequestParts, Path as AxumPath, Query as AxumQuery};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// The query's parameters. Fields that `T` does not know are ignored, so that several extractors share a query.
#[derive(Clone, Copy, Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match AxumQuery::from_request_parts(parts, state).await {
            Ok(AxumQuery(value)) => Ok(Self(value)),
            Err(rejection) => Err(Problem::malformed(format!("the query: {}", innermost(&rejection)))),
        }
    }
}

/// The path's parameters.
#[derive(Clone, Copy, Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match AxumPath::from_request_parts(parts, state).await {
            Ok(AxumPath(value)) => Ok(Self(value)),
            Err(rejection) => Err(Problem::malformed(format!("the path: {}", innermost(&rejection)))),
        }
    }
}

/// The framework wraps what is wrong in its own words; the cause is what helps.
fn innermost(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .last()
        .map_or_else(String::new, ToString::to_string)
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use axum::routing::get;
    use serde::Deserialize;

    use super::*;
    use crate::http::server::tests::{body_json, call};

    #[derive(Deserialize)]
    struct Filter {
        weight: Option<u32>,
    }

    #[tokio::test]
    async fn a_bad_parameter_is_named_in_a_problem() {
        let show = |Path(id): Path<u32>, Query(filter): Query<Filter>| async move {
            format!("{id} {}", filter.weight.unwrap_or_default())
        };
        let app = Router::new().route("/parcels/{id}", get(show));
        let fetch = |uri: &str| call(&app, Request::get(uri).body(Body::empty()).unwrap());
        assert_eq!(fetch("/parcels/7?weight=3&limit=9").await.status(), StatusCode::OK);
        let query = fetch("/parcels/7?weight=much").await;
        assert_eq!(query.status(), StatusCode::BAD_REQUEST);
        let detail = body_json(query).await["detail"].to_string();
        assert!(detail.contains("weight"), "{detail}");
        let path = fetch("/parcels/seven").await;
        assert_eq!(path.status(), StatusCode::BAD_REQUEST);
        let detail = body_json(path).await["detail"].to_string();
        assert!(detail.contains("seven"), "{detail}");
    }
}
