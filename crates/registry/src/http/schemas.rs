//! `/schemas`: schemas by their ids, whichever subjects have them.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use deadpool_postgres::Pool;
use serde_json::json;

use super::answer;
use super::extract::{Named, Params};
use super::media;
use super::subjects::Found;
use crate::error::Error;
use crate::store::{self, Show};

/// The most schemas of one listing.
const SCHEMAS_MAX: i32 = 1_000;

/// The most subjects or versions of one listing.
pub(super) const NAMES_MAX: i32 = 20_000;

pub(super) async fn types() -> Response {
    answer(&["AVRO"])
}

pub(super) async fn list(State(pool): State<Pool>, params: Params) -> Result<Response, Error> {
    let show = Show::from_flags(params.flag("deleted"), false);
    let page = params.page(SCHEMAS_MAX)?;
    let db = pool.get().await?;
    let versions = store::all_versions(&db, params.subject_prefix(), show, params.flag("latestOnly"), page).await?;
    Ok(answer(&versions.iter().map(Found::from).collect::<Vec<_>>()))
}

pub(super) async fn by_id(State(pool): State<Pool>, named: Named, params: Params) -> Result<Response, Error> {
    let id = named.id()?;
    let db = pool.get().await?;
    let text = store::schema_text(&db, id).await?.ok_or(Error::SchemaIdNotFound(id))?;
    if params.flag("fetchMaxId") {
        return Ok(answer(
            &json!({ "schema": text, "maxId": store::highest_id(&db).await? }),
        ));
    }
    Ok(answer(&json!({ "schema": text })))
}

pub(super) async fn text_by_id(State(pool): State<Pool>, named: Named) -> Result<Response, Error> {
    let id = named.id()?;
    let text = store::schema_text(&pool.get().await?, id)
        .await?
        .ok_or(Error::SchemaIdNotFound(id))?;
    Ok(media::plain(StatusCode::OK, text))
}

pub(super) async fn subjects(State(pool): State<Pool>, named: Named, params: Params) -> Result<Response, Error> {
    let mut subjects: Vec<String> = uses(&pool, &named, &params)
        .await?
        .into_iter()
        .map(|(subject, _)| subject)
        .collect();
    subjects.dedup();
    Ok(answer(&subjects))
}

pub(super) async fn versions(State(pool): State<Pool>, named: Named, params: Params) -> Result<Response, Error> {
    let uses = uses(&pool, &named, &params).await?;
    let versions = uses
        .iter()
        .map(|(subject, version)| json!({ "subject": subject, "version": version }));
    Ok(answer(&versions.collect::<Vec<_>>()))
}

/// Subjects and versions that have a schema: none at all is fine, as long as the schema exists.
async fn uses(pool: &Pool, named: &Named, params: &Params) -> Result<Vec<(String, i32)>, Error> {
    let id = named.id()?;
    let page = params.page(NAMES_MAX)?;
    let db = pool.get().await?;
    if store::schema_text(&db, id).await?.is_none() {
        return Err(Error::SchemaNotFound);
    }
    let uses = store::uses_of(&db, id, Show::from_flags(params.flag("deleted"), false)).await?;
    Ok(uses
        .into_iter()
        .skip(page.offset as usize)
        .take(page.limit as usize)
        .collect())
}
