//! What the product talks about: ids, amounts, requirements, placements, jobs, runners, and the rules by which they change.
//!
//! Nothing here waits, reads a clock or touches the outside world, so every rule can be tested by calling it.
//! The other rooms load these values, ask them what may happen next, and write down the answer.

pub mod amount;
pub mod arch;
pub mod cap;
pub mod clock;
pub mod disk;
pub mod event;
pub mod fault;
pub mod gitlab;
pub mod gpu;
pub mod gpu_request;
pub mod gpu_usage;
pub mod gpu_wiring;
pub mod host;
pub mod host_file;
pub mod ids;
pub mod image;
pub mod image_pattern;
pub mod job;
pub mod quarantine;
pub mod reason;
pub mod receipt;
pub mod requirement;
pub mod retry;
pub mod runner;
pub mod step;

pub use amount::{CpuMillis, MAX_DURATION_CHARS, MemoryBytes, read_duration};
pub use arch::{Arch, GpuVendor};
pub use cap::{CapReached, InUse, Limit, ProjectCap};
pub use clock::{Clock, SystemClock};
pub use disk::{DiskMark, DiskMarks, DiskState, DiskUse};
pub use event::{Event, EventKind};
pub use fault::{FieldFault, chain};
pub use gitlab::{GitLabJob, GitLabRef, Keywords, NamedImage};
pub use gpu::{DeviceNode, DeviceNote, Gpu, GpuFaults, GpuHealth, GpuProcess, GpuRole, GpuVitals, PciAddress, Reading, Sharing, Weight};
pub use gpu_request::{ComputeCapability, GpuRequest, ModelPattern};
pub use gpu_usage::{GpuUsage, ProjectUsage};
pub use gpu_wiring::{Nearness, Wiring};
pub use host::{Drain, HostFacts};
pub use host_file::HostFile;
pub use ids::{ClassName, GpuId, HostId, JobId, ProjectName, RequirementId, RunnerId};
pub use image::{ImageRef, PinnedImage};
pub use image_pattern::ImagePattern;
pub use job::{Attempt, CommandWork, Job, JobSpec, JobState, Source, Work};
pub use quarantine::{Baseline, GpuRecord, GpuUse, Quarantine, QuarantinedBy, Verdict};
pub use reason::{Disposition, EndReason, Failure, Outcome};
pub use receipt::{HowEnded, Proven, ProvenEnd, ReceiptOf};
pub use requirement::{Emulation, Placement, Requirement, Start};
pub use retry::RetryPolicy;
pub use runner::{Runner, RunnerOrigin, RunnerState};
pub use step::{Aggregate, Refused, Step};
