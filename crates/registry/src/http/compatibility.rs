//! `/compatibility`: would this schema be registered?

use axum::extract::State;
use axum::response::Response;
use deadpool_postgres::Pool;
use serde_json::json;

use super::answer;
use super::extract::{Body, Named, Params};
use crate::error::Error;
use crate::schemas::{self, Against, Submitted, VersionId};

pub(super) async fn with_all(
    State(pool): State<Pool>,
    named: Named,
    params: Params,
    Body(submitted): Body<Submitted>,
) -> Result<Response, Error> {
    let checked = schemas::check(&pool, named.subject(), Against::All, &submitted).await;
    verdict(checked, params.flag("verbose"))
}

pub(super) async fn with_version(
    State(pool): State<Pool>,
    named: Named,
    params: Params,
    Body(submitted): Body<Submitted>,
) -> Result<Response, Error> {
    let against = Against::Version(VersionId::parse(named.version())?);
    let checked = schemas::check(&pool, named.subject(), against, &submitted).await;
    verdict(checked, params.flag("verbose"))
}

/// The answer. To those who want to know more, an invalid schema is one more way to be incompatible.
fn verdict(checked: Result<Vec<String>, Error>, verbose: bool) -> Result<Response, Error> {
    let messages = match checked {
        Err(Error::InvalidSchema(message)) if verbose => vec![message],
        other => other?,
    };
    if verbose {
        return Ok(answer(
            &json!({ "is_compatible": messages.is_empty(), "messages": messages }),
        ));
    }
    Ok(answer(&json!({ "is_compatible": messages.is_empty() })))
}
