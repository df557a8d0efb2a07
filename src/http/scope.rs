//! Whose jobs a caller may submit and look at: everybody's, or those of the projects that their token is bound to.

use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;

use super::extract::who;
use super::problem::Problem;
use super::state::AppState;
use crate::config::Role;
use crate::domain::{FieldFault, Job, ProjectName, Source};
use crate::security::Principal;
use crate::store::Store;

/// The jobs that a caller may have to do with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All of them.
    All,
    /// Those of these projects that came through the API: what GitLab sends is GitLab's to show.
    Projects(Arc<[ProjectName]>),
}

impl Scope {
    fn of(known: Option<Principal>) -> Self {
        match known {
            Some(Principal { role: Role::Submitter, projects, .. }) => Self::Projects(projects),
            Some(_) | None => Self::All,
        }
    }

    fn holds(&self, job: &Job) -> bool {
        match self {
            Self::All => true,
            Self::Projects(projects) => job.spec.source == Source::Api && job.spec.project.as_ref().is_some_and(|project| projects.contains(project)),
        }
    }

    /// The job, if it is one of these; any other is none, as far as the caller is told.
    pub(super) fn only(&self, job: Job) -> Result<Job, Problem> {
        if self.holds(&job) { Ok(job) } else { Err(Problem::unknown_job(job.id.as_str())) }
    }

    /// The job with this id, if it is one of these.
    ///
    /// # Errors
    /// When there is none.
    pub(super) async fn job(&self, store: &dyn Store, id: &str) -> Result<Job, Problem> {
        self.only(super::jobs::known(store, id).await?)
    }

    /// The project of a job that is submitted: as it is named, or the only one there can be.
    ///
    /// # Errors
    /// Names the projects that it could be.
    pub fn project(&self, named: Option<ProjectName>) -> Result<Option<ProjectName>, FieldFault> {
        let Self::Projects(projects) = self else { return Ok(named) };
        match (named, &**projects) {
            (Some(named), _) if projects.contains(&named) => Ok(Some(named)),
            (None, [only]) => Ok(Some(only.clone())),
            (Some(_) | None, _) => {
                let allowed: Vec<&str> = projects.iter().map(ProjectName::as_str).collect();
                Err(FieldFault::new("project", format!("must be one of those that the token is for: {}", allowed.join(", "))))
            }
        }
    }
}

/// A caller who may look at some jobs.
#[derive(Debug, Clone)]
pub struct Watcher(pub Scope);

/// A caller who may submit some jobs.
#[derive(Debug, Clone)]
pub struct Submitter(pub Scope);

impl<S: Send + Sync> FromRequestParts<S> for Watcher
where
    AppState: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        who(parts, &AppState::from_ref(state)).map(|known| Self(Scope::of(known)))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Submitter
where
    AppState: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match who(parts, &AppState::from_ref(state))? {
            Some(Principal { role: Role::Viewer, .. }) => Err(Problem::Forbidden { needs: Role::Operator }),
            known => Ok(Self(Scope::of(known))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::contract_tests::{command, gitlab, of_project, requirement};

    #[test]
    fn what_gitlab_sends_is_not_a_projects_to_see() {
        let scope = Scope::Projects([ProjectName::from_trusted("a/b")].into());
        let (own, theirs) = (command(requirement("default", 1), 0), gitlab(requirement("default", 1), 0, 7));
        let [own, theirs] = [own, theirs].map(|new| of_project(new, "a/b").job);
        assert!(scope.holds(&own) && !scope.holds(&theirs));
        assert!(Scope::All.holds(&theirs));
    }
}
