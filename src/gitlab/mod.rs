//! How we talk with GitLab.

pub mod webhook;
