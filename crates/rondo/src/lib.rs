//! The binary's parts as a library, so that the integration tests run what `rondo` runs.

pub mod cli;
pub mod init;
pub mod serve;
pub mod system;
#[cfg(feature = "embedded")]
pub mod up;
