//! What may stand in the fields of requests and in parameters: the bounds are those by which the daemon checks them.

use utoipa::openapi::schema::{AdditionalProperties, ArrayBuilder, KnownFormat, ObjectBuilder, OneOfBuilder, Schema, SchemaFormat, SchemaType, Type};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use crate::domain::{CpuMillis, GpuRequest, MAX_DURATION_CHARS, ModelPattern, ProjectName};
use crate::http::{gpus, jobs, params, submit};

const DATE_TIME: SchemaFormat = SchemaFormat::KnownFormat(KnownFormat::DateTime);

/// The highest number that an event may have: 64 bits, as all machines that are served have.
const LAST_EVENT: usize = isize::MAX.unsigned_abs();
/// The highest number that an attempt may have.
const LAST_ATTEMPT: usize = u32::MAX as usize;
/// No control characters, and something that is no space.
const ONE_LINE: &str = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$";

/// A number of 0 to 255.
const SMALL: &str = "0*(25[0-5]|2[0-4][0-9]|1?[0-9]{1,2})";

macro_rules! fields {
    ($($(#[doc = $doc:literal])+ $name:ident = $schema:expr;)+) => {$(
        $(#[doc = $doc])+
        #[derive(Debug)]
        pub(in crate::http) enum $name {}

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                $schema.into()
            }
        }

        impl ToSchema for $name {}
    )+};
}

fields! {
    /// How many elements a page holds.
    PageLimit = whole().minimum(Some(1)).maximum(Some(params::MAX_LIMIT)).default(Some(params::DEFAULT_LIMIT.into()));
    /// Where a page begins.
    Cursor = text(1, params::MAX_CURSOR_BYTES).pattern(Some("^[A-Za-z0-9_-]+$"));
    /// The number of an event.
    Position = whole().minimum(Some(0)).maximum(Some(LAST_EVENT));
    /// Where a stream of events begins.
    Begin = OneOfBuilder::new().item(whole().minimum(Some(0)).maximum(Some(LAST_EVENT))).item(ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["now"])));
    /// The number of an attempt.
    AttemptNumber = whole().minimum(Some(1)).maximum(Some(LAST_ATTEMPT));
    /// A yes or no that is no when it is not given.
    Flag = ObjectBuilder::new().schema_type(Type::Boolean).default(Some(false.into()));
    /// A submitter's key against doubles.
    IdempotencyKey = text(1, jobs::MAX_KEY_BYTES).pattern(Some("^[!-~]+$"));
    /// A class's name.
    ClassName = text(1, 63).pattern(Some("^[A-Za-z0-9][A-Za-z0-9._-]*$"));
    /// A project's name.
    ProjectPath = text(1, ProjectName::MAX_CHARS).pattern(Some(ONE_LINE));
    /// A reference to an image.
    Image = ObjectBuilder::new().schema_type(Type::String).pattern(Some(image_reference()));
    /// A program and its arguments.
    Command = ArrayBuilder::new().items(no_nul()).min_items(Some(1)).max_items(Some(submit::MAX_ARGUMENTS));
    /// How urgent.
    Priority = whole().minimum(Some(*submit::PRIORITIES.start())).maximum(Some(*submit::PRIORITIES.end()));
    /// How often it is tried again.
    Retries = whole().minimum(Some(0)).maximum(Some(submit::MAX_RETRIES)).default(Some(0.into()));
    /// Processors.
    Cpus = ObjectBuilder::new().schema_type(Type::Number).minimum(Some(0.01)).maximum(Some(usize::try_from(CpuMillis::MAX_CPUS).unwrap_or(usize::MAX)));
    /// An amount of memory.
    Memory = text(1, 64).pattern(Some(r"^\s*(?=[0.]*[1-9])[0-9]+(\.[0-9]{1,6})?\s*(B|kB|MB|GB|TB|KiB|MiB|GiB|TiB)?\s*$"));
    /// How long something may take: numbers, each with a unit.
    Time = text(2, MAX_DURATION_CHARS).pattern(Some(r"^\s*([0-9][0-9.\s]*[A-Za-zµ]+\s*)+$"));
    /// Variables.
    Variables = ObjectBuilder::new().schema_type(Type::Object).property_names(Some(variable_name())).additional_properties(Some(no_nul()));
    /// How many GPUs.
    GpuCount = whole().minimum(Some(1)).maximum(Some(GpuRequest::MAX_COUNT));
    /// Names of GPU models.
    GpuModel = text(1, ModelPattern::MAX_BYTES).pattern(Some("^[ -~]*[!-~][ -~]*$"));
    /// A compute capability.
    ComputeCapability = ObjectBuilder::new().schema_type(Type::String).pattern(Some(format!(r"^{SMALL}\.{SMALL}$")));
    /// Why a GPU is put into quarantine.
    Reason = text(1, gpus::MAX_REASON).pattern(Some(ONE_LINE)).default(Some(gpus::NO_REASON.into()));
    /// Why a machine is to get empty.
    DrainReason = text(1, gpus::MAX_REASON).pattern(Some(ONE_LINE));
}

/// What stands in only some events.
#[derive(Debug)]
pub(in crate::http) enum EventParticulars {}

impl PartialSchema for EventParticulars {
    fn schema() -> RefOr<Schema> {
        let maybe = |kind: Type, description: &str| {
            ObjectBuilder::new().schema_type(SchemaType::from_iter([kind, Type::Null])).description(Some(description))
        };
        let reason = OneOfBuilder::new()
            .item(Ref::from_schema_name("EndReason"))
            .item(ObjectBuilder::new().schema_type(Type::Null))
            .description(Some("Of `cancel_requested`, `stop_ordered` and `attempt_ended`: why; `null` for an attempt that went well."));
        let opened = ArrayBuilder::new()
            .schema_type(SchemaType::from_iter([Type::Array, Type::Null]))
            .items(ObjectBuilder::new().schema_type(Type::String))
            .description(Some("Of `container_created`: what its class opened beyond the default; `null` of one that an earlier version made."));
        ObjectBuilder::new()
            .description(Some("What stands in only some events, by their kind."))
            .property("status", maybe(Type::String, "Of `webhook`: how the job stood in GitLab."))
            .property("progress", maybe(Type::String, "Of `image_pull`: how far it is, in the engine's words."))
            .property("digest", maybe(Type::String, "Of `image_ready` and `container_created`: the image's digest or id."))
            .property("container", maybe(Type::String, "Of `container_created`: the engine's id of it."))
            .property("opened", opened)
            .property("reason", reason)
            .property("exit_code", maybe(Type::Integer, "Of `attempt_ended`: the command's exit code, where one is known and believed."))
            .property("detail", maybe(Type::String, "Of `attempt_ended`: a sentence for people."))
            .property("message", maybe(Type::String, "Of `progress`: the job's own words."))
            .property("percent", maybe(Type::Integer, "Of `progress`: 0 to 100, where the job said so."))
            .property("not_before", maybe(Type::String, "Of `retry_scheduled`: not before this time.").format(Some(DATE_TIME)))
            .into()
    }
}

impl ToSchema for EventParticulars {}

/// GitLab's Job event: what is read of it. Everything else is passed over.
#[derive(Debug)]
pub(in crate::http) enum JobEvent {}

impl PartialSchema for JobEvent {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .description(Some("GitLab's Job event: what is read of it. Everything else is passed over."))
            .property("object_kind", ObjectBuilder::new().schema_type(Type::String).description(Some("`build` for a Job event.")))
            .property("build_id", whole().description(Some("The job's id in GitLab.")))
            .property("build_status", ObjectBuilder::new().schema_type(Type::String).description(Some("`pending` and `canceled` are acted on.")))
            .additional_properties(Some(AdditionalProperties::FreeForm(true)))
            .into()
    }
}

impl ToSchema for JobEvent {}

fn whole() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Integer)
}

/// What a program or a variable can be given.
fn no_nul() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).pattern(Some(r"^[^\x00]*$"))
}

fn variable_name() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[A-Za-z_][A-Za-z0-9_]*$"))
}

/// What references to images look like.
fn image_reference() -> String {
    let label = "[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?";
    let port = "0*(?:6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[0-9]{1,4})";
    let registry = format!(r"(?:localhost|{label}(?:\.{label})+|{label}(?:\.{label})*:{port})");
    let element = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*";
    // It has no dot, or it would be a registry.
    let first = "[a-z0-9]+(?:(?:_{1,2}|-+)[a-z0-9]+)*";
    let version = "(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64}|@sha512:[0-9a-f]{128})?";
    // Without tag and digest at most 255 characters.
    let length = "(?=[^@]{1,255}(?::[A-Za-z0-9_.-]+)?(?:@|$))";
    format!("^{length}(?:(?:{registry}|{first})(?:/{element})+|{element}){version}$")
}

fn text(least: usize, most: usize) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).min_length(Some(least)).max_length(Some(most))
}
