//! Tests of the steps: see `step.rs`.
