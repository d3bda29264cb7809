//! The pieces of an HTTP API: what a request may carry, how a refusal looks, and a server that stays upright under load.
//!
//! ```text
//!  accept (bounded) ─► observe ─► shed ─► time limit ─► route ─► extractors ─► handler
//!                                                            └─ Problem ◄──┘
//! ```
//!
//! Every refusal, the framework's own included, is `application/problem+json` (RFC 9457). Nothing here knows a business.

pub mod auth;
pub mod headers;
pub mod health;
pub mod json;
pub mod load;
mod observe;
pub mod page;
pub mod params;
pub mod problem;
pub mod server;

pub use auth::{MaybeOperator, Operator, OperatorToken};
pub use headers::{IdempotencyKey, PreferWait};
pub use health::Health;
pub use json::Json;
pub use page::{Listing, Page};
pub use params::{Path, Query};
pub use problem::{FieldError, Problem};
