//! `/config` and `/mode`, of a subject and of all.

use axum::extract::State;
use axum::response::Response;
use deadpool_postgres::Pool;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::answer;
use super::extract::{Body, Named, Params, check_subject};
use crate::error::Error;
use crate::level::Level;
use crate::mode::Mode;
use crate::settings;
use crate::store::Settings;

/// A change of configuration, which is also its answer.
#[derive(Deserialize, Serialize)]
pub(super) struct ConfigChange {
    #[serde(skip_serializing_if = "Option::is_none")]
    compatibility: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    normalize: Option<bool>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(skip_serializing_if = "Option::is_none")]
    compatibility_level: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    normalize: Option<bool>,
}

impl From<Settings> for Config {
    fn from(settings: Settings) -> Self {
        Config {
            compatibility_level: settings.level.map(Level::word),
            normalize: settings.normalize,
        }
    }
}

pub(super) async fn config(State(pool): State<Pool>, named: Named, params: Params) -> Result<Response, Error> {
    let settings = settings::config(&pool, named.optional_subject(), params.flag("defaultToGlobal")).await?;
    Ok(answer(&Config::from(settings)))
}

pub(super) async fn put_config(
    State(pool): State<Pool>,
    named: Named,
    Body(change): Body<ConfigChange>,
) -> Result<Response, Error> {
    let level = match change.compatibility.as_deref() {
        Some(word) => Some(Level::from_word(word).ok_or(Error::InvalidLevel)?),
        None => None,
    };
    named.optional_subject().map_or(Ok(()), check_subject)?;
    settings::put_config(&pool, named.optional_subject(), level, change.normalize).await?;
    Ok(answer(&change))
}

pub(super) async fn delete_config(State(pool): State<Pool>, named: Named) -> Result<Response, Error> {
    Ok(answer(&Config::from(
        settings::delete_config(&pool, named.optional_subject()).await?,
    )))
}

/// A change of mode, which is also its answer.
#[derive(Deserialize, Serialize)]
pub(super) struct ModeChange {
    mode: Option<String>,
}

pub(super) async fn mode(State(pool): State<Pool>, named: Named, params: Params) -> Result<Response, Error> {
    let mode = settings::mode(&pool, named.optional_subject(), params.flag("defaultToGlobal")).await?;
    Ok(answer(&json!({ "mode": mode.word() })))
}

pub(super) async fn put_mode(
    State(pool): State<Pool>,
    named: Named,
    params: Params,
    Body(change): Body<ModeChange>,
) -> Result<Response, Error> {
    named.optional_subject().map_or(Ok(()), check_subject)?;
    let mode = change
        .mode
        .as_deref()
        .and_then(Mode::from_word)
        .ok_or(Error::InvalidMode)?;
    settings::put_mode(&pool, named.optional_subject(), mode, params.flag("force")).await?;
    Ok(answer(&change))
}

pub(super) async fn delete_mode(State(pool): State<Pool>, named: Named) -> Result<Response, Error> {
    let mode = settings::delete_mode(&pool, named.optional_subject()).await?;
    Ok(answer(&json!({ "mode": mode.word() })))
}
