//! From the body of `POST /jobs` to a job that may be stored: every fault of every field at once, the class's defaults filled in.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::de::{Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use super::openapi::{fields, words};
use super::problem::Problem;
use super::scope::Scope;
use crate::config::{Class, Config, Limits};
use crate::domain::{
    Arch, ClassName, CommandWork, ComputeCapability, CpuMillis, Emulation, FieldFault, GpuRequest, GpuVendor, ImageRef, Job, JobId, JobSpec,
    MemoryBytes, ModelPattern, ProjectName, Requirement, Source, Start, Work, read_duration,
};
use crate::security::SecurityManager;

/// The class of a job that names none.
const DEFAULT_CLASS: &str = "default";
/// Bounds of a priority.
pub(super) const PRIORITIES: std::ops::RangeInclusive<i64> = -1000..=1000;
/// Most times that a job may ask to be tried again.
pub(super) const MAX_RETRIES: i64 = 10;
/// Most arguments of a command.
pub(super) const MAX_ARGUMENTS: usize = 4096;

/// A job to be run. A field that is not given, or `null`, is the class's, where nothing else is said.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SubmitJob)]
pub struct SubmitBody {
    /// An image reference. Needed where the class has none.
    #[schema(inline, value_type = Option<fields::Image>)]
    image: Option<String>,
    /// Program and arguments; the image's entry point is not used. Together at most `limits.command_bytes`.
    #[schema(inline, required = true, value_type = fields::Command)]
    command: Option<Vec<String>>,
    /// Variables. Names are letters, digits and `_`; those that could change the job's devices or what runs before its command are refused.
    #[schema(inline, value_type = Option<fields::Variables>)]
    env: Option<BTreeMap<String, String>>,
    /// A configured class; `default`, or the only one there is, when it is not given.
    #[schema(inline, value_type = Option<fields::ClassName>)]
    class: Option<String>,
    /// For filters, the limits of the queue and its fair share.
    #[schema(inline, value_type = Option<fields::ProjectPath>)]
    project: Option<String>,
    /// The class's, if it has one.
    #[schema(value_type = Option<words::Arch>)]
    arch: Option<String>,
    /// Whether a machine that only emulates `arch` will do.
    #[schema(value_type = Option<words::Emulation>)]
    emulation: Option<String>,
    /// GPUs, or a share of one.
    gpus: Option<GpusBody>,
    /// Processors, in steps of 0.001.
    #[schema(inline, value_type = Option<fields::Cpus>)]
    cpus: Option<f64>,
    /// Memory, such as `4GiB`; at least 6MiB.
    #[schema(inline, value_type = Option<fields::Memory>)]
    memory: Option<String>,
    /// A duration such as `90s`, `30m` or `1h 30m`, from 1s to `limits.max_timeout`.
    #[schema(inline, value_type = Option<fields::Time>)]
    timeout: Option<String>,
    /// Higher goes first.
    #[serde(default, deserialize_with = "whole")]
    #[schema(inline, value_type = Option<fields::Priority>)]
    priority: Option<i64>,
    /// How often a failure of the job itself is tried again.
    #[serde(default, deserialize_with = "whole")]
    #[schema(inline, value_type = Option<fields::Retries>)]
    retries: Option<i64>,
    /// What to do when no machine could ever run it; `refuse` when it is not given.
    if_unsatisfiable: Option<IfUnsatisfiable>,
}

/// The GPUs that a job asks for: `count` of its own, or with `memory` a share of one.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = GpuRequest)]
pub struct GpusBody {
    /// Needed without `memory`; with it 1.
    #[serde(default, deserialize_with = "whole")]
    #[schema(inline, value_type = Option<fields::GpuCount>)]
    count: Option<i64>,
    /// Any, when it is not given.
    #[schema(value_type = Option<words::GpuVendor>)]
    vendor: Option<String>,
    /// The least memory of each.
    #[schema(inline, value_type = Option<fields::Memory>)]
    min_memory: Option<String>,
    /// A pattern of model names, such as `*A100*`.
    #[schema(inline, value_type = Option<fields::GpuModel>)]
    model: Option<String>,
    /// The least compute capability, such as `8.0`. NVIDIA only.
    #[schema(inline, value_type = Option<fields::ComputeCapability>)]
    compute_capability: Option<String>,
    /// A MIG profile, such as `1g.10gb`. NVIDIA only.
    #[schema(pattern = r"^[0-9][0-9a-z.+-]{0,31}$")]
    mig_profile: Option<String>,
    /// A share of one GPU's memory, such as `10GiB`; not with `min_memory` or `mig_profile`.
    #[schema(inline, value_type = Option<fields::Memory>)]
    memory: Option<String>,
    /// True without `memory`, false with it; no other value is taken.
    exclusive: Option<bool>,
}

/// What to do with a job that no host could ever run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum IfUnsatisfiable {
    /// Refuse it at once.
    #[default]
    Refuse,
    /// Keep it: a host may come that can.
    Wait,
}

/// A whole number or `null`. In JSON `5.0` is one too, and some clients write it so.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    deserializer.deserialize_option(Whole)
}

struct Whole;

impl<'de> Visitor<'de> for Whole {
    type Value = Option<i64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_i64(self)
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Some(number))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Self::Value, E> {
        i64::try_from(number).map(Some).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Self::Value, E> {
        // Far beyond every bound, and still exact.
        if number.fract() != 0.0 || number.abs() > 1e15 {
            return Err(E::invalid_type(Unexpected::Float(number), &self));
        }
        #[expect(clippy::cast_possible_truncation, reason = "it is whole, and small enough")]
        Ok(Some(number as i64))
    }
}

/// A body that makes sense.
#[derive(Debug)]
pub struct Checked {
    /// What was asked for.
    pub spec: JobSpec,
    /// What to do if no host could ever run it.
    pub if_unsatisfiable: IfUnsatisfiable,
}

impl Checked {
    /// The job, waiting from `now` on.
    pub fn into_job(self, now: Timestamp) -> Job {
        Job::new(JobId::generate(), self.spec, now)
    }
}

/// Collects faults, so that all of them can be told at once.
#[derive(Debug, Default)]
struct Faults(Vec<FieldFault>);

impl Faults {
    fn keep<T>(&mut self, result: Result<T, FieldFault>) -> Option<T> {
        result.map_err(|fault| self.0.push(fault)).ok()
    }

    fn add(&mut self, field: &str, message: impl Into<String>) {
        self.0.push(FieldFault::new(field, message));
    }

    fn into_problem(self) -> Problem {
        Problem::InvalidFields(self.0)
    }
}

/// Checks a body.
///
/// # Errors
/// Names every faulty field.
pub fn check(body: SubmitBody, config: &Config, scope: &Scope) -> Result<Checked, Problem> {
    let mut faults = Faults::default();
    let class = faults.keep(class_of(body.class.as_deref(), config));
    let image = image_of(body.image.as_deref(), class, &mut faults);
    let command = command_of(body.command, config.limits.command_bytes, &mut faults);
    let env = env_of(body.env.unwrap_or_default(), &config.limits, &mut faults);
    let project = body.project.map(|name| ProjectName::parse("project", &name)).transpose();
    let project = faults.keep(project.and_then(|named| scope.project(named))).flatten();
    let arch = body.arch.and_then(|name| faults.keep(arch_of(&name, class)));
    let emulation = body.emulation.and_then(|text| faults.keep(Emulation::parse("emulation", &text)));
    let gpus = body.gpus.and_then(|gpus| gpus_of(gpus, &mut faults));
    let cpus = body.cpus.and_then(|cpus| faults.keep(CpuMillis::parse("cpus", cpus)));
    let memory = body.memory.and_then(|text| faults.keep(MemoryBytes::parse_of_container("memory", &text)));
    let timeout = body.timeout.and_then(|text| faults.keep(timeout_of(&text, config.limits.max_timeout)));
    let priority = body.priority.and_then(|value| faults.keep(priority_of(value)));
    let retries = body.retries.and_then(|value| faults.keep(retries_of(value)));
    let (Some(class), Some(image), true) = (class, image, faults.0.is_empty()) else { return Err(faults.into_problem()) };
    let requirement = Requirement {
        class: class.name.clone(),
        arch: arch.or(class.arch),
        emulation: emulation.unwrap_or(class.emulation),
        cpus: cpus.unwrap_or(class.cpus),
        memory: memory.unwrap_or(class.memory),
        gpus: gpus.or_else(|| class.gpus.clone()),
        runtime: runtime_of(class),
        start: Start::Any,
    };
    let spec = JobSpec {
        source: Source::Api,
        project,
        requirement,
        timeout: timeout.unwrap_or(class.timeout),
        priority: priority.unwrap_or(class.priority),
        retries: retries.unwrap_or(0),
        work: Work::Command(CommandWork { image, command, env }),
    };
    Ok(Checked { spec, if_unsatisfiable: body.if_unsatisfiable.unwrap_or_default() })
}

/// Checks a request that was accepted once against what holds now.
///
/// # Errors
/// Names every field that would be refused today, or could not be run as it was.
pub fn check_again(spec: &JobSpec, config: &Config) -> Result<(), Problem> {
    let Work::Command(work) = &spec.work else { return Err(Problem::Conflict) };
    let mut faults = Faults::default();
    let requirement = &spec.requirement;
    if let Some(class) = faults.keep(class_of(Some(requirement.class.as_str()), config)) {
        if class.arch.is_some() && class.arch != requirement.arch {
            faults.add("arch", format!("is no longer that of the class {}", class.name));
        }
        if runtime_of(class) != requirement.runtime {
            faults.add("class", format!("{} has another runtime now", class.name));
        }
    }
    command_of(Some(work.command.clone()), config.limits.command_bytes, &mut faults);
    let env = env_of(work.env.clone(), &config.limits, &mut faults);
    if faults.0.is_empty() && env != work.env {
        faults.add("env", "would not be taken over as it was");
    }
    if spec.timeout > config.limits.max_timeout {
        faults.add("timeout", format!("must be at most {}", humantime::format_duration(config.limits.max_timeout)));
    }
    if faults.0.is_empty() { Ok(()) } else { Err(faults.into_problem()) }
}

/// The class's runtime as a requirement names it.
fn runtime_of(class: &Class) -> Option<String> {
    Some(class.runtime.clone()).filter(|runtime| runtime != Class::DEFAULT_RUNTIME)
}

/// The named class; without a name `default`, or the only one there is.
fn class_of<'a>(name: Option<&str>, config: &'a Config) -> Result<&'a Class, FieldFault> {
    let wanted = match name {
        Some(name) => ClassName::parse("class", name)?,
        None => match config.classes.as_slice() {
            [only] => return Ok(only),
            _ => ClassName::from_trusted(DEFAULT_CLASS),
        },
    };
    config.classes.iter().find(|class| class.name == wanted).ok_or_else(|| {
        let names: Vec<&str> = config.classes.iter().map(|class| class.name.as_str()).collect();
        FieldFault::new("class", format!("must be one of {}", names.join(", ")))
    })
}

fn image_of(given: Option<&str>, class: Option<&Class>, faults: &mut Faults) -> Option<ImageRef> {
    if let Some(text) = given {
        return faults.keep(ImageRef::parse("image", text));
    }
    let class = class?;
    if class.image.is_none() {
        faults.add("image", format!("is needed, because the class {} has none", class.name));
    }
    class.image.clone()
}

fn command_of(given: Option<Vec<String>>, limit: MemoryBytes, faults: &mut Faults) -> Vec<String> {
    let command = given.unwrap_or_default();
    let bytes = command.iter().map(|argument| argument.len() + 1).sum::<usize>();
    if command.first().is_none_or(String::is_empty) {
        faults.add("command", "must be a list that begins with the program to run, for example [\"sh\", \"-c\", \"make\"]");
    } else if command.len() > MAX_ARGUMENTS {
        faults.add("command", format!("must have at most {MAX_ARGUMENTS} elements"));
    } else if exceeds(bytes, limit) {
        faults.add("command", format!("must be at most {limit} long"));
    } else if command.iter().any(|argument| argument.contains('\0')) {
        faults.add("command", "must not hold a NUL character");
    }
    command
}

fn env_of(given: BTreeMap<String, String>, limits: &Limits, faults: &mut Faults) -> BTreeMap<String, String> {
    SecurityManager::sanitise_env("env", given, limits).unwrap_or_else(|found| {
        faults.0.extend(found);
        BTreeMap::new()
    })
}

fn exceeds(count: usize, limit: MemoryBytes) -> bool {
    u64::try_from(count).is_ok_and(|count| count > limit.0)
}

fn arch_of(text: &str, class: Option<&Class>) -> Result<Arch, FieldFault> {
    let arch = Arch::parse("arch", text)?;
    match class.and_then(|class| class.arch.map(|of_class| (class, of_class))) {
        Some((class, of_class)) if of_class != arch => Err(FieldFault::new("arch", format!("must be {of_class}, as the class {} is", class.name))),
        Some(_) | None => Ok(arch),
    }
}

fn gpus_of(body: GpusBody, faults: &mut Faults) -> Option<GpuRequest> {
    let share = body.memory.as_ref().and_then(|text| faults.keep(MemoryBytes::parse("gpus.memory", text)));
    let count = body.count.or_else(|| body.memory.as_ref().map(|_| 1));
    let count = count.ok_or_else(|| FieldFault::new("gpus.count", format!("is needed: 1 to {}", GpuRequest::MAX_COUNT)));
    let count = faults.keep(count.and_then(|count| GpuRequest::checked_count("gpus.count", count)));
    let vendor = body.vendor.and_then(|name| faults.keep(GpuVendor::parse("gpus.vendor", &name)));
    let min_memory = body.min_memory.and_then(|text| faults.keep(MemoryBytes::parse("gpus.min_memory", &text)));
    let model = body.model.and_then(|text| faults.keep(ModelPattern::parse("gpus.model", &text)));
    let compute_capability = body.compute_capability.and_then(|text| faults.keep(ComputeCapability::parse("gpus.compute_capability", &text)));
    let mig_profile = body.mig_profile.and_then(|text| faults.keep(GpuRequest::checked_mig_profile("gpus.mig_profile", &text)));
    let request = GpuRequest { vendor, min_memory, model, compute_capability, mig_profile, share, ..GpuRequest::any(count.unwrap_or(1)) };
    for (field, message) in request.against_share(body.exclusive) {
        faults.add(&format!("gpus.{field}"), message);
    }
    for field in request.only_nvidia() {
        faults.add(&format!("gpus.{field}"), "is for vendor nvidia only");
    }
    Some(GpuRequest { count: count?, ..request })
}

fn timeout_of(text: &str, longest: Duration) -> Result<Duration, FieldFault> {
    let read = read_duration(text).filter(|timeout| (Duration::from_secs(1)..=longest).contains(timeout));
    read.ok_or_else(|| {
        FieldFault::new("timeout", format!("must be a duration such as 90s, 30m or 1h, from 1s to {}", humantime::format_duration(longest)))
    })
}

fn priority_of(value: i64) -> Result<i32, FieldFault> {
    let in_range = i32::try_from(value).ok().filter(|_| PRIORITIES.contains(&value));
    in_range.ok_or_else(|| FieldFault::new("priority", format!("must be {} to {}", PRIORITIES.start(), PRIORITIES.end())))
}

fn retries_of(value: i64) -> Result<u32, FieldFault> {
    let in_range = u32::try_from(value).ok().filter(|_| value <= MAX_RETRIES);
    in_range.ok_or_else(|| FieldFault::new("retries", format!("must be 0 to {MAX_RETRIES}")))
}
