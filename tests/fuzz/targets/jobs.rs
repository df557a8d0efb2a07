//! `POST /jobs`: a body becomes a job that may be stored, or is refused with every fault.
//!
//! What must hold: what is accepted keeps within every bound, is accepted again, and comes back from the store's text as it was; what is
//! refused is the client's fault and names one.

use std::time::Duration;

use axum::body::Body;
use axum::extract::FromRequest as _;
use axum::http::{Request, header};
use axum::response::IntoResponse as _;
use futures_util::FutureExt as _;
use jiff::Timestamp;
use runner_coordinator::config::Config;
use runner_coordinator::domain::{CpuMillis, ImageRef, MemoryBytes, Work};
use runner_coordinator::http::extract::JsonBody;
use runner_coordinator::http::problem::Problem;
use runner_coordinator::http::scope::Scope;
use runner_coordinator::http::submit::{SubmitBody, check, check_again};

const CLASSES: &str = r#"
[[classes]]
name = "default"
[[classes]]
name = "arm"
arch = "arm64"
image = "debian:bookworm"
runtime = "runsc"
[[classes]]
name = "gpu"
image = "registry.example.com/team/cuda:12"
gpus = { count = 2, vendor = "nvidia", min_memory = "8GiB" }
"#;

thread_local! {
    static CONFIG: Config = config();
}

fn config() -> Config {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), CLASSES).expect("written");
    Config::load(Some(file.path()), std::iter::empty()).expect("sound")
}

pub(crate) fn run(data: &[u8]) {
    CONFIG.with(|config| {
        let request = Request::post("/jobs").header(header::CONTENT_TYPE, "application/json").body(Body::from(data.to_vec()));
        let read = JsonBody::<SubmitBody>::from_request(request.expect("a request"), &()).now_or_never().expect("the body is there");
        match read.and_then(|body| check(body.value, config, &Scope::All)) {
            Ok(checked) => {
                let job = checked.into_job(Timestamp::UNIX_EPOCH);
                accepted(&job.spec, config);
            }
            Err(problem) => {
                if let Problem::InvalidFields(faults) = &problem {
                    assert!(!faults.is_empty(), "refused without a reason");
                }
                let status = problem.clone().into_response().status();
                assert!(status.is_client_error(), "{problem:?} is answered {status}");
            }
        }
    });
}

fn accepted(spec: &runner_coordinator::domain::JobSpec, config: &Config) {
    let requirement = &spec.requirement;
    assert!(config.classes.iter().any(|class| class.name == requirement.class), "{requirement:?}");
    assert!((Duration::from_secs(1)..=config.limits.max_timeout).contains(&spec.timeout), "{:?}", spec.timeout);
    assert!((-1000..=1000).contains(&spec.priority) && spec.retries <= 10, "{spec:?}");
    assert!((MemoryBytes::LEAST_OF_CONTAINER..=MemoryBytes::MAX).contains(&requirement.memory), "{requirement:?}");
    assert!((CpuMillis(10)..=CpuMillis(CpuMillis::MAX_CPUS * 1000)).contains(&requirement.cpus), "{requirement:?}");
    let Work::Command(work) = &spec.work else { panic!("{:?}", spec.work) };
    assert_eq!(ImageRef::parse("image", work.image.as_str()).as_ref(), Ok(&work.image));
    assert!(work.command.first().is_some_and(|program| !program.is_empty()), "{work:?}");
    assert!(!work.command.iter().any(|argument| argument.contains('\0')), "{work:?}");
    super::env::check(&work.env);
    assert_eq!(check_again(spec, config), Ok(()));
    // The store keeps these as text.
    let back = |text: &str| serde_json::from_str::<Work>(text).expect("what was stored is read");
    assert_eq!(back(&serde_json::to_string(&spec.work).expect("JSON")), spec.work);
    let text = serde_json::to_string(requirement).expect("JSON");
    assert_eq!(&serde_json::from_str::<runner_coordinator::domain::Requirement>(&text).expect("what was stored is read"), requirement);
}
