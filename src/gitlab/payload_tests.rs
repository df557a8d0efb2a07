use serde_json::json;

use super::*;
use crate::domain::Keywords;

const SMALL: &str = r#"{ "id" : 9007199254740993,"token":"glcbt-secret", "job_info":{"name":"b: [x, \"y\"]","stage":"test","project_id":9007199254740995,
 "pipeline_id":3,"project_full_path":"team/app"},"git_info":{"repo_url":"https://gitlab-ci-token:t@h/team/app.git","ref":"main","sha":"ab"},
 "runner_info":{"timeout":3600},"image":{"name":"debian"},"dependencies":[{"id":7,"token":"glcbt-secret","name":"a"},{"id":8}],"big":123456789012345678901234567890,"f":1.10 }"#;

#[test]
fn reads_what_we_need() {
    let claimed = parse("https://gitlab.example.com", SMALL.to_owned()).expect("usable");
    assert_eq!(claimed.job.reference.job_id, 9_007_199_254_740_993);
    assert_eq!(claimed.job.reference.project_id, Some(9_007_199_254_740_995));
    assert_eq!(claimed.job.reference.name.as_deref(), Some("b: [x, \"y\"]"));
    assert_eq!(claimed.job.token, "glcbt-secret");
    assert_eq!(claimed.job.payload, SMALL);
    assert_eq!(claimed.timeout, Some(Duration::from_secs(3600)));
    assert_eq!(claimed.job.reference.keywords.image.map(|image| image.name).as_deref(), Some("debian"));
    assert_eq!(claimed.project.as_deref(), Some("team/app"));
}

#[test]
fn takes_a_job_whose_other_fields_are_missing_or_of_another_kind() {
    for text in [
        json!({"id": 1, "token": "t"}),
        json!({"id": 1, "token": "t", "job_info": null, "git_info": 3, "runner_info": {"timeout": 0}, "image": null}),
        json!({"id": 1, "token": "t", "job_info": {"project_id": "x"}, "image": {"name": ""}, "runner_info": []}),
    ] {
        let claimed = parse("http://g", text.to_string()).expect("usable");
        assert_eq!((claimed.timeout, claimed.job.reference.keywords, claimed.project), (None, Keywords::default(), None));
    }
    let older = json!({"id": 1, "token": "t", "git_info": {"repo_url": "http://gitlab-ci-token:x@host:80/a/b/c.git"}});
    assert_eq!(parse("http://g", older.to_string()).expect("usable").project.as_deref(), Some("a/b/c"));
}

#[test]
fn an_unusable_description_is_refused_without_quoting_it() {
    for text in [
        r#"{"id":"glcbt-secret","token":"glcbt-secret"}"#,
        r#"{"id":1}"#,
        "[]",
        r#"[1,"glcbt-secret",null,null,null,null,null,null]"#,
        "glcbt-secret",
    ] {
        let error = parse("http://g", text.to_owned()).expect_err("refused");
        assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
    }
}

#[test]
fn dependencies_are_read_and_strange_ones_do_not_disturb() {
    assert_eq!(dependencies(SMALL), [Dependency { id: 7, token: Some("glcbt-secret".into()) }, Dependency { id: 8, token: None }]);
    for list in ["null", "{}", "[1]", "\"x\"", "[]"] {
        assert_eq!(dependencies(&format!(r#"{{"dependencies":{list},"token":"t"}}"#)), []);
    }
}
