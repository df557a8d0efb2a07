//! A GitLab that somebody else wrote: the mock of the third-party `gitlab-runner` crate, with our daemon, engine and broker between it
//! and a runner. It knows only the runner protocol and is strict about it: it panics at what it does not understand.

use gitlab_runner_mock::{GitlabRunnerMock, MockJobArtifactWhen, MockJobState, MockJobStepName, MockJobStepWhen};

use crate::harness::{RUNNER, Setup};

#[tokio::test]
async fn a_job_of_the_third_party_mock_runs_in_a_container_with_its_trace_and_artifact() {
    let mock = GitlabRunnerMock::start().await;
    mock.set_update_interval(1);
    let mut builder = mock.job_builder("build".into());
    // The mock names a repository that does not exist, and containers reach only the broker.
    builder.add_variable("GIT_STRATEGY".into(), "none".into(), true, false);
    let script = ["echo hello from $CI_PROJECT_NAME in $((40 + 2))", "echo made > out.txt"].map(str::to_owned).to_vec();
    builder.add_step(MockJobStepName::Script, script, 600, MockJobStepWhen::OnSuccess, false);
    let archive = Some("archive".to_owned());
    builder.add_artifact(archive, false, vec!["out.txt".into()], Some(MockJobArtifactWhen::OnSuccess), "archive".into(), Some("zip".into()), None);
    let good = builder.build();
    let mut builder = mock.job_builder("test".into());
    builder.add_step(MockJobStepName::Script, vec!["echo trying".into(), "exit 3".into()], 600, MockJobStepWhen::OnSuccess, false);
    let bad = builder.build();
    mock.enqueue_job(good.clone());
    mock.enqueue_job(bad.clone());

    let (url, token) = (mock.uri().to_string(), mock.runner_token().to_owned());
    let daemon = Setup::new("runner-mock")
        .with(&format!("[gitlab]\nurl = {url:?}\npoll_interval = \"1s\""))
        .with(&format!(
            "[[classes]]\nname = \"gitlab\"\nimage = {RUNNER:?}\npull = \"never\"\ngitlab_token = {token:?}\ncpus = 0.5\nmemory = \"256MiB\""
        ))
        .with("[[classes]]\nname = \"default\"\ncpus = 0.25\nmemory = \"64MiB\"")
        .start()
        .await;
    daemon.until("both have ended", async |_| good.finished() && bad.finished()).await;

    let log = String::from_utf8(good.log()).expect("text");
    assert_eq!(good.state(), MockJobState::Success, "{log}\n{}", daemon.log());
    assert!(log.contains(" in 42\n"), "{log}");
    let artifacts: Vec<_> = good.uploaded_artifacts().collect();
    assert_eq!(artifacts.len(), 1, "{artifacts:?}");
    assert!(artifacts[0].data.windows(7).any(|name| name == b"out.txt"), "the file is in the archive");
    let log = String::from_utf8(bad.log()).expect("text");
    assert_eq!(bad.state(), MockJobState::Failed, "{log}\n{}", daemon.log());
    assert!(log.contains("trying"), "{log}");
    daemon.finish().await;
}
