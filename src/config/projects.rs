//! Reads `[[projects]]`: what single projects are due beside others.

use super::Config;
use super::load::required;
use super::section::Section;
use crate::domain::ProjectName;

/// What one project is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// `name`, needed: as jobs name it; for jobs of GitLab the project's path. Unique.
    pub name: ProjectName,
    /// `weight`, default 1: how many jobs of it start for one of a project that is not listed.
    pub weight: u32,
}

impl Config {
    /// The weight of the jobs of a project; jobs without one together weigh 1.
    #[must_use]
    pub fn weight_of(&self, project: Option<&ProjectName>) -> u32 {
        let listed = project.and_then(|name| self.projects.iter().find(|project| project.name == *name));
        listed.map_or(1, |project| project.weight)
    }
}

/// Every project that is listed.
pub(super) fn read(whole: &mut Section<'_>) -> Vec<Project> {
    let mut names: Vec<ProjectName> = Vec::new();
    whole.each("projects", |section| {
        let name = required(section, "name", ProjectName::parse);
        let weight = section.whole_number("weight", 1..=1000).unwrap_or(1);
        let name = name?;
        if names.contains(&name) {
            section.fault("name", "is the name of another project already");
        }
        names.push(name.clone());
        Some(Project { name, weight })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(toml: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("c.toml");
        std::fs::write(&file, format!("data_dir = \"{}\"\n{toml}", dir.path().display())).expect("written");
        Config::load(Some(&file), std::iter::empty()).map_err(|faults| faults.to_string())
    }

    #[test]
    fn who_is_not_listed_weighs_one() {
        let config = load("[[projects]]\nname = \"team/app\"\nweight = 5\n[[projects]]\nname = \"b\"").expect("a configuration");
        let weight = |name: &str| config.weight_of(Some(&ProjectName::from_trusted(name)));
        assert_eq!((weight("team/app"), weight("b"), weight("team"), config.weight_of(None)), (5, 1, 1, 1));
    }

    #[test]
    fn every_fault_is_told() {
        let faults =
            load("[[projects]]\nweight = 0\n[[projects]]\nname = \"a\"\nweight = 1001\n[[projects]]\nname = \"a\"\nshare = 2").expect_err("faults");
        let keys = ["projects[0].name", "projects[0].weight", "projects[1].weight", "projects[2].name", "projects[2].share"];
        assert!(keys.iter().all(|key| faults.contains(key)), "{faults}");
    }
}
