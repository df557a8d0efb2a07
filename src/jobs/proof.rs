//! The proof of how jobs of the API end: the first process of their containers, laid down where the engine finds it, and the receipts that it
//! writes. Jobs of GitLab need none: they end by their runner's own report.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use tracing::warn;

use super::reconcile::Receipt;
use crate::config::Config;
use crate::docker::init;
use crate::domain::{Aggregate, HostFile, Proven, ProvenEnd, ReceiptOf, RunnerId};
use crate::security::{ProofFiles, SecurityManager};
use crate::store::receipts::{Left, Receipts};

/// Where receipts lie in `data_dir`.
const RECEIPTS: &str = "receipts";

/// What proves the ends of jobs.
#[derive(Debug)]
pub struct Proof {
    init: HostFile,
    /// The directory of receipts as the engine sees it.
    on_engine: HostFile,
    receipts: Receipts,
    /// Runners whose jobs wrote more than any receipt has; remembered, because it is taken away at once.
    overgrown: Mutex<HashSet<RunnerId>>,
    /// Since when runners had been told to end when they were first stopped by us: that was somebody else.
    told_before: Mutex<HashMap<RunnerId, Option<Timestamp>>>,
}

/// What is in a runner's receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// What is no receipt: the job wrote it.
    Spoiled,
    /// The first process was told to end: by us, or by somebody else before.
    Told {
        /// Whether it was by us.
        by_us: bool,
    },
    /// The end.
    Ended(ProvenEnd),
}

impl Found {
    /// The end, if it is proved.
    pub(super) fn end(self) -> Option<ProvenEnd> {
        match self {
            Self::Ended(end) => Some(end),
            Self::Nothing | Self::Spoiled | Self::Told { .. } => None,
        }
    }
}

impl Proof {
    /// Lays down what is needed in `data_dir`.
    ///
    /// # Errors
    /// What the file system says; a path that is not UTF-8 cannot be told to an engine.
    pub fn open(config: &Config) -> io::Result<Self> {
        let receipts = Receipts::open(config.data_dir.join(RECEIPTS))?;
        let init = init::install(&config.data_dir)?;
        init::remove_others(&init)?;
        let seen = |path: &Path| config.on_engine(path).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "data_dir is not UTF-8"));
        Ok(Self {
            init: seen(&init)?,
            on_engine: seen(&config.data_dir.join(RECEIPTS))?,
            receipts,
            overgrown: Mutex::default(),
            told_before: Mutex::default(),
        })
    }

    /// Empties what is too large, before anything else of a daemon whose disk was filled so.
    pub fn make_room(config: &Config) {
        let emptied = Receipts::make_room(&config.data_dir.join(RECEIPTS));
        if !emptied.is_empty() {
            warn!(emptied = emptied.len(), "security: jobs wrote more than any receipt holds where only the proofs of their ends belong");
        }
    }

    /// The same at every pass, whatever the engine and the store do: so much as a job writes in between is the most that it can take.
    pub(super) fn keep_small(&self) {
        let emptied = Receipts::make_room(self.receipts.root());
        if !emptied.is_empty() {
            self.overgrown.lock().unwrap_or_else(PoisonError::into_inner).extend(emptied);
        }
    }

    /// The first process as the engine sees it.
    #[must_use]
    pub fn init(&self) -> &HostFile {
        &self.init
    }

    /// Makes a runner's receipt, empty; for containers that are not made yet.
    pub(super) fn prepare(&self, runner: &RunnerId) -> io::Result<ProofFiles> {
        self.receipts.prepare(runner)?;
        Ok(ProofFiles { init: self.init.clone(), receipt: HostFile::from_trusted(format!("{}/{runner}", self.on_engine)) })
    }

    /// A runner is about to be told to end; before the first time.
    pub(super) fn before_stop(&self, security: &SecurityManager, aggregate: &Aggregate) {
        let told = || match proven(security, aggregate, &self.left(aggregate)) {
            Some((Proven::Told, since)) => Some(since),
            Some((Proven::Ended(_), _)) | None => None,
        };
        self.told_before.lock().unwrap_or_else(PoisonError::into_inner).entry(aggregate.runner.id.clone()).or_insert_with(told);
    }

    /// What is in a runner's receipt; said aloud when something else than our receipt is there: the job wrote it, or the disk lost it.
    pub(super) fn read(&self, security: &SecurityManager, aggregate: &Aggregate) -> Found {
        let left = self.left(aggregate);
        match proven(security, aggregate, &left) {
            Some((Proven::Ended(end), _)) => Found::Ended(end),
            // Each time that it is told so it writes anew.
            Some((Proven::Told, since)) => {
                let before = self.told_before.lock().unwrap_or_else(PoisonError::into_inner).get(&aggregate.runner.id).copied().flatten();
                Found::Told { by_us: before != Some(since) }
            }
            None if left == Left::Nothing => Found::Nothing,
            None => {
                let runner = &aggregate.runner;
                let job = runner.job.as_ref().map(|(job, _attempt)| job.as_str());
                warn!(runner.id = %runner.id, job.id = job, "security: a job's receipt is not one: the job wrote into it, or it was cut off; it proves nothing");
                Found::Spoiled
            }
        }
    }

    /// What a runner's receipt means for what is to be done.
    pub(super) fn sight(&self, security: &SecurityManager, aggregate: &Aggregate) -> Receipt {
        if !aggregate.runs_command() {
            return Receipt::None;
        }
        let left = self.left(aggregate);
        match proven(security, aggregate, &left) {
            Some((Proven::Ended(_), since)) => Receipt::Since(since),
            None if left == Left::TooMuch => Receipt::TooMuch,
            Some((Proven::Told, _)) | None => Receipt::None,
        }
    }

    /// Takes a runner's receipt away.
    pub(super) fn forget(&self, runner: &RunnerId) -> io::Result<()> {
        self.told_before.lock().unwrap_or_else(PoisonError::into_inner).remove(runner);
        self.overgrown.lock().unwrap_or_else(PoisonError::into_inner).remove(runner);
        self.receipts.forget(runner)
    }

    /// Takes away what a crash may have left, before anything new is made.
    pub(super) fn sweep(&self, keep: impl Fn(&RunnerId) -> bool) {
        match self.receipts.sweep(keep) {
            Ok(0) => {}
            Ok(swept) => warn!(swept, "receipts of runners that are gone were taken away"),
            Err(error) => warn!(%error, "receipts of runners that are gone could not be taken away"),
        }
    }

    /// One that cannot be read proves nothing; that its job closed it to us is as if it had filled it.
    fn left(&self, aggregate: &Aggregate) -> Left {
        let runner = &aggregate.runner.id;
        if self.overgrown.lock().unwrap_or_else(PoisonError::into_inner).contains(runner) {
            return Left::TooMuch;
        }
        self.receipts.read(runner).unwrap_or_else(|error| {
            warn!(runner.id = %runner, %error, "a job's receipt cannot be read");
            if error.kind() == io::ErrorKind::PermissionDenied { Left::TooMuch } else { Left::Nothing }
        })
    }
}

/// What is proven by what was left in a runner's receipt, if anything is, and since when.
fn proven(security: &SecurityManager, aggregate: &Aggregate, left: &Left) -> Option<(Proven, Timestamp)> {
    match left {
        Left::Text(text, since) => Some((security.verify_receipt(&receipt_of(aggregate)?, text)?, *since)),
        Left::Nothing | Left::TooMuch => None,
    }
}

/// What a runner's receipt is of. The runner's own id is the nonce: there is one for each attempt and never again.
pub(super) fn receipt_of(aggregate: &Aggregate) -> Option<ReceiptOf<'_>> {
    let (job, attempt) = aggregate.runner.job.as_ref()?;
    Some(ReceiptOf { job, attempt: *attempt, nonce: aggregate.runner.id.as_str() })
}
