//! NVIDIA's container toolkit: whether it is one out of which containers are known to break.
//!
//! It runs hooks as root for every container with a card of NVIDIA's. CVE-2024-0132 (fixed in 1.16.2) and CVE-2025-23266 (a library that the
//! image names in `LD_PRELOAD` is loaded into such a hook; fixed in 1.17.8) let an image take the machine over.

use std::fmt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use tokio::process::Command;

use crate::config::OldToolkit;
use crate::domain::clock::has_passed;
use crate::domain::{DeviceNote, Gpu, GpuHealth, GpuVendor, Weight};

/// The oldest version without a fault by which a container of ours could break out.
const SOUND: Version = Version([1, 17, 8]);
/// How long the program may take to tell.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long a good answer is believed; a bad one is asked for again at every look, so that an update is seen soon.
const BELIEVED: Duration = Duration::from_secs(10 * 60);
/// What a note of ours is about.
pub const ABOUT: &str = "container toolkit";

/// Three numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version([u32; 3]);

impl Version {
    /// The first version in a text: `NVIDIA Container Toolkit CLI version 1.17.4`. What follows the numbers is left out.
    #[must_use]
    pub fn find(text: &str) -> Option<Self> {
        text.split_whitespace().find_map(|word| {
            let mut numbers = word.trim_start_matches('v').splitn(3, '.').map(|part| {
                let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
                part.get(..digits)?.parse().ok()
            });
            Some(Self([numbers.next()??, numbers.next()??, numbers.next()??]))
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// Asks the toolkit's program, and remembers what it told.
#[derive(Debug)]
pub struct Toolkit {
    program: PathBuf,
    old: OldToolkit,
    told: Option<(Timestamp, Version)>,
}

impl Toolkit {
    /// The one whose program is given.
    #[must_use]
    pub fn new(program: PathBuf, old: OldToolkit) -> Self {
        Self { program, old, told: None }
    }

    /// Looks at it where there is a card of NVIDIA's: says what is odd, and takes the cards from jobs where it is too old.
    pub(super) async fn look(&mut self, gpus: &mut [Gpu], now: Timestamp) -> Option<DeviceNote> {
        if !gpus.iter().any(|gpu| gpu.vendor == GpuVendor::Nvidia) {
            return None;
        }
        let warning = |text| Some(DeviceNote { about: ABOUT.to_owned(), weight: Weight::Warning, text });
        let version = match self.version(now).await {
            Ok(version) => version,
            Err(why) => return warning(format!("its version is not known: {why}; before {SOUND} an image can take this machine over")),
        };
        if version >= SOUND {
            return None;
        }
        let text = format!("{version} is older than {SOUND}, and by its faults an image can take this machine over (CVE-2025-23266)");
        match self.old {
            OldToolkit::Refuse => {
                for gpu in gpus.iter_mut().filter(|gpu| gpu.vendor == GpuVendor::Nvidia && gpu.health == GpuHealth::Healthy) {
                    gpu.health = GpuHealth::Unhealthy(format!("the {ABOUT} {version} is older than {SOUND} (CVE-2025-23266)"));
                }
                warning(format!("{text}; jobs get no GPU of NVIDIA's until it is updated, or gpu.old_toolkit is \"allow\""))
            }
            OldToolkit::Allow => warning(format!("{text}; jobs get GPUs nevertheless, because gpu.old_toolkit is \"allow\"")),
        }
    }

    async fn version(&mut self, now: Timestamp) -> Result<Version, String> {
        if let Some((at, version)) = self.told
            && version >= SOUND
            && !has_passed(at, BELIEVED, now)
        {
            return Ok(version);
        }
        let version = self.ask().await?;
        self.told = Some((now, version));
        Ok(version)
    }

    async fn ask(&self) -> Result<Version, String> {
        let name = self.program.display();
        let mut command = Command::new(&self.program);
        command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
        let output =
            tokio::time::timeout(DEADLINE, command.output()).await.map_err(|_| format!("{name} does not end within {} s", DEADLINE.as_secs()))?;
        let output = output.map_err(|error| format!("{name}: {error}"))?;
        Version::find(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| format!("{name} --version names none"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::platform::devices::fixture::card;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_795_000_000 + second).expect("a time")
    }

    fn program(directory: &tempfile::TempDir, script: &str) -> PathBuf {
        let path = directory.path().join("nvidia-ctk");
        let fresh = directory.path().join("fresh");
        std::fs::write(&fresh, format!("#!/bin/sh\n{script}\n")).expect("written");
        // Written by another process: what other tests start meanwhile would inherit this one's file, open for writing ("text file busy").
        let put = std::process::Command::new("install").args(["-m", "755"]).args([&fresh, &path]).status();
        assert!(put.expect("install is there").success(), "nvidia-ctk is not put there");
        path
    }

    #[test]
    fn versions_compare_as_numbers() {
        let find = |text: &str| Version::find(text).map(|version| version.to_string());
        assert_eq!(find("NVIDIA Container Toolkit CLI version 1.17.4\ncommit: 9b69590c7428470a72f2ae05f826412976af1395").as_deref(), Some("1.17.4"));
        assert_eq!(find("nvidia-ctk v1.18.0-rc.2").as_deref(), Some("1.18.0"));
        for none in ["", "1.17", "version x.y.z", "1..2", "99999999999.1.1"] {
            assert_eq!(find(none), None, "{none}");
        }
        assert!(Version([1, 9, 9]) < SOUND && Version([1, 17, 10]) > SOUND && Version([2, 0, 0]) > SOUND);
    }

    #[tokio::test]
    async fn an_old_one_gives_no_card_until_it_is_updated() {
        let directory = tempfile::tempdir().expect("a directory");
        let amd = Gpu { vendor: GpuVendor::Amd, ..card("amd") };
        let mut toolkit = Toolkit::new(program(&directory, "echo NVIDIA Container Toolkit CLI version 1.17.7"), OldToolkit::Refuse);
        let mut gpus = [card("n"), amd.clone()];
        let note = toolkit.look(&mut gpus, at(0)).await.expect("a note");
        assert!(note.weight == Weight::Warning && note.text.starts_with("1.17.7 is older than 1.17.8"), "{note:?}");
        assert!(matches!(&gpus[0].health, GpuHealth::Unhealthy(why) if why.contains("CVE-2025-23266")), "{gpus:?}");
        assert_eq!(gpus[1], amd, "it has nothing to do with others' cards");
        // Updated: seen at the next look, and then not asked again for a while.
        program(&directory, "echo NVIDIA Container Toolkit CLI version 1.17.8");
        let mut gpus = [card("n")];
        assert_eq!((toolkit.look(&mut gpus, at(15)).await, &gpus[0].health), (None, &GpuHealth::Healthy));
        program(&directory, "echo 1.0.0");
        assert_eq!(toolkit.look(&mut gpus, at(15 + 599)).await, None);
        assert!(toolkit.look(&mut gpus, at(15 + 600)).await.is_some());
    }

    #[tokio::test]
    async fn what_is_allowed_or_not_known_is_told_and_no_more() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut gpus = [card("n")];
        let mut allowed = Toolkit::new(program(&directory, "echo 1.16.0"), OldToolkit::Allow);
        assert!(allowed.look(&mut gpus, at(0)).await.is_some_and(|note| note.text.ends_with("because gpu.old_toolkit is \"allow\"")));
        for (script, said) in [("exit 1", "names none"), ("echo unknown", "names none")] {
            let mut odd = Toolkit::new(program(&directory, script), OldToolkit::Refuse);
            assert!(odd.look(&mut gpus, at(0)).await.is_some_and(|note| note.text.contains(said)), "{script}");
        }
        let mut missing = Toolkit::new(directory.path().join("none"), OldToolkit::Refuse);
        assert!(missing.look(&mut gpus, at(0)).await.is_some_and(|note| note.text.contains("No such file")));
        assert_eq!(gpus[0].health, GpuHealth::Healthy);
        assert_eq!(missing.look(&mut [], at(0)).await, None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,80}") {
            let _ = Version::find(&text);
        }
    }
}
