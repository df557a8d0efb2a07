//! The integration tests.

mod bench;
mod docker;
