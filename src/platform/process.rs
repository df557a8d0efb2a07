//! What the kernel tells of this process, and of the file system that holds its data.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::domain::{DiskUse, MemoryBytes};

/// What this process uses of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessFacts {
    /// Processor time since its start, in user and kernel mode.
    pub cpu: Duration,
    /// Memory that is resident.
    pub resident: MemoryBytes,
    /// Files, sockets and pipes that are open.
    pub open_files: u64,
}

/// What this process uses now.
///
/// # Errors
/// When `/proc` is not there or not as it should be.
pub fn process() -> io::Result<ProcessFacts> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (ticks, pages) = from_stat(&stat).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/self/stat is not as it should be"))?;
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    let hertz = rustix::param::clock_ticks_per_second().max(1);
    // The directory that is being read is open too, and not counted.
    let open_files = u64::try_from(std::fs::read_dir("/proc/self/fd")?.count()).unwrap_or(u64::MAX).saturating_sub(1);
    let cpu = Duration::from_millis(ticks.saturating_mul(1000) / hertz);
    Ok(ProcessFacts { cpu, resident: MemoryBytes(pages.saturating_mul(page)), open_files })
}

/// Forbids that the kernel writes this process's memory, where secrets are, into a core dump when it dies.
///
/// # Errors
/// When the kernel does not let us.
pub fn forbid_core_dumps() -> io::Result<()> {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    Ok(rustix::process::setrlimit(rustix::process::Resource::Core, none)?)
}

/// Clock ticks and resident pages in a line of `/proc/PID/stat`; `None` when it is not as it should be. Fields are counted after the
/// program's name, which may hold anything, closing parentheses too.
#[must_use]
pub fn from_stat(stat: &str) -> Option<(u64, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some((number(11)?.checked_add(number(12)?)?, number(21)?))
}

/// How the file system stands that holds a path. May wait as long as a disk or a server does.
///
/// # Errors
/// When the kernel cannot tell.
pub fn disk_use(path: &Path) -> io::Result<DiskUse> {
    let about = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(about.f_frsize);
    Ok(DiskUse { total: bytes(about.f_blocks), free: bytes(about.f_bavail), inodes: about.f_files, inodes_free: about.f_favail })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_is_read_whatever_the_program_is_called() {
        let line = "7 (a) b)) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 12345 1000000 321 18446744073709551615";
        assert_eq!(from_stat(line), Some((300, 321)));
        for bad in ["", "7 (a S 1", "7 (a) S 1 7 7 0 -1 4194560 100 0 0 0 x 50 0 0 20 0 9 0 12345 1000000 321"] {
            assert_eq!(from_stat(bad), None, "{bad}");
        }
    }

    #[test]
    fn tells_of_this_process_and_of_a_file_system() {
        let before = process().expect("facts");
        let held: Vec<std::fs::File> = (0..5).map(|_| std::fs::File::open("/proc/self/stat").expect("open")).collect();
        let facts = process().expect("facts");
        assert!(facts.resident.0 > 1 << 20 && facts.resident.0 < 1 << 40, "{facts:?}");
        // Other tests of this process open and close files meanwhile.
        assert!(facts.open_files >= held.len() as u64 && facts.cpu >= before.cpu, "{before:?} {facts:?}");
        let usage = disk_use(Path::new("/")).expect("a file system");
        assert!(usage.total > 0 && usage.free <= usage.total && usage.inodes_free <= usage.inodes, "{usage:?}");
        assert!(disk_use(Path::new("/no/such/path")).is_err());
    }
}
