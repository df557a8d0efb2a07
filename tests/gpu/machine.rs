//! A machine with GPUs that is made of files: cards of AMD's, whose nodes are other devices under their names.

use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// The group of the nodes; unlikely to be anybody's here.
const GROUP: u32 = 61_044;
/// Bytes of memory of each card.
const MEMORY: u64 = 64 << 30;

/// A machine with two of AMD's cards.
#[derive(Debug)]
pub(crate) struct Machine {
    directory: TempDir,
}

impl Machine {
    /// One without any card.
    pub(crate) fn bare() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    pub(crate) fn new() -> Self {
        let machine = Self::bare();
        machine.file("sys/class/kfd/kfd/topology/nodes/0/gpu_id", "0\n");
        machine.file("sys/class/kfd/kfd/topology/nodes/0/properties", "cpu_cores_count 16\n");
        machine.node("kfd", "5");
        machine.card(1, 3, 128);
        machine.card(2, 0x83, 129);
        machine
    }

    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn file(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, text).expect("written");
    }

    pub(crate) fn link(&self, from: &str, to: &str) {
        let from = self.root().join(from);
        std::fs::create_dir_all(from.parent().expect("a parent")).expect("made");
        symlink(self.root().join(to), from).expect("linked");
    }

    pub(crate) fn node(&self, name: &str, minor: &str) {
        let path = self.root().join("dev").join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        assert!(Command::new("mknod").arg(&path).args(["c", "1", minor]).status().expect("mknod").success(), "mknod needs root");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660)).expect("a mode");
        chown(&path, Some(0), Some(GROUP)).expect("a group");
    }

    fn card(&self, number: u32, bus: u32, render: u32) {
        let address = format!("0000:{bus:02x}:00.0");
        let kfd = format!("sys/class/kfd/kfd/topology/nodes/{number}");
        self.file(&format!("{kfd}/gpu_id"), &format!("{}\n", 4000 + number));
        let place = bus << 8;
        let properties = [("vendor_id", 0x1002), ("device_id", 0x740f), ("location_id", place), ("domain", 0), ("drm_render_minor", render)];
        let lines: Vec<String> = properties.iter().map(|(name, value)| format!("{name} {value}")).collect();
        self.file(&format!("{kfd}/properties"), &format!("{}\ngfx_target_version 90010\n", lines.join("\n")));
        let device = format!("sys/devices/pci0000:00/{address}");
        for (name, text) in
            [("vendor", "0x1002"), ("device", "0x740f"), ("class", "0x030000"), ("numa_node", "0"), ("product_name", "AMD Instinct MI210")]
        {
            self.file(&format!("{device}/{name}"), &format!("{text}\n"));
        }
        self.file(&format!("{device}/mem_info_vram_total"), &format!("{MEMORY}\n"));
        self.file("sys/bus/pci/drivers/amdgpu/bind", "");
        self.link(&format!("{device}/driver"), "sys/bus/pci/drivers/amdgpu");
        self.link(&format!("sys/bus/pci/devices/{address}"), &device);
        self.file(&format!("{device}/drm/renderD{render}/dev"), &format!("226:{render}\n"));
        self.link(&format!("{device}/drm/renderD{render}/device"), &device);
        self.link(&format!("sys/class/drm/renderD{render}"), &format!("{device}/drm/renderD{render}"));
        self.node(&format!("dri/renderD{render}"), "11");
    }

    pub(crate) fn settings(&self) -> String {
        let at = |name: &str| self.root().join(name).display().to_string();
        format!(
            "[gpu]\nsysfs = {:?}\ndev = {:?}\nproc = {:?}\nnvml = {:?}\ntoolkit = {:?}\nprobe_interval = \"1s\"",
            at("sys"),
            at("dev"),
            at("proc"),
            at("none.so"),
            at("nvidia-ctk")
        )
    }
}
