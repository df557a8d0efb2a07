//! Reads `[[projects]]`: what single projects are due beside others, and the most that they may have.

use super::Config;
use super::section::Section;
use crate::domain::{FieldFault, ProjectCap, ProjectName, Requirement};

/// What one project is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// `name`, needed: as jobs name it; for jobs of GitLab the project's path. Unique.
    pub name: ProjectName,
    /// `weight`, default 1: how many jobs of it start for one of a project that is not listed.
    pub weight: u32,
    /// `max_running`, default no limit: most of its jobs that start or run at once, on all machines together.
    pub max_running: Option<u32>,
    /// `max_gpus`, default no limit: most GPUs that its jobs have at once, on all machines together; a share of one counts as one.
    pub max_gpus: Option<u32>,
}

impl Project {
    /// Its limits, if it has any.
    fn cap(&self) -> Option<ProjectCap> {
        let Self { name, max_running, max_gpus, .. } = self;
        let cap = || ProjectCap { project: name.clone(), max_running: *max_running, max_gpus: *max_gpus };
        (max_running.is_some() || max_gpus.is_some()).then(cap)
    }
}

impl Config {
    /// The weight of the jobs of a project; jobs without one together weigh 1.
    #[must_use]
    pub fn weight_of(&self, project: Option<&ProjectName>) -> u32 {
        self.listed(project).map_or(1, |project| project.weight)
    }

    /// The limits of a project that has some.
    #[must_use]
    pub fn cap_of(&self, project: Option<&ProjectName>) -> Option<ProjectCap> {
        self.listed(project).and_then(Project::cap)
    }

    /// What is wrong with a job of a project that asks for more GPUs than the project may have at once.
    #[must_use]
    pub fn over_cap(&self, project: Option<&ProjectName>, requirement: &Requirement) -> Option<FieldFault> {
        let cap = self.cap_of(project)?;
        let most = cap.is_exceeded_by(requirement.gpu_count())?;
        Some(FieldFault::new("gpus.count", format!("must be at most {most}: project {} may have no more GPUs at once", cap.project)))
    }

    /// The limits of every project that has some.
    #[must_use]
    pub fn caps(&self) -> Vec<ProjectCap> {
        self.projects.iter().filter_map(Project::cap).collect()
    }

    fn listed(&self, project: Option<&ProjectName>) -> Option<&Project> {
        project.and_then(|name| self.projects.iter().find(|project| project.name == *name))
    }
}

/// Every project that is listed.
pub(super) fn read(whole: &mut Section<'_>) -> Vec<Project> {
    let mut names: Vec<ProjectName> = Vec::new();
    whole.each("projects", |section| {
        let name = section.required("name", ProjectName::parse);
        let weight = section.whole_number("weight", 1..=1000).unwrap_or(1);
        let max_running = section.whole_number("max_running", 1..=100_000);
        let max_gpus = section.whole_number("max_gpus", 1..=100_000);
        let name = name?;
        if names.contains(&name) {
            section.fault("name", "is the name of another project already");
        }
        names.push(name.clone());
        Some(Project { name, weight, max_running, max_gpus })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixture::load;

    #[test]
    fn who_is_not_listed_weighs_one() {
        let config = load("[[projects]]\nname = \"team/app\"\nweight = 5\n[[projects]]\nname = \"b\"").expect("a configuration");
        let weight = |name: &str| config.weight_of(Some(&ProjectName::from_trusted(name)));
        assert_eq!((weight("team/app"), weight("b"), weight("team"), config.weight_of(None)), (5, 1, 1, 1));
    }

    #[test]
    fn limits_are_of_those_that_have_some() {
        let config = load("[[projects]]\nname = \"a\"\nmax_gpus = 4\n[[projects]]\nname = \"b\"\nmax_running = 2\n[[projects]]\nname = \"c\"")
            .expect("a configuration");
        let caps: Vec<_> = config.caps().into_iter().map(|cap| (cap.project.to_string(), cap.max_running, cap.max_gpus)).collect();
        assert_eq!(caps, [("a".to_owned(), None, Some(4)), ("b".to_owned(), Some(2), None)]);
        let cap = |name: &str| config.cap_of(Some(&ProjectName::from_trusted(name))).is_some();
        assert_eq!((cap("a"), cap("b"), cap("c"), cap("d"), config.cap_of(None)), (true, true, false, false, None));
    }

    #[test]
    fn every_fault_is_told() {
        let faults =
            load("[[projects]]\nweight = 0\n[[projects]]\nname = \"a\"\nweight = 1001\n[[projects]]\nname = \"a\"\nshare = 2\nmax_gpus = 0\nmax_running = -1").expect_err("faults");
        let keys = [
            "projects[0].name",
            "projects[0].weight",
            "projects[1].weight",
            "projects[2].name",
            "projects[2].share",
            "projects[2].max_gpus",
            "projects[2].max_running",
        ];
        assert!(keys.iter().all(|key| faults.contains(key)), "{faults}");
    }
}
