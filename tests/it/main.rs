//! The integration tests.

mod docker;
