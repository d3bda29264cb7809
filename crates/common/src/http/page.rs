//! Listings in pages: `?limit=` and an opaque `?cursor=`.
//!
//! A cursor holds the sort key of the last item of a page, so that pages neither skip nor repeat when rows are added.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::params::Query;
use super::problem::{FieldError, Problem};

/// Items of a page unless the client asks for another number.
pub const LIMIT_DEFAULT: u32 = 50;
/// Most items of a page.
pub const LIMIT_MAX: u32 = 200;
/// Longest cursor that is looked at.
const CURSOR_LENGTH_MAX: usize = 1_024;

/// The query parameters of a page, as OpenAPI shows them.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageParams {
    /// How many items, at most 200.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Which page is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// How many items: 1 to [`LIMIT_MAX`].
    pub limit: u32,
    cursor: Option<String>,
}

impl Page {
    /// How many rows to ask the database for: one more than the page holds tells whether another page follows.
    pub fn rows(&self) -> i64 {
        i64::from(self.limit) + 1
    }

    /// Where the page before ended, or `None` for the first page.
    ///
    /// # Errors
    /// A 422 [`Problem`] for a cursor that this endpoint did not make.
    pub fn after<C: DeserializeOwned>(&self) -> Result<Option<C>, Problem> {
        let Some(cursor) = &self.cursor else {
            return Ok(None);
        };
        let decoded = (cursor.len() <= CURSOR_LENGTH_MAX)
            .then(|| URL_SAFE_NO_PAD.decode(cursor).ok())
            .flatten()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        match decoded {
            Some(position) => Ok(Some(position)),
            None => Err(Problem::invalid([FieldError::new(
                "cursor",
                "is not the next_cursor of a page of this listing",
            )])),
        }
    }
}

impl TryFrom<PageParams> for Page {
    type Error = Problem;

    fn try_from(params: PageParams) -> Result<Self, Problem> {
        let limit = params.limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(Problem::invalid([FieldError::new(
                "limit",
                format!("must be from 1 to {LIMIT_MAX}"),
            )]));
        }
        Ok(Self {
            limit,
            cursor: params.cursor,
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Page {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(params) = Query::<PageParams>::from_request_parts(parts, state).await?;
        params.try_into()
    }
}

/// One page of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Listing<T> {
    /// The items, in the listing's order.
    pub items: Vec<T>,
    /// Where the next page begins; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

impl<T> Listing<T> {
    /// Makes a page of up to [`Page::rows`] items; `position` is the sort key of an item.
    pub fn new<C: Serialize>(page: &Page, mut items: Vec<T>, position: impl Fn(&T) -> C) -> Self {
        let more = items.len() > page.limit as usize;
        items.truncate(page.limit as usize);
        let next_cursor = items.last().filter(|_| more).map(|last| {
            let bytes = serde_json::to_vec(&position(last)).expect("a sort key is plain data");
            URL_SAFE_NO_PAD.encode(bytes)
        });
        Self { items, next_cursor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(limit: Option<u32>, cursor: Option<&str>) -> Result<Page, Problem> {
        let cursor = cursor.map(str::to_owned);
        PageParams { limit, cursor }.try_into()
    }

    #[test]
    fn the_pages_of_a_listing_hold_each_item_once() {
        let all: Vec<u32> = (0..25).collect();
        let mut seen = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let page = page(Some(10), cursor.as_deref()).unwrap();
            let after: Option<u32> = page.after().unwrap();
            let rows: Vec<u32> = all
                .iter()
                .copied()
                .filter(|item| after.is_none_or(|after| *item > after))
                .collect();
            let rows = rows.into_iter().take(page.rows() as usize).collect();
            let listing = Listing::new(&page, rows, |item| *item);
            seen.extend(listing.items);
            match listing.next_cursor {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        assert_eq!(seen, all);
    }

    #[test]
    fn a_full_last_page_has_no_cursor() {
        let page = page(Some(2), None).unwrap();
        assert_eq!(Listing::new(&page, vec![1, 2], |item| *item).next_cursor, None);
    }

    #[test]
    fn limits_and_cursors_from_elsewhere_are_refused() {
        assert!(page(Some(0), None).is_err());
        assert!(page(Some(201), None).is_err());
        assert_eq!(page(None, None).unwrap().limit, 50);
        for cursor in ["%%%", "bm90IGpzb24", &"A".repeat(2_000)] {
            assert!(page(None, Some(cursor)).unwrap().after::<u32>().is_err(), "{cursor}");
        }
    }
}
