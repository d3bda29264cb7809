//! `/subjects`: registering, looking up, listing, reading and deleting.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use deadpool_postgres::Pool;
use serde::Serialize;
use serde_json::json;

use super::answer;
use super::extract::{Body, Named, Params};
use super::media;
use super::schemas::NAMES_MAX;
use crate::error::Error;
use crate::schemas::{self, Submitted, VersionId};
use crate::store::{self, Show, Version};
use crate::subjects;

/// A version as answers have it. The type is left out, as Confluent does for Avro.
#[derive(Serialize)]
pub(super) struct Found<'a> {
    subject: &'a str,
    version: i32,
    id: i32,
    schema: &'a str,
}

impl<'a> From<&'a Version> for Found<'a> {
    fn from(version: &'a Version) -> Self {
        Found {
            subject: &version.subject,
            version: version.version,
            id: version.schema_id,
            schema: &version.text,
        }
    }
}

pub(super) async fn list(State(pool): State<Pool>, params: Params) -> Result<Response, Error> {
    let show = Show::from_flags(params.flag("deleted"), params.flag("deletedOnly"));
    let page = params.page(NAMES_MAX)?;
    Ok(answer(
        &store::subjects(&pool.get().await?, params.subject_prefix(), show, page).await?,
    ))
}

pub(super) async fn look_up(
    State(pool): State<Pool>,
    named: Named,
    params: Params,
    Body(submitted): Body<Submitted>,
) -> Result<Response, Error> {
    let (normalize, deleted) = (params.flag("normalize"), params.flag("deleted"));
    let found = schemas::look_up(&pool, named.subject(), &submitted, normalize, deleted).await?;
    Ok(answer(&Found::from(&found)))
}

pub(super) async fn delete(State(pool): State<Pool>, named: Named, params: Params) -> Result<Response, Error> {
    Ok(answer(
        &subjects::delete(&pool, named.subject(), params.flag("permanent")).await?,
    ))
}

pub(super) async fn versions(State(pool): State<Pool>, named: Named, params: Params) -> Result<Response, Error> {
    let show = Show::from_flags(params.flag("deleted"), params.flag("deletedOnly"));
    let page = params.page(NAMES_MAX)?;
    let db = pool.get().await?;
    if !store::has_versions(&db, Some(named.subject()), show != Show::Live).await? {
        return Err(Error::SubjectNotFound(named.subject().to_owned()));
    }
    Ok(answer(&store::version_numbers(&db, named.subject(), show, page).await?))
}

pub(super) async fn register(
    State(pool): State<Pool>,
    named: Named,
    params: Params,
    Body(submitted): Body<Submitted>,
) -> Result<Response, Error> {
    let subject = named.valid_subject()?;
    let id = schemas::register(&pool, subject, &submitted, params.flag("normalize")).await?;
    Ok(answer(&json!({ "id": id })))
}

pub(super) async fn version(State(pool): State<Pool>, named: Named, params: Params) -> Result<Response, Error> {
    Ok(answer(&Found::from(
        &find(&pool, &named, params.flag("deleted")).await?,
    )))
}

pub(super) async fn text(State(pool): State<Pool>, named: Named, params: Params) -> Result<Response, Error> {
    let found = find(&pool, &named, params.flag("deleted")).await?;
    Ok(media::plain(StatusCode::OK, found.text))
}

pub(super) async fn referenced_by(State(pool): State<Pool>, named: Named) -> Result<Response, Error> {
    find(&pool, &named, true).await?;
    // There are no references between schemas here.
    Ok(answer(&Vec::<i32>::new()))
}

pub(super) async fn delete_version(State(pool): State<Pool>, named: Named, params: Params) -> Result<Response, Error> {
    let permanent = params.flag("permanent");
    Ok(answer(
        &subjects::delete_version(&pool, named.subject(), named.version(), permanent).await?,
    ))
}

async fn find(pool: &Pool, named: &Named, deleted: bool) -> Result<Version, Error> {
    let version = VersionId::parse(named.version())?;
    schemas::version(&pool.get().await?, named.subject(), version, deleted).await
}
