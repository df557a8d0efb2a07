//! The life of jobs: [`manager::JobManager`] decides, the other files here carry out.
//!
//! ```text
//!   wake-ups ──▶ manager ── reads ──▶ store, observer's latest view of the engine
//!                   │ decides: reconcile (per runner, pure), plan (who gets the free room)
//!                   ▼
//!          launch · finish · follow   one operation at a time per runner, as tasks
//! ```

pub mod broker;
pub mod contacts;
pub mod deps;
pub mod disk;
pub mod explain;
pub mod handle;
pub mod history;
pub mod intake;
pub mod lost;
mod manager;
mod meter;
pub mod observer;
pub mod proof;
pub mod reconcile;
pub mod vitals;

mod ages;
mod askers;
mod assemble;
mod board;
mod conclude;
mod container;
mod drain;
mod ear;
mod finish;
mod follow;
mod gpus;
mod grant;
mod hearing;
mod held;
mod image;
mod images;
mod launch;
mod network;
mod ops;
mod plan;
mod publish;
mod queue_there;
mod repair;
mod retention;
mod retire;
mod sample;
mod stopping;
mod strays;
mod stuck;
mod turn;
mod upkeep;

pub use assemble::Seams;
pub use deps::{Deps, class_named, class_requirement};
pub use disk::{Disk, DiskRole, disk_places};
pub use handle::{EngineState, GpuMark, GpuMarked, HostSet, HostWish, IntakeState, IntakeWord, ManagerHandle, Spawned, Status, Termination};
pub use history::{History, Sample};
pub use manager::{JobManager, Seat, channel};
pub use network::Unguarded;
pub use proof::Proof;
pub use queue_there::{GitLabQueue, ProjectQueue, Stranded};
pub use stuck::Stuck;
pub use vitals::{Vital, Vitals};
