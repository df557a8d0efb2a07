//! Turns the crate's callbacks into scripts, outcomes and files to upload.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use gitlab_runner::job::Job;
use gitlab_runner::{CancellableJobHandler, JobResult, Phase, UploadableFile};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::record::Record;
use super::script;

/// A file in the build directory; read only when its turn comes.
pub(crate) struct BuildFile {
    /// Path below the build directory.
    path: String,
    /// Path on disk.
    on_disk: PathBuf,
    /// Content, once read.
    content: OnceLock<Vec<u8>>,
}

#[async_trait::async_trait]
impl UploadableFile for BuildFile {
    type Data<'a> = &'a [u8];

    fn get_path(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.path)
    }

    async fn get_data(&self) -> Result<Self::Data<'_>, ()> {
        let content = tokio::fs::read(&self.on_disk).await.map_err(|_| ())?;
        Ok(self.content.get_or_init(|| content))
    }
}

/// One job in hand.
pub(crate) struct Shell {
    /// The crate's view of it.
    job: Job,
    /// What the bridge reports about it.
    record: Arc<Record>,
    /// Fires when this process was asked to end.
    abort: CancellationToken,
    /// When its time is over.
    deadline: Option<Instant>,
}

impl Shell {
    /// Starts the job's clock.
    pub(crate) fn new(job: Job, record: Arc<Record>, abort: CancellationToken) -> Self {
        let timeout = record.facts().timeout;
        job.trace("Running with gitlab-runner (stand-in)\n");
        Self { job, record, abort, deadline: timeout.map(|timeout| Instant::now() + timeout) }
    }

    /// Notes why the job fails, in the trace too.
    fn fail(&self, reason: &'static str, code: Option<i32>, words: &str) -> JobResult {
        let mut facts = self.record.facts();
        facts.failure_reason = Some(reason);
        facts.exit_code = code;
        drop(facts);
        self.job.trace(format!("ERROR: Job failed: {words}\n"));
        Err(())
    }
}

#[async_trait::async_trait]
impl CancellableJobHandler<BuildFile> for Shell {
    async fn step(&mut self, lines: &[String], phase: Phase, cancel: &CancellationToken) -> JobResult {
        let deadline = self.deadline;
        let overdue = async move {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        // A graceful cancel ends the script only; the crate goes on to the after_script.
        let canceled = match phase {
            Phase::Script => self.record.facts().canceled.clone(),
            Phase::AfterScript => cancel.clone(),
        };
        let stop = async {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = canceled.cancelled() => {}
                () = self.abort.cancelled() => {}
                () = overdue => {}
            }
        };
        let outcome = script::run(&self.job, lines, stop).await;
        if phase == Phase::AfterScript {
            // The script alone decides; the crate ignores this result too.
            return Ok(());
        }
        match outcome {
            Ok(Some(status)) if status.success() => Ok(()),
            Ok(Some(status)) => {
                let code = status.code();
                let words = code.map_or_else(|| status.to_string(), |code| format!("exit status {code}"));
                self.fail("script_failure", code, &words)
            }
            Ok(None) if cancel.is_cancelled() || canceled.is_cancelled() => self.fail("job_canceled", None, "canceled"),
            Ok(None) if self.abort.is_cancelled() => self.fail("runner_interrupted", None, "aborted: terminated"),
            Ok(None) => self.fail("job_execution_timeout", None, "execution took too long"),
            Err(error) => self.fail("runner_system_failure", None, &error.to_string()),
        }
    }

    async fn get_uploadable_files(&mut self) -> Result<Box<dyn Iterator<Item = BuildFile> + Send>, ()> {
        let root = self.job.build_dir().to_owned();
        let mut files = Vec::new();
        collect(&root, &root, &mut files).map_err(|_| ())?;
        Ok(Box::new(files.into_iter()))
    }
}

/// Finds the regular files below a directory; links are not followed.
fn collect(root: &Path, directory: &Path, files: &mut Vec<BuildFile>) -> std::io::Result<()> {
    for entry in directory.read_dir()? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let on_disk = entry.path();
        if kind.is_dir() {
            collect(root, &on_disk, files)?;
        } else if kind.is_file() {
            let below = on_disk.strip_prefix(root).unwrap_or(&on_disk);
            let path = below.to_string_lossy().into_owned();
            files.push(BuildFile { path, on_disk, content: OnceLock::new() });
        }
    }
    Ok(())
}
