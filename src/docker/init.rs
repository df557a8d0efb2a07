//! The first process of jobs' containers as a file: the daemon carries it inside itself (`src/init/`) and lays it down where the engine
//! finds it, named by its contents, so that two versions never stand in each other's place.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::security::sha256;

/// The program: static, for this machine's architecture.
pub const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/runner-coordinator-init"));

/// What the file's name begins with.
const PREFIX: &str = "init-";

/// Lays the program down in `data_dir`, unless it is there, whole, and answers where.
///
/// # Errors
/// What the file system says.
pub fn install(data_dir: &Path) -> io::Result<PathBuf> {
    let name = sha256(PROGRAM).iter().take(8).fold(PREFIX.to_owned(), |name, byte| name + &format!("{byte:02x}"));
    let path = data_dir.join(&name);
    if !is_ours(&path) {
        // Beside its place first: it appears whole or not at all.
        let beside = data_dir.join(format!(".{name}.{}", std::process::id()));
        let _ = fs::remove_file(&beside);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o500).open(&beside)?;
        file.write_all(PROGRAM)?;
        file.set_permissions(Permissions::from_mode(0o555))?;
        file.sync_all()?;
        drop(file);
        fs::rename(&beside, &path)?;
    }
    Ok(path)
}

/// Takes away those of other versions, beside the one at `path`; containers that run keep theirs.
///
/// # Errors
/// What the file system says.
pub fn remove_others(path: &Path) -> io::Result<()> {
    let Some(directory) = path.parent() else { return Ok(()) };
    for entry in fs::read_dir(directory)? {
        let other = entry?.path();
        let ours = other.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.trim_start_matches('.').starts_with(PREFIX));
        if ours && other != path {
            fs::remove_file(other)?;
        }
    }
    Ok(())
}

fn is_ours(path: &Path) -> bool {
    let executable = fs::symlink_metadata(path).is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o777 == 0o555);
    executable && fs::read(path).is_ok_and(|bytes| bytes == PROGRAM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_laid_down_once_and_put_right_when_it_was_touched() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("init-0123456789abcdef"), "an earlier version").expect("written");
        fs::write(dir.path().join("initial"), "somebody else's").expect("written");
        fs::write(dir.path().join(".init-0123456789abcdef.7"), "not finished").expect("written");
        let path = install(dir.path()).expect("laid down");
        assert!(dir.path().join("init-0123456789abcdef").exists(), "a daemon of another version may still need its own");
        remove_others(&path).expect("removed");
        assert_eq!(fs::read(&path).expect("read"), PROGRAM);
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o555);
        let mut names: Vec<_> = fs::read_dir(dir.path()).expect("listed").map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        assert_eq!(names, [path.file_name().expect("a name"), "initial".as_ref()]);
        let made = fs::metadata(&path).expect("there").modified().expect("a time");
        install(dir.path()).expect("laid down");
        assert_eq!(fs::metadata(&path).expect("there").modified().expect("a time"), made, "what is right is left alone");
        fs::remove_file(&path).expect("gone");
        fs::write(&path, "touched").expect("written");
        install(dir.path()).expect("laid down");
        assert_eq!(fs::read(&path).expect("read"), PROGRAM);
    }

    #[test]
    fn it_needs_no_libraries() {
        // A program that needs a loader names it in a segment of type 3 (PT_INTERP); 64-bit little-endian ELF, as all our machines have.
        let at = |from: usize, len: usize| PROGRAM[from..from + len].iter().rev().fold(0_usize, |value, byte| value << 8 | usize::from(*byte));
        assert_eq!(&PROGRAM[..4], b"\x7fELF");
        let (table, size, count) = (at(32, 8), at(54, 2), at(56, 2));
        let kinds: Vec<usize> = (0..count).map(|segment| at(table + segment * size, 4)).collect();
        assert!(kinds.contains(&1) && !kinds.contains(&3), "{kinds:?}");
    }
}
