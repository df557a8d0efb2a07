//! Small readers for the kernel's files: bounded, and honest about what could not be read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::Roots;
use crate::domain::{DeviceNode, MemoryBytes, PciAddress, Reading};

/// Most that is read of one file; the kernel's are a page or less.
const MOST: u64 = 64 << 10;
/// Most entries of one directory that are looked at.
const MOST_ENTRIES: usize = 4096;

/// The file's text without white space around it. A file that is not there is a thing that is not supported.
pub fn text(path: &Path) -> Reading<String> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(MOST).read_to_end(&mut bytes)) {
        Ok(_) => Reading::Known(String::from_utf8_lossy(&bytes).trim().to_owned()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Reading::NotSupported,
        Err(error) => Reading::Unreadable(format!("{}: {error}", path.display())),
    }
}

/// The file's text as `parse` understands it; what it does not understand is unreadable.
pub fn value<T>(path: &Path, parse: impl FnOnce(&str) -> Option<T>) -> Reading<T> {
    match text(path) {
        Reading::Known(found) => parse(&found).map_or_else(
            || Reading::Unreadable(format!("{}: \"{}\" makes no sense", path.display(), found.chars().take(40).collect::<String>().escape_debug())),
            Reading::Known,
        ),
        Reading::NotSupported => Reading::NotSupported,
        Reading::Unreadable(reason) => Reading::Unreadable(reason),
    }
}

/// A decimal number.
pub fn number<T: FromStr>(path: &Path) -> Reading<T> {
    value(path, |text| text.parse().ok())
}

/// A number of bytes.
pub fn bytes(path: &Path) -> Reading<MemoryBytes> {
    number(path).map(MemoryBytes)
}

/// A hexadecimal number as `vendor`, `device` and `class` hold it: `0x1002`.
pub fn hex(path: &Path) -> Reading<u32> {
    value(path, |text| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok())
}

/// Names in a directory, those that stand for numbers in the order of the numbers. Empty when it cannot be listed.
pub fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> = entries.take(MOST_ENTRIES).filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort_by_key(|name| (number_at_end(name), name.clone()));
    names
}

fn number_at_end(name: &str) -> u64 {
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    name.get(name.len() - digits..).and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// Lines of a name and a number, as KFD writes them; others are left out.
pub fn properties(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| line.trim().split_once(' '))
        .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
        .collect()
}

/// The directory of a PCI device.
pub fn pci_directory(roots: &Roots, address: PciAddress) -> PathBuf {
    roots.sysfs.join("bus/pci/devices").join(address.to_string())
}

/// Addresses of the display controllers that a vendor made, whether or not a driver has taken them.
pub fn display_controllers(roots: &Roots, vendor: u32) -> Vec<PciAddress> {
    let all = names(&roots.sysfs.join("bus/pci/devices")).into_iter().filter_map(|name| PciAddress::parse(&name));
    let mut found: Vec<PciAddress> = all
        .filter(|address| {
            let directory = pci_directory(roots, *address);
            let displays = hex(&directory.join("class")).known().is_some_and(|class| class >> 16 == 3);
            displays && hex(&directory.join("vendor")).known() == Some(&vendor)
        })
        .collect();
    found.sort();
    found
}

/// The driver that has taken a device.
pub fn driver(directory: &Path) -> Reading<String> {
    match std::fs::read_link(directory.join("driver")) {
        Ok(link) => link.file_name().map_or(Reading::NotSupported, |name| Reading::Known(name.to_string_lossy().into_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Reading::NotSupported,
        Err(error) => Reading::Unreadable(format!("{}: {error}", directory.join("driver").display())),
    }
}

/// The NUMA node of a device; the kernel's -1 is that there is none.
pub fn numa_node(directory: &Path) -> Reading<u32> {
    match number::<i64>(&directory.join("numa_node")) {
        Reading::Known(node) => u32::try_from(node).map_or(Reading::NotSupported, Reading::Known),
        Reading::NotSupported => Reading::NotSupported,
        Reading::Unreadable(reason) => Reading::Unreadable(reason),
    }
}

/// What lies between the processor and a PCI device, from its root on; empty where that is not told.
pub fn pci_path(directory: &Path) -> Vec<String> {
    let Ok(real) = std::fs::canonicalize(directory) else { return Vec::new() };
    let mut steps: Vec<String> = real.iter().filter_map(|step| step.to_str()).filter(|step| is_pci(step)).map(str::to_owned).collect();
    // The last is the device.
    steps.pop();
    steps
}

/// `pci0000:3a` is a root, `0000:3a:00.0` what is below it.
fn is_pci(step: &str) -> bool {
    let root = step.strip_prefix("pci").and_then(|rest| rest.split_once(':'));
    let hex = |text: &str, least: usize| text.len() >= least && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    PciAddress::parse(step).is_some() || root.is_some_and(|(domain, bus)| hex(domain, 4) && hex(bus, 2))
}

/// A sensor of a device: the first `hwmon` of it that has `file`.
pub fn sensor(directory: &Path, file: &str) -> Reading<u64> {
    let monitors = directory.join("hwmon");
    let found = names(&monitors).into_iter().map(|name| number(&monitors.join(name).join(file))).find(|reading| *reading != Reading::NotSupported);
    found.unwrap_or(Reading::NotSupported)
}

/// A temperature: sensors count thousandths of a degree.
pub fn temperature(directory: &Path) -> Reading<u32> {
    sensor(directory, "temp1_input").map(|thousandths| u32::try_from(thousandths / 1000).unwrap_or(u32::MAX))
}

/// A file below `/dev` with the group that owns it.
pub fn node(roots: &Roots, name: &str) -> DeviceNode {
    let host_path = roots.dev.join(name);
    let group = match std::fs::metadata(&host_path) {
        Ok(about) => Reading::Known(about.gid()),
        Err(error) => Reading::Unreadable(format!("{}: {error}", host_path.display())),
    };
    DeviceNode { path: format!("/dev/{name}"), host_path: host_path.display().to_string(), group }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_not_there_is_not_supported_and_what_makes_no_sense_is_unreadable() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = |name: &str, text: &[u8]| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        assert_eq!(number::<u64>(&directory.path().join("none")), Reading::NotSupported);
        assert_eq!(number::<u64>(&file("a", b" 17\n")), Reading::Known(17));
        assert!(number::<u64>(&file("b", b"")).fault().is_some_and(|reason| reason.contains("makes no sense")), "an empty file is not a zero");
        assert!(number::<u64>(&file("c", b"\xff\x00\n")).fault().is_some());
        assert!(number::<u64>(directory.path()).fault().is_some(), "a directory is not a number");
        assert_eq!(hex(&file("d", b"0x10de\n")), Reading::Known(0x10de));
        assert!(hex(&file("e", b"10de\n")).fault().is_some());
        file("numa_node", b"-1\n");
        assert_eq!(numa_node(directory.path()), Reading::NotSupported);
    }

    #[test]
    fn the_way_to_a_device_is_its_bridges_from_the_root_on() {
        let directory = tempfile::tempdir().expect("a directory");
        let device = directory.path().join("sys/devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0");
        std::fs::create_dir_all(&device).expect("made");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&device, &link).expect("linked");
        assert_eq!(pci_path(&link), ["pci0000:3a", "0000:3a:00.0"]);
        assert_eq!(pci_path(&directory.path().join("none")), Vec::<String>::new());
        for step in ["pci", "pci0000", "pci0000:", "pcix:00", "devices", "0000:3a"] {
            assert!(!is_pci(step), "{step}");
        }
    }

    #[test]
    fn names_that_are_numbers_come_in_their_order() {
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["renderD129", "renderD1000", "renderD128", "version"] {
            std::fs::write(directory.path().join(name), "").expect("written");
        }
        assert_eq!(names(directory.path()), ["version", "renderD128", "renderD129", "renderD1000"]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("file");
            std::fs::write(&path, &bytes).expect("written");
            let _ = (text(&path), number::<u64>(&path), hex(&path), properties(&String::from_utf8_lossy(&bytes)));
            let _ = number_at_end(&String::from_utf8_lossy(&bytes));
        }
    }
}
