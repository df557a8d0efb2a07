//! How everything is at the moment of a scrape, read from what is known anyway: what the manager published, counters of the store, the
//! kernel. Nothing here reads the queue.

use std::time::Duration;

use jiff::Timestamp;

use crate::config::Config;
use crate::domain::{CpuMillis, DiskState, DiskUse, Gpu, JobState, RunnerState};
use crate::http::gpus::{GpuDto, GpuState, Holding};
use crate::jobs::{EngineState, IntakeWord, Status};
use crate::metrics::{Gauges, Label, Registrar, Sums};
use crate::platform::process::ProcessFacts;
use crate::store::{ClassQueue, Counts};
use crate::tasks::{Standing, TaskState};

/// What is read for a scrape. What could not be read is `None`, and its series are left out.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) now: Timestamp,
    pub(super) started_at: Timestamp,
    pub(super) config: &'a Config,
    pub(super) status: &'a Status,
    pub(super) stored: Option<(Counts, Vec<ClassQueue>)>,
    pub(super) process: Option<ProcessFacts>,
    pub(super) room: Option<DiskUse>,
    pub(super) streams: usize,
    pub(super) store_wait: Duration,
    pub(super) tasks: Vec<TaskState>,
}

/// The metrics of one scrape.
#[derive(Debug)]
pub(super) struct Now {
    pub(super) registrar: Registrar,
    daemon: Daemon,
    queue: Queue,
    host: Host,
    gpus: Gpus,
    gitlab: GitLab,
}

#[derive(Debug)]
struct Daemon {
    build: Gauges<1>,
    start: Gauges<0>,
    cpu: Sums<0>,
    resident: Gauges<0>,
    files: Gauges<0>,
    stopping: Gauges<0>,
    store: Gauges<0>,
    engine: Gauges<0>,
    tick: Gauges<0>,
    tick_failed: Gauges<0>,
    streams: Gauges<0>,
    store_wait: Gauges<0>,
    task_up: Gauges<1>,
    task_deaths: Sums<1>,
    stuck: Gauges<0>,
    disk: Gauges<0>,
    disk_free: Gauges<0>,
}

#[derive(Debug)]
struct Queue {
    jobs: Gauges<1>,
    runners: Gauges<1>,
    ready: Gauges<1>,
    oldest: Gauges<1>,
}

#[derive(Debug)]
struct Host {
    cpus: Gauges<0>,
    cpus_held: Gauges<0>,
    memory: Gauges<0>,
    memory_held: Gauges<0>,
    draining: Gauges<0>,
    disk: Gauges<1>,
    disk_free: Gauges<1>,
    disk_state: Gauges<2>,
    disks_silent: Gauges<0>,
    unguarded: Gauges<0>,
}

#[derive(Debug)]
struct Gpus {
    states: Gauges<2>,
    held: Gauges<2>,
    memory: Gauges<2>,
    memory_used: Gauges<2>,
    utilization: Gauges<2>,
    temperature: Gauges<2>,
    energy: Sums<2>,
    errors: Sums<2>,
    faults: Sums<2>,
}

#[derive(Debug)]
struct GitLab {
    broker: Gauges<0>,
    intake: Gauges<2>,
    answered: Gauges<1>,
    pending: Gauges<0>,
    stranded: Gauges<0>,
}

impl Now {
    /// Without any value.
    pub(super) fn new() -> Self {
        let mut registrar = Registrar::default();
        let make = &mut registrar;
        Self {
            daemon: Daemon::new(make),
            queue: Queue::new(make),
            host: Host::new(make),
            gpus: Gpus::new(make),
            gitlab: GitLab::new(make),
            registrar,
        }
    }

    /// Fills in what is known.
    pub(super) fn fill(&self, facts: &Facts<'_>) {
        self.daemon.fill(facts);
        self.queue.fill(facts);
        self.host.fill(facts.status);
        for gpu in &facts.status.facts.gpus {
            self.gpus.fill(facts.status, gpu);
        }
        self.gitlab.fill(facts);
    }
}

impl Daemon {
    fn new(make: &mut Registrar) -> Self {
        Self {
            build: make.gauges("build_info", ["version"], "Always 1; the label tells the version of the daemon."),
            start: make.gauges("process_start_time_seconds", [], "When the daemon started, in seconds since 1970."),
            cpu: make.sums("process_cpu_seconds", [], "Processor time that the daemon used, without that of jobs."),
            resident: make.gauges("process_resident_memory_bytes", [], "Memory of the daemon that is resident."),
            files: make.gauges("process_open_fds", [], "Files, sockets and pipes that the daemon has open."),
            stopping: make.gauges("stopping", [], "1 while the daemon takes no new work because it was told to stop, else 0."),
            store: make.gauges(
                "store_up",
                [],
                "1 when the store answered to this scrape, else 0, and then everything that it would have told is missing.",
            ),
            engine: make.gauges("engine_up", [], "1 when the container engine answered last time, else 0."),
            tick: make.gauges("last_tick_age_seconds", [], "How long ago the manager's last pass ended; there is one at least every second."),
            tick_failed: make.gauges("last_tick_failed", [], "1 when the manager's last pass failed, else 0."),
            streams: make.gauges("open_streams", [], "Answers that are streaming: logs that are followed, and events."),
            store_wait: make.gauges(
                "store_oldest_call_seconds",
                [],
                "How long the oldest operation of the store has not come to an end, also when nobody waits for it any more; 0 when there is none.",
            ),
            task_up: make.gauges("task_up", ["task"], "0 while a task of this kind that died waits to be started again, else 1."),
            task_deaths: make.sums("task_deaths", ["task"], "Long-lived tasks of the daemon that died and were started again."),
            stuck: make.gauges("stuck_containers", [], "Containers that are to go and cannot be taken away."),
            disk: make.gauges("data_disk_bytes", [], "Size of the file system that holds data_dir."),
            disk_free: make.gauges("data_disk_free_bytes", [], "What is free of it."),
        }
    }

    fn fill(&self, facts: &Facts<'_>) {
        let status = facts.status;
        self.build.set([env!("CARGO_PKG_VERSION").into()], 1.0);
        self.start.set([], facts.started_at.as_duration().as_secs_f64());
        if let Some(process) = &facts.process {
            self.cpu.add([], process.cpu.as_secs_f64());
            self.resident.set([], float(process.resident.0));
            self.files.set([], float(process.open_files));
        }
        self.stopping.set([], f64::from(status.stopping));
        self.store.set([], f64::from(facts.stored.is_some()));
        self.engine.set([], f64::from(matches!(status.engine, EngineState::Up { .. })));
        self.tick.set([], status.last_tick.elapsed().as_secs_f64());
        self.tick_failed.set([], f64::from(status.last_tick_error.is_some()));
        self.streams.set([], float(u64::try_from(facts.streams).unwrap_or(u64::MAX)));
        self.store_wait.set([], facts.store_wait.as_secs_f64());
        for task in &facts.tasks {
            self.task_up.set([task.name.into()], f64::from(!matches!(task.standing, Standing::Dead { .. })));
            self.task_deaths.add([task.name.into()], float(task.deaths));
        }
        self.stuck.set([], float(u64::try_from(status.stuck.containers()).unwrap_or(u64::MAX)));
        if let Some(room) = &facts.room {
            self.disk.set([], float(room.total));
            self.disk_free.set([], float(room.free));
        }
    }
}

impl Queue {
    fn new(make: &mut Registrar) -> Self {
        Self {
            jobs: make.gauges("jobs", ["state"], "Jobs in the store, by state."),
            runners: make.gauges("runners", ["state"], "Runners that are not gone, by state."),
            ready: make.gauges(
                "queue_ready_jobs",
                ["class"],
                "Jobs that wait and may start now. The rest of those that are queued wait for a later try.",
            ),
            oldest: make.gauges(
                "queue_oldest_wait_seconds",
                ["class"],
                "How long the job that waits longest has waited since it was stored; 0 when none waits.",
            ),
        }
    }

    fn fill(&self, facts: &Facts<'_>) {
        let Some((counts, classes)) = &facts.stored else { return };
        let of = |known: &[(String, u64)], state: &str| known.iter().find(|(name, _)| name == state).map_or(0, |(_, count)| *count);
        for state in JobState::NAMES {
            self.jobs.set([state.into()], float(of(&counts.jobs, state)));
        }
        for state in RunnerState::NAMES.into_iter().filter(|state| *state != "gone") {
            self.runners.set([state.into()], float(of(&counts.runners, state)));
        }
        for queue in classes {
            let class = || [Label::of_bounded_set(queue.class.as_str())];
            self.ready.set(class(), float(queue.ready));
            self.oldest.set(class(), queue.oldest.map_or(0.0, |oldest| age(oldest, facts.now)));
        }
    }
}

impl Host {
    fn new(make: &mut Registrar) -> Self {
        Self {
            cpus: make.gauges("host_cpus", [], "Processors that jobs may use together."),
            cpus_held: make.gauges("host_cpus_held", [], "Processors that runners hold."),
            memory: make.gauges("host_memory_bytes", [], "Memory that jobs may use together."),
            memory_held: make.gauges("host_memory_held_bytes", [], "Memory that runners hold."),
            draining: make.gauges("host_draining", [], "1 while the host takes no new work because somebody drained it, else 0."),
            disk: make.gauges(
                "host_disk_bytes",
                ["disk"],
                "Size of a disk that work fills: data is that of data_dir, store that of the queue where it is another one, engine that of its images and containers.",
            ),
            disk_free: make.gauges("host_disk_free_bytes", ["disk"], "What is free of it."),
            disk_state: make.gauges(
                "host_disk_state",
                ["disk", "state"],
                "1 for how near its end the disk is, 0 for the other states: fine, low (images make room), full (nothing new begins).",
            ),
            unguarded: make.gauges("host_network_unguarded", [], "1 while the firewall's rules cannot be set, so that no job of an isolated or allowlist class begins, else 0."),
            disks_silent: make.gauges("host_disks_silent", [], "1 while the file system of one of them does not answer, so that nothing new begins, else 0."),
        }
    }

    fn fill(&self, status: &Status) {
        let cpus = |amount: CpuMillis| float(amount.0) / 1000.0;
        self.cpus.set([], cpus(status.facts.cpus));
        self.cpus_held.set([], cpus(status.used_cpus));
        self.memory.set([], float(status.facts.memory.0));
        self.memory_held.set([], float(status.used_memory.0));
        self.draining.set([], f64::from(status.drain.is_some()));
        self.unguarded.set([], f64::from(status.unguarded.is_some()));
        self.disks_silent.set([], f64::from(status.disks_silent.is_some()));
        for disk in &status.disks {
            let role = || Label::from(disk.role.as_str());
            self.disk.set([role()], float(disk.usage.total));
            self.disk_free.set([role()], float(disk.usage.free));
            for state in DiskState::ALL {
                self.disk_state.set([role(), state.as_str().into()], f64::from(disk.state == state));
            }
        }
    }
}

impl Gpus {
    fn new(make: &mut Registrar) -> Self {
        let one = ["gpu", "vendor"];
        Self {
            states: make.gauges("gpus", ["vendor", "state"], "GPUs and parts of divided ones, by state as in GET /hosts."),
            held: make.gauges("gpu_held", one, "1 while a runner holds the GPU or a share of it, else 0."),
            memory: make.gauges("gpu_memory_bytes", one, "Memory of the GPU."),
            memory_used: make.gauges("gpu_memory_used_bytes", one, "Memory of the GPU that is in use."),
            utilization: make.gauges("gpu_utilization_ratio", one, "Share of the last moments in which the GPU computed, 0 to 1."),
            temperature: make.gauges("gpu_temperature_celsius", one, "Temperature of the GPU."),
            energy: make.sums("gpu_energy_joules", one, "Energy that the GPU used since its driver was loaded."),
            errors: make.sums("gpu_uncorrected_errors", one, "Memory errors that could not be corrected since the driver was loaded."),
            faults: make.sums("gpu_faults", one, "Faults of the card itself that its driver reported since the daemon watches."),
        }
    }

    fn fill(&self, status: &Status, gpu: &Gpu) {
        let vendor = || Label::from(gpu.vendor.as_str());
        let one = || [Label::of_bounded_set(gpu.id.as_str()), vendor()];
        let shown = GpuDto::new(gpu, None, None, Holding::of(status, &gpu.id));
        for state in GpuState::ALL {
            self.states.raise([vendor(), state.as_str().into()], f64::from(shown.state == state));
        }
        if !gpu.is_for_jobs() {
            return;
        }
        self.held.set(one(), f64::from(Holding::of(status, &gpu.id) == Holding::Held));
        if let Some(memory) = gpu.memory.known() {
            self.memory.set(one(), float(memory.0));
        }
        let Some(vitals) = status.gpu_vitals.get(&gpu.id) else { return };
        if let Some(used) = vitals.memory_used.known() {
            self.memory_used.set(one(), float(used.0));
        }
        if let Some(percent) = vitals.utilization_percent.known() {
            self.utilization.set(one(), f64::from(*percent) / 100.0);
        }
        if let Some(celsius) = vitals.temperature_celsius.known() {
            self.temperature.set(one(), f64::from(*celsius));
        }
        if let Some(millijoules) = vitals.energy_millijoules.known() {
            self.energy.add(one(), float(*millijoules) / 1000.0);
        }
        if let Some(errors) = vitals.uncorrected_errors.known() {
            self.errors.add(one(), float(*errors));
        }
        self.faults.add(one(), float(vitals.faults.count));
    }
}

impl GitLab {
    fn new(make: &mut Registrar) -> Self {
        Self {
            broker: make.gauges("broker_up", [], "1 while runners can reach the broker, else 0. Missing when no class takes work from GitLab."),
            intake: make.gauges(
                "gitlab_intake_state",
                ["class", "state"],
                "1 for what asking GitLab for the class's work is doing, 0 for the other states.",
            ),
            answered: make.gauges("gitlab_last_answer_age_seconds", ["class"], "How long ago GitLab last answered to a question for work."),
            pending: make.gauges(
                "gitlab_pending_jobs",
                [],
                "Jobs that wait for a runner in the projects of gitlab.projects, as last counted. Needs gitlab.read_token.",
            ),
            stranded: make.gauges(
                "gitlab_stranded_jobs",
                [],
                "Jobs that GitLab believes to be running here and that are not. Needs gitlab.read_token.",
            ),
        }
    }

    fn fill(&self, facts: &Facts<'_>) {
        let status = facts.status;
        if facts.config.classes.iter().any(|class| class.gitlab_token.is_some()) {
            self.broker.set([], f64::from(status.broker.is_some()));
        }
        for one in &status.intake {
            let class = || Label::of_bounded_set(one.class.as_str());
            for state in IntakeWord::ALL {
                self.intake.set([class(), state.as_str().into()], f64::from(one.state == state));
            }
            if let Some(at) = one.last_answer_at {
                self.answered.set([class()], age(at, facts.now));
            }
        }
        if let Some(queue) = &status.gitlab_queue {
            self.pending.set([], float(queue.projects.iter().map(|project| project.pending).sum()));
            self.stranded.set([], float(u64::try_from(queue.stranded.len()).unwrap_or(u64::MAX)));
        }
    }
}

/// Seconds from one time to a later one; 0 when the clock was set back.
fn age(then: Timestamp, now: Timestamp) -> f64 {
    now.duration_since(then).as_secs_f64().max(0.0)
}

#[expect(clippy::cast_precision_loss, reason = "samples are such numbers, and exact up to 2^53")]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
#[path = "now_tests.rs"]
mod tests;
