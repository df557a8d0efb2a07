//! Tests of what `[gitlab]` says about looking at GitLab's queue.

use super::*;

#[test]
fn projects_are_paths_or_ids_and_need_a_token_that_can_see_them() {
    let with = |rest: &str| format!("[gitlab]\nurl = \"http://g\"\n{rest}");
    let config = good(&with("read_token = \"glpat-1\"\nprojects = [\"team/app\", 42]\nrepair_interval = \"1s\""), &[]);
    let gitlab = config.gitlab.expect("a section");
    assert_eq!((gitlab.projects, gitlab.repair_interval), (vec!["team/app".to_owned(), "42".to_owned()], Duration::from_secs(1)));
    let env = [("RUNNER_COORDINATOR__GITLAB__PROJECTS", "a/b/c, 7")];
    assert_eq!(good(&with("read_token = \"t\""), &env).gitlab.expect("a section").projects, ["a/b/c", "7"]);
    assert_eq!(faulty(&with("projects = [\"team/app\"]"), &[]), set(&["c.toml gitlab.projects"]));
    for bad in ["[0]", "[-1]", "[\"app\"]", "[\"a//b\"]", "[\"a/b?c\"]", "[\"\"]", "[true]", "42.5"] {
        assert_eq!(faulty(&with(&format!("read_token = \"t\"\nprojects = {bad}")), &[]), set(&["c.toml gitlab.projects"]), "{bad}");
    }
    assert_eq!(faulty(&with("repair_interval = \"25h\""), &[]), set(&["c.toml gitlab.repair_interval"]));
    let plain = good(&with(""), &[]).gitlab.expect("a section");
    assert!(plain.read_token.is_none() && plain.projects.is_empty() && plain.repair_interval == Duration::from_secs(600));
}
