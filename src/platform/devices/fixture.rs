//! Machines made of directories, for tests: a `/sys` with links as the kernel makes them, a `/dev` of plain files.

use std::collections::HashMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use tempfile::TempDir;

use super::{Roots, Seen, Sight, Survey};
use crate::domain::{Gpu, GpuHealth, GpuId, GpuRole, GpuVendor, MemoryBytes, Reading};

/// A healthy NVIDIA card.
pub(crate) fn card(id: &str) -> Gpu {
    Gpu {
        id: GpuId::from_trusted(id),
        vendor: GpuVendor::Nvidia,
        index: 0,
        pci: Reading::NotSupported,
        model: Reading::Known("NVIDIA Test".to_owned()),
        memory: Reading::Known(MemoryBytes(24 << 30)),
        compute: Reading::Known("9.0".to_owned()),
        driver: Reading::NotSupported,
        numa_node: Reading::NotSupported,
        wiring: crate::domain::Wiring::default(),
        sharing: crate::domain::Sharing::Exclusive,
        nodes: Vec::new(),
        role: GpuRole::Card,
        health: GpuHealth::Healthy,
    }
}

/// A healthy part of a card.
pub(crate) fn part(id: &str, of: &str) -> Gpu {
    let role = GpuRole::Part { of: GpuId::from_trusted(of), profile: Some("1g.10gb".to_owned()) };
    Gpu { role, ..card(id) }
}

/// What a survey found; it must not have been blind.
pub(super) fn seen(survey: Survey) -> Vec<Seen> {
    match survey.sight {
        Sight::Seen(seen) => seen,
        Sight::Blind(reason) => panic!("it sees nothing: {reason}"),
    }
}

/// What a survey says beside.
pub(super) fn texts(survey: &Survey) -> Vec<&str> {
    survey.notes.iter().map(|note| note.text.as_str()).collect()
}

/// A machine.
pub(super) struct Machine {
    directory: TempDir,
}

impl Machine {
    /// One without any device.
    pub(super) fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    /// Where its things are. It has no NVIDIA library until [`Self::nvml`] puts one there.
    pub(super) fn roots(&self) -> Roots {
        let root = self.directory.path();
        Roots { sysfs: root.join("sys"), dev: root.join("dev"), proc: root.join("proc"), nvml: root.join("lib/libnvidia-ml.so.1") }
    }

    /// Writes a file below its root.
    pub(super) fn file(&self, path: &str, text: impl AsRef<[u8]>) -> &Self {
        let path = self.directory.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(&path, text).expect("written");
        self
    }

    /// Takes a file or a directory away.
    pub(super) fn remove(&self, path: &str) {
        let path = self.directory.path().join(path);
        if path.symlink_metadata().expect("it is there").is_dir() {
            std::fs::remove_dir_all(path).expect("removed");
        } else {
            std::fs::remove_file(path).expect("removed");
        }
    }

    fn link(&self, from: &str, to: &Path) {
        let from = self.directory.path().join(from);
        std::fs::create_dir_all(from.parent().expect("a parent")).expect("made");
        symlink(to, from).expect("linked");
    }

    /// Adds a display controller with its driver and files.
    pub(super) fn pci(&self, address: &str, (vendor, device): (u32, u32), driver: Option<&str>, files: &[(&str, &str)]) -> &Self {
        let place = format!("sys/devices/pci0000:00/{address}");
        self.file(&format!("{place}/vendor"), format!("0x{vendor:04x}\n"));
        self.file(&format!("{place}/device"), format!("0x{device:04x}\n"));
        self.file(&format!("{place}/class"), "0x030000\n");
        self.file(&format!("{place}/numa_node"), "0\n");
        for (name, text) in files {
            self.file(&format!("{place}/{name}"), text);
        }
        if let Some(driver) = driver {
            let root = self.directory.path().join("sys/bus/pci/drivers").join(driver);
            std::fs::create_dir_all(&root).expect("made");
            self.link(&format!("{place}/driver"), &root);
        }
        let target = self.directory.path().join(&place);
        self.link(&format!("sys/bus/pci/devices/{address}"), &target);
        self
    }

    /// Adds a render node and the card node beside it, below `device`, a directory of `sys/devices`.
    pub(super) fn render(&self, device: &str, minor: u32) -> &Self {
        let drm = format!("sys/devices/{device}/drm/renderD{minor}");
        self.file(&format!("{drm}/dev"), format!("226:{minor}\n"));
        let device = self.directory.path().join("sys/devices").join(device);
        self.link(&format!("{drm}/device"), &device);
        let target = self.directory.path().join(&drm);
        self.link(&format!("sys/class/drm/renderD{minor}"), &target);
        self.file(&format!("dev/dri/renderD{minor}"), "")
    }

    /// Adds an entry to KFD's topology, which is what makes a card compute.
    pub(super) fn kfd(&self, node: u32, gpu_id: u32, properties: &[(&str, u64)]) -> &Self {
        let place = format!("sys/class/kfd/kfd/topology/nodes/{node}");
        let lines: Vec<String> = properties.iter().map(|(name, value)| format!("{name} {value}")).collect();
        self.file(&format!("{place}/gpu_id"), format!("{gpu_id}\n"));
        self.file(&format!("{place}/properties"), lines.join("\n"));
        self.file("dev/kfd", "")
    }

    /// Puts NVIDIA's library there: a stand-in that reads `state`, see `tests/gpu/nvml.c`.
    pub(super) fn nvml(&self, state: &str) -> &Self {
        self.nvml_without(state, &[])
    }

    /// The same, of which some functions are missing.
    pub(super) fn nvml_without(&self, state: &str, missing: &[&str]) -> &Self {
        self.file("lib/libnvidia-ml.so.1.state", state);
        std::fs::copy(stub(missing), self.directory.path().join("lib/libnvidia-ml.so.1")).expect("copied");
        self
    }

    /// What NVIDIA's cards are like from now on.
    pub(super) fn nvml_is_now(&self, state: &str) {
        // In one step, for the library reads it whenever it likes.
        self.file("lib/next", state);
        let lib = self.directory.path().join("lib");
        std::fs::rename(lib.join("next"), lib.join("libnvidia-ml.so.1.state")).expect("renamed");
    }
}

/// The library, built once for each set of missing functions. Every machine gets a copy, for the loader knows files by their inode.
fn stub(missing: &[&str]) -> PathBuf {
    static BUILT: Mutex<Option<(TempDir, HashMap<String, PathBuf>)>> = Mutex::new(None);
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let (directory, libraries) = built.get_or_insert_with(|| (tempfile::tempdir().expect("a directory"), HashMap::new()));
    let key = missing.join(",");
    if let Some(library) = libraries.get(&key) {
        return library.clone();
    }
    let library = directory.path().join(format!("stub{}.so", libraries.len()));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gpu/nvml.c");
    let renamed = missing.iter().map(|name| format!("-D{name}=no_{name}"));
    let status = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror"]).args(renamed).arg("-o").arg(&library).arg(source).status();
    assert!(status.expect("cc is there").success(), "the stand-in for NVML does not compile");
    libraries.insert(key, library.clone());
    library
}
