//! Tests of the checker itself: a tripwire that cannot trip proves nothing.

use super::{code_of, faults_of, paths_of, too_long, undescribed_route, unwanted_in};

fn paths(code: &str) -> Vec<String> {
    paths_of(code).iter().map(|path| path.join("::")).collect()
}

#[test]
fn groups_are_taken_apart() {
    assert_eq!(paths("use crate::{config::{self, Class}, jobs as j};"), ["crate::config::self", "crate::config::Class", "crate::jobs"]);
    assert_eq!(paths("let x = crate::http::State::new(a::b);"), ["crate::http::State::new", "a::b"]);
    assert_eq!(paths("use ring;"), ["ring"]);
}

#[test]
fn comments_and_strings_are_not_code() {
    let text = "// crate::http\n/* crate::http */ let a = \"crate::http \\\" x\"; let b = r#\"crate::\"http\"#; let c = '\"'; d::e";
    assert_eq!(paths(&code_of(text)), ["d::e"]);
}

#[test]
fn a_room_may_not_use_a_higher_one() {
    assert_eq!(faults_of("store/sqlite/mod.rs", "use crate::domain::Job;\nuse crate::config::Config;"), Vec::<String>::new());
    assert_eq!(faults_of("store/mod.rs", "use crate::{domain::Job, jobs::tick};").len(), 1);
    assert_eq!(faults_of("domain/job.rs", "fn f() -> crate::store::Row { todo() }").len(), 1);
    assert_eq!(faults_of("lifecycle.rs", "use crate::telemetry::init;").len(), 1, "rooms of one rank do not know each other");
    assert_eq!(faults_of("jobs/mod.rs", "use super::http::Router;").len(), 1);
    assert_eq!(faults_of("jobs/broker/mod.rs", "use super::super::super::http::Router; use super::super::plan;").len(), 1);
    assert_eq!(faults_of("cellar/mod.rs", "").len(), 1, "an unknown room");
}

#[test]
fn an_outside_crate_is_used_behind_its_door_only() {
    assert_eq!(faults_of("docker/client.rs", "use bollard::Docker;"), Vec::<String>::new());
    assert_eq!(faults_of("jobs/plan.rs", "use bollard::Docker;").len(), 1);
    assert_eq!(faults_of("http/mod.rs", "fn f(c: rusqlite::Connection) {}").len(), 1);
    assert_eq!(faults_of("jobs/plan.rs", "use config::Config;").len(), 1);
    assert_eq!(faults_of("jobs/plan.rs", "use crate::config::Config; let x = self.config.http;"), Vec::<String>::new());
    assert_eq!(faults_of("app.rs", "serve(listener, router); fn f(r: axum::Router) {}"), Vec::<String>::new());
    assert_eq!(faults_of("app.rs", "axum::serve(listener, router);").len(), 1, "without bounds on connections");
    assert_eq!(faults_of("app.rs", "use axum::extract::State;").len(), 1);
}

#[test]
fn a_route_without_a_description_is_found() {
    let text = "fn api() { Router::new().route(\"/x\", get(x)) }";
    assert!(undescribed_route("http/mod.rs", text).is_some());
    assert_eq!(undescribed_route("http/broker.rs", text), None);
    assert_eq!(undescribed_route("http/layers.rs", &format!("#[cfg(test)]\nmod tests {{ {text} }}")), None);
    assert_eq!(undescribed_route("http/mod.rs", "OpenApiRouter::new().routes(routes!(x))"), None);
}

#[test]
fn a_file_may_have_only_so_many_lines() {
    assert_eq!(too_long("a.rs", &"x\n".repeat(400)), None);
    assert!(too_long("a.rs", &"x\n".repeat(401)).is_some());
}

#[test]
fn unfinished_work_and_local_paths_are_found() {
    assert_eq!(unwanted_in("a.rs", "fine\n").len(), 0);
    assert_eq!(unwanted_in("a.rs", &format!("// {}: later\n", ["TO", "DO"].concat())).len(), 1);
    assert_eq!(unwanted_in("a.rs", &format!("see {}shared\n", ["/wo", "rk/"].concat())).len(), 1);
}
