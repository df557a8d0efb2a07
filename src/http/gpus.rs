//! GPUs as they go over the wire. What could not be read is `null` in its place, and named with the reason under `unreadable`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{JsonBody, Operator};
use super::openapi::{fields, words};
use super::params::Params;
use super::problem::Problem;
use super::state::AppState;
use crate::domain::{DeviceNote, Gpu, GpuHealth, GpuId, GpuRole, GpuVitals, MemoryBytes, PciAddress, Quarantine, Reading, Weight};
use crate::jobs::{GpuMark, GpuMarked, Status};

/// Longest reason of a quarantine, in characters.
pub(super) const MAX_REASON: usize = 300;
/// Why a GPU is in quarantine when nobody said.
pub(super) const NO_REASON: &str = "no reason was given";

/// One GPU, or a part of one.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Gpu)]
pub(super) struct GpuDto {
    id: String,
    #[schema(value_type = words::GpuVendor)]
    vendor: &'static str,
    /// Its number as the vendor's tools count.
    index: u32,
    pci: Option<String>,
    model: Option<String>,
    memory_bytes: Option<u64>,
    compute: Option<String>,
    driver: Option<String>,
    numa_node: Option<u32>,
    /// `exclusive`, or `open` where the configuration opens it for shares of its memory.
    #[schema(value_type = words::GpuSharing)]
    sharing: &'static str,
    /// What lies between the processor and it, from the PCI root on.
    pci_path: Vec<String>,
    /// Addresses of the GPUs or switches to which its own links (`NVLink`, xGMI) lead.
    links: Vec<String>,
    mig_profile: Option<String>,
    /// The card that it is a part of.
    part_of: Option<String>,
    pub(super) state: GpuState,
    /// Why it is given to nobody.
    reason: Option<String>,
    /// `null` when it is not in quarantine.
    quarantine: Option<QuarantineDto>,
    memory_used_bytes: Option<u64>,
    utilization_percent: Option<u32>,
    temperature_celsius: Option<u32>,
    uncorrected_errors: Option<u64>,
    /// NVIDIA's fault numbers since the daemon started.
    xids: Vec<u64>,
    processes: Option<usize>,
    /// What could not be read, by field, and why.
    unreadable: BTreeMap<&'static str, String>,
}

/// What becomes of a GPU at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum GpuState {
    /// It may be given to a job.
    Free,
    /// A runner holds it.
    InUse,
    /// It is looked at after its job.
    Checking,
    /// It is given to nobody, although it answers.
    Quarantined,
    /// It cannot be used.
    Unhealthy,
    /// It does not answer any more.
    Lost,
    /// Its parts are given to jobs.
    Divided,
    /// It is not given to jobs.
    Unused,
}

/// How much a note matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum NoteWeight {
    /// For information.
    Info,
    /// Something is there and cannot be used.
    Warning,
}

/// Why a GPU is given to nobody although it answers.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Quarantine)]
pub(super) struct QuarantineDto {
    reason: String,
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// `health`: it is tested again and comes out by itself. `operator`: it stays until it is released.
    #[schema(value_type = words::QuarantinedBy)]
    by: &'static str,
    #[schema(value_type = Option<String>, format = DateTime)]
    next_check_at: Option<Timestamp>,
}

impl From<&Quarantine> for QuarantineDto {
    fn from(quarantine: &Quarantine) -> Self {
        let Quarantine { reason, since, by, next_check } = quarantine;
        Self { reason: reason.clone(), since: *since, by: by.as_str(), next_check_at: *next_check }
    }
}

/// A sentence about the machine's devices.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeviceNote)]
pub(super) struct NoteDto {
    about: String,
    weight: NoteWeight,
    text: String,
}

impl From<&DeviceNote> for NoteDto {
    fn from(note: &DeviceNote) -> Self {
        let weight = match note.weight {
            Weight::Info => NoteWeight::Info,
            Weight::Warning => NoteWeight::Warning,
        };
        Self { about: note.about.clone(), weight, text: note.text.clone() }
    }
}

impl GpuDto {
    /// Shows a GPU, what it is doing where that is known, whether it is in quarantine, and whether a runner holds it.
    pub(super) fn new(gpu: &Gpu, vitals: Option<&GpuVitals>, quarantine: Option<&Quarantine>, holding: Holding) -> Self {
        let mut unreadable = BTreeMap::new();
        let mut told = Told(&mut unreadable);
        let (state, reason) = state(gpu, holding);
        Self {
            id: gpu.id.to_string(),
            vendor: gpu.vendor.as_str(),
            index: gpu.index,
            pci: told.read("pci", &gpu.pci).map(|address: PciAddress| address.to_string()),
            model: told.read("model", &gpu.model),
            memory_bytes: told.read("memory_bytes", &gpu.memory).map(|memory: MemoryBytes| memory.0),
            compute: told.read("compute", &gpu.compute),
            driver: told.read("driver", &gpu.driver),
            sharing: gpu.sharing.as_str(),
            numa_node: told.read("numa_node", &gpu.numa_node),
            pci_path: gpu.wiring.path.clone(),
            links: gpu.wiring.links.iter().map(ToString::to_string).collect(),
            mig_profile: gpu.mig_profile().map(str::to_owned),
            part_of: gpu.card().map(ToString::to_string),
            state,
            reason,
            quarantine: quarantine.map(QuarantineDto::from),
            memory_used_bytes: vitals.and_then(|vitals| told.read("memory_used_bytes", &vitals.memory_used)).map(|memory| memory.0),
            utilization_percent: vitals.and_then(|vitals| told.read("utilization_percent", &vitals.utilization_percent)),
            temperature_celsius: vitals.and_then(|vitals| told.read("temperature_celsius", &vitals.temperature_celsius)),
            uncorrected_errors: vitals.and_then(|vitals| told.read("uncorrected_errors", &vitals.uncorrected_errors)),
            xids: vitals.map(|vitals| vitals.xids.clone()).unwrap_or_default(),
            processes: vitals.and_then(|vitals| told.read("processes", &vitals.processes)).map(|processes| processes.len()),
            unreadable,
        }
    }
}

/// Whether a runner holds a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holding {
    /// One does.
    Held,
    /// None does.
    Free,
}

impl Holding {
    /// Of a GPU.
    pub(super) fn of(status: &Status, gpu: &GpuId) -> Self {
        if status.devices_in_use.contains(gpu) { Self::Held } else { Self::Free }
    }
}

/// Notes what could not be read.
struct Told<'a>(&'a mut BTreeMap<&'static str, String>);

impl Told<'_> {
    fn read<T: Clone>(&mut self, field: &'static str, reading: &Reading<T>) -> Option<T> {
        if let Some(reason) = reading.fault() {
            self.0.insert(field, reason.to_owned());
        }
        reading.known().cloned()
    }
}

fn state(gpu: &Gpu, holding: Holding) -> (GpuState, Option<String>) {
    match (&gpu.health, &gpu.role) {
        (GpuHealth::Lost(reason), _) => (GpuState::Lost, Some(reason.clone())),
        (_, GpuRole::Unused(reason)) => (GpuState::Unused, Some(reason.clone())),
        (GpuHealth::Unhealthy(reason), _) => (GpuState::Unhealthy, Some(reason.clone())),
        (GpuHealth::Quarantined(reason), _) => (GpuState::Quarantined, Some(reason.clone())),
        (GpuHealth::Checking, _) => (GpuState::Checking, gpu.health.reason().map(str::to_owned)),
        (GpuHealth::Healthy, GpuRole::Divided) => (GpuState::Divided, None),
        (GpuHealth::Healthy, GpuRole::Card | GpuRole::Part { .. }) if holding == Holding::Held => (GpuState::InUse, None),
        (GpuHealth::Healthy, GpuRole::Card | GpuRole::Part { .. }) => (GpuState::Free, None),
    }
}

/// The body of `POST /gpus/{id}/quarantine`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = QuarantineGpu)]
pub(super) struct QuarantineBody {
    /// For people, in one line.
    #[schema(inline, value_type = Option<fields::Reason>)]
    reason: Option<String>,
}

/// A GPU after somebody put it into quarantine or released it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MarkedGpu)]
pub(super) struct MarkedDto {
    id: String,
    /// As in `GET /hosts`; `null` for one that is not there at present.
    state: Option<GpuState>,
    reason: Option<String>,
    quarantine: Option<QuarantineDto>,
}

impl MarkedDto {
    /// Shows a GPU, as it was found where it is there.
    pub(super) fn new(id: &GpuId, found: Option<(&Gpu, Holding)>, quarantine: Option<&Quarantine>) -> Self {
        let (state, reason) = found.map(|(gpu, holding)| state(gpu, holding)).unzip();
        Self { id: id.to_string(), state, reason: reason.flatten(), quarantine: quarantine.map(QuarantineDto::from) }
    }
}

/// `POST /gpus/{id}/quarantine`: it is given to nobody until it is released; a job that has it goes on. Repeating it is fine.
#[utoipa::path(
    post,
    path = "/gpus/{id}/quarantine",
    operation_id = "quarantineGpu",
    tag = "machines",
    summary = "Give a GPU to nobody",
    description = "It is given to nobody until it is released; a job that has it goes on. Repeating it is fine. 404 names the GPUs that there are.",
    params(
        ("id" = String, Path, description = "The id of a GPU, as `GET /hosts` shows it, percent-encoded where needed."),
    ),
    request_body(content = QuarantineBody),
    responses(
        (status = 200, description = "The GPU afterwards.", body = MarkedDto),
    ),
    extensions(("x-role" = json!("operator")), ("x-problems" = json!(["invalid-parameter", "not-found", "stopping", "store-unavailable", "conflict"]))),
)]
pub(super) async fn quarantine(
    _operator: Operator,
    State(state): State<AppState>,
    Path(id): Path<String>,
    params: Params,
    body: JsonBody<QuarantineBody>,
) -> Result<Json<MarkedDto>, Problem> {
    params.finish()?;
    let reason = body.value.reason.map_or_else(|| Ok(NO_REASON.to_owned()), |reason| read_reason(&reason))?;
    mark(&state, &id, GpuMark::Quarantine { reason }).await
}

/// `POST /gpus/{id}/release`: it may be given to jobs again, whoever put it into quarantine. Repeating it is fine.
#[utoipa::path(
    post,
    path = "/gpus/{id}/release",
    operation_id = "releaseGpu",
    tag = "machines",
    summary = "Let a GPU be given to jobs again",
    description = "Whoever put it into quarantine. Repeating it is fine.",
    params(
        ("id" = String, Path, description = "The id of a GPU, as `GET /hosts` shows it, percent-encoded where needed."),
    ),
    responses(
        (status = 200, description = "The GPU afterwards.", body = MarkedDto),
    ),
    extensions(("x-role" = json!("operator")), ("x-problems" = json!(["invalid-parameter", "not-found", "stopping", "store-unavailable", "conflict"]))),
)]
pub(super) async fn release(
    _operator: Operator,
    State(state): State<AppState>,
    Path(id): Path<String>,
    params: Params,
) -> Result<Json<MarkedDto>, Problem> {
    params.finish()?;
    mark(&state, &id, GpuMark::Release).await
}

/// A reason that somebody gives, in one line.
pub(super) fn read_reason(text: &str) -> Result<String, Problem> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > MAX_REASON || text.chars().any(char::is_control) {
        return Err(Problem::field("reason", format!("must be 1 to {MAX_REASON} characters in one line")));
    }
    Ok(text.to_owned())
}

async fn mark(state: &AppState, id: &str, mark: GpuMark) -> Result<Json<MarkedDto>, Problem> {
    let gpu = GpuId::from_trusted(id);
    let status = state.manager.status();
    if !is_known(&status, &gpu) {
        return Err(unknown(&status, id));
    }
    match state.manager.mark_gpu(gpu.clone(), mark).await? {
        GpuMarked::Done => {}
        GpuMarked::Unknown => return Err(unknown(&status, id)),
        GpuMarked::Stopping => return Err(Problem::Stopping),
    }
    let status = state.manager.status();
    let found = status.facts.gpus.iter().find(|one| one.id == gpu).map(|one| (one, Holding::of(&status, &gpu)));
    Ok(Json(MarkedDto::new(&gpu, found, status.quarantines.get(&gpu))))
}

fn is_known(status: &Status, gpu: &GpuId) -> bool {
    status.facts.gpus.iter().any(|one| one.id == *gpu) || status.quarantines.contains_key(gpu)
}

fn unknown(status: &Status, id: &str) -> Problem {
    let known: Vec<&str> = status.facts.gpus.iter().map(|gpu| gpu.id.as_str()).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Problem::unknown_gpu(id, &known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::devices::fixture::{card, part};

    fn shown(gpu: &Gpu, holding: Holding) -> (GpuState, Option<String>) {
        let dto = GpuDto::new(gpu, None, None, holding);
        (dto.state, dto.reason)
    }

    #[test]
    fn every_state_has_a_word_and_its_reason() {
        assert_eq!(shown(&card("a"), Holding::Free), (GpuState::Free, None));
        assert_eq!(shown(&part("p", "a"), Holding::Held), (GpuState::InUse, None));
        assert_eq!(shown(&Gpu { role: GpuRole::Divided, ..card("a") }, Holding::Free), (GpuState::Divided, None));
        let unused = Gpu { role: GpuRole::Unused("part of the processor".into()), ..card("a") };
        assert_eq!(shown(&unused, Holding::Free), (GpuState::Unused, Some("part of the processor".into())));
        let sick = Gpu { health: GpuHealth::Unhealthy("Xid 79".into()), ..card("a") };
        assert_eq!(shown(&sick, Holding::Held), (GpuState::Unhealthy, Some("Xid 79".into())));
        let quarantined = Gpu { health: GpuHealth::Quarantined("in quarantine: hot".into()), ..card("a") };
        assert_eq!(shown(&quarantined, Holding::Held), (GpuState::Quarantined, Some("in quarantine: hot".into())));
        let checked = Gpu { health: GpuHealth::Checking, ..card("a") };
        assert_eq!(shown(&checked, Holding::Free), (GpuState::Checking, Some("it is being checked after its job".into())));
        let lost = Gpu { health: GpuHealth::Lost("gone".into()), role: GpuRole::Divided, ..card("a") };
        assert_eq!(shown(&lost, Holding::Free), (GpuState::Lost, Some("gone".into())));
    }

    #[test]
    fn what_could_not_be_read_is_null_and_named_and_never_a_zero() {
        let gpu = Gpu { memory: Reading::Unreadable("NVML: no".into()), ..part("p", "a") };
        let vitals = GpuVitals { uncorrected_errors: Reading::NotSupported, xids: vec![13], ..GpuVitals::unreadable("late") };
        let json = serde_json::to_value(GpuDto::new(&gpu, Some(&vitals), None, Holding::Free)).expect("JSON");
        assert_eq!(json["memory_bytes"], serde_json::Value::Null);
        assert_eq!(json["unreadable"]["memory_bytes"], "NVML: no");
        assert_eq!(json["unreadable"]["temperature_celsius"], "late");
        assert_eq!(json["unreadable"].get("uncorrected_errors"), None, "what a card does not have is no fault");
        assert_eq!((&json["part_of"], &json["mig_profile"], &json["xids"]), (&"a".into(), &"1g.10gb".into(), &vec![13].into()));
    }
}
