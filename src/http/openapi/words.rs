//! The closed lists of words that stand in requests and answers, taken from where the daemon itself takes them. Each type is only a name
//! for a list: answers hold plain texts.

use std::borrow::Cow;

use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use crate::domain as d;
use crate::http::faces::FACES;
use crate::jobs::{self, IntakeWord};
use crate::platform::Unfit;
use crate::platform::explain::Readiness;

macro_rules! words {
    ($($(#[doc = $doc:literal])+ $name:ident: $list:expr;)+) => {$(
        $(#[doc = $doc])+
        #[derive(Debug)]
        pub(in crate::http) enum $name {}

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                one_of($list, concat!($($doc),+).trim())
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed(stringify!($name))
            }
        }
    )+};
}

words! {
    /// Where a job stands.
    JobState: d::JobState::NAMES;
    /// Where a runner stands.
    RunnerState: d::RunnerState::NAMES;
    /// Why a job, an attempt or a runner ended otherwise than well.
    EndReason: d::EndReason::ALL.map(d::EndReason::as_str);
    /// Where a job came from.
    JobSource: d::Source::ALL.map(d::Source::as_str);
    /// Why a runner was made: for one job, for the pool of its class, or because somebody asked.
    RunnerOrigin: d::RunnerOrigin::ALL.map(d::RunnerOrigin::as_str);
    /// A CPU architecture, by Docker's name.
    Arch: d::Arch::ALL.map(d::Arch::as_str);
    /// Whether a machine takes work: it does (`ready`), its engine has not been asked yet (`starting`) or does not answer (`engine_down`), its coordinator is
    /// about to end (`stopping`), it takes no new work and something runs on it still (`draining`), the same and it is empty (`drained`),
    /// one of its disks is nearly full (`disk_full`) or does not answer (`disk_unresponsive`).
    HostState: Readiness::NAMES.into_iter().chain([super::super::hosts::LOST]);
    /// What a disk is for: the queue and the logs of jobs (`data`), the queue where it lies on another one (`store`), or the images and containers of the
    /// engine (`engine`).
    DiskRole: jobs::DiskRole::ALL.map(jobs::DiskRole::as_str);
    /// How near its end a disk is: there is room (`fine`), room is made (`low`), or nothing new begins (`full`).
    DiskState: d::DiskState::ALL.map(d::DiskState::as_str);
    /// Who made a GPU.
    GpuVendor: d::GpuVendor::ALL.map(d::GpuVendor::as_str);
    /// Whether a machine that only emulates the architecture will do.
    Emulation: d::Emulation::ALL.map(d::Emulation::as_str);
    /// What happened.
    EventKind: d::EventKind::NAMES;
    /// Whether several jobs may have parts of one GPU's memory.
    GpuSharing: d::Sharing::ALL.map(d::Sharing::as_str);
    /// Who put a GPU into quarantine: a check, which lets it out again, or a person, until a person releases it.
    QuarantinedBy: d::QuarantinedBy::ALL.map(d::QuarantinedBy::as_str);
    /// The setting by which a project is limited.
    ProjectLimitName: d::Limit::ALL.map(d::Limit::as_str);
    /// How asking GitLab for work goes.
    GitLabIntakeState: IntakeWord::ALL.map(IntakeWord::as_str);
    /// The field of the request that asks for what is missing; `class` for what the class says.
    RequirementField: Unfit::FIELDS;
    /// What kind of problem it is. Stable.
    ProblemType: FACES.map(|face| face.kind());
}

fn one_of<Word: Into<serde_json::Value>>(words: impl IntoIterator<Item = Word>, description: &str) -> RefOr<Schema> {
    let words: Vec<serde_json::Value> = words.into_iter().map(Into::into).collect();
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).description(Some(description)).into()
}

macro_rules! filters {
    ($($(#[doc = $doc:literal])+ $name:ident: $word:ident;)+) => {$(
        $(#[doc = $doc])+
        #[derive(Debug)]
        pub(in crate::http) enum $name {}

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ArrayBuilder::new().items(Ref::from_schema_name(stringify!($word))).min_items(Some(1)).into()
            }
        }

        impl ToSchema for $name {}
    )+};
}

filters! {
    /// States of jobs, one or more.
    JobStates: JobState;
    /// States of runners, one or more.
    RunnerStates: RunnerState;
}

/// How many there are in each state, for every state of a list.
fn counts(states: impl IntoIterator<Item = &'static str>, description: &str) -> ObjectBuilder {
    let count = || ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).build();
    let empty = ObjectBuilder::new().schema_type(Type::Object).description(Some(description));
    states.into_iter().fold(empty, |object, state| object.property(state, count()).required(state))
}

/// Jobs by state.
pub(in crate::http) fn jobs_by_state() -> ObjectBuilder {
    counts(d::JobState::NAMES, "How many jobs are in each state.")
}

/// Runners by state, those that are gone left out.
pub(in crate::http) fn runners_by_state() -> ObjectBuilder {
    counts(
        d::RunnerState::NAMES.into_iter().filter(|state| *state != "gone"),
        "How many runners are in each state; those that are gone are not counted.",
    )
}
