//! How asking GitLab for work goes, class by class: written by the askers, read by who publishes.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::handle::{IntakeState, IntakeWord};
use crate::domain::ClassName;

/// How asking goes, by class, for `/status` and `/health`.
#[derive(Debug, Default)]
pub(super) struct Board(Mutex<BTreeMap<ClassName, IntakeState>>);

impl Board {
    /// Changes what is said of a class.
    pub(super) fn post(&self, class: &ClassName, change: impl FnOnce(&mut IntakeState)) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || IntakeState { class: class.clone(), state: IntakeWord::Waiting, last_answer_at: None, error: None };
        change(all.entry(class.clone()).or_insert_with(fresh));
    }

    /// Forgets a class that asks no more.
    pub(super) fn forget(&self, class: &ClassName) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(class);
    }

    /// All classes that ask.
    pub(super) fn read(&self) -> Vec<IntakeState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
