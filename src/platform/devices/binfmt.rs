//! Which foreign architectures the kernel can run: the handlers that are registered with `binfmt_misc`.
//!
//! A handler counts when it is enabled and its emulator was opened when it was registered (flag `F`): only then is the emulator found
//! from inside a container, which does not have it.

use super::{Roots, sysfs};
use crate::domain::{Arch, DeviceNote, Reading, Weight};

/// What the handlers say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Emulation {
    /// Architectures whose programs run in containers.
    pub archs: Vec<Arch>,
    /// Handlers that are of no use, with the reason.
    pub notes: Vec<DeviceNote>,
}

/// Looks at the handlers.
#[must_use]
pub fn survey(roots: &Roots) -> Emulation {
    let directory = roots.proc.join("sys/fs/binfmt_misc");
    let mut found = Emulation::default();
    let off = sysfs::text(&directory.join("status")).known().is_some_and(|status| status == "disabled");
    for name in sysfs::names(&directory).into_iter().filter(|name| !matches!(name.as_str(), "status" | "register")) {
        let handler = match sysfs::text(&directory.join(&name)) {
            Reading::Known(text) => handler(&text),
            Reading::NotSupported => continue,
            Reading::Unreadable(reason) => {
                found.notes.push(note(format!("a handler cannot be read: {reason}")));
                continue;
            }
        };
        let Some(handler) = handler else { continue };
        match if off { Reach::Nowhere } else { handler.reach } {
            Reach::Nowhere => found.notes.push(note(format!("{name} could run {} but is disabled", handler.arch))),
            Reach::ThisMachine => {
                found.notes.push(note(format!("{name} runs {} but not in containers: it was registered without the flag F", handler.arch)));
            }
            Reach::Containers if !found.archs.contains(&handler.arch) => found.archs.push(handler.arch),
            Reach::Containers => {}
        }
    }
    found.archs.sort();
    found
}

fn note(text: String) -> DeviceNote {
    DeviceNote { about: "emulation".to_owned(), weight: Weight::Info, text }
}

#[derive(Debug, PartialEq, Eq)]
struct Handler {
    arch: Arch,
    reach: Reach,
}

/// Where a handler's programs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// It is disabled.
    Nowhere,
    /// Only where its interpreter's file can be seen.
    ThisMachine,
    /// Also in containers: the kernel holds the interpreter open (flag `F`).
    Containers,
}

/// Reads a handler; `None` for one of another kind or of an architecture that we do not schedule for.
fn handler(text: &str) -> Option<Handler> {
    let mut lines = text.lines().map(str::trim);
    let first = lines.next()?;
    let (mut flags, mut offset, mut magic) = ("", 0_u32, "");
    for line in lines {
        match line.split_once(' ') {
            Some(("flags:", value)) => flags = value,
            Some(("offset", value)) => offset = value.parse().ok()?,
            Some(("magic", value)) => magic = value,
            Some(_) | None => {}
        }
    }
    if offset != 0 {
        return None;
    }
    let reach = match (first, flags.contains('F')) {
        ("enabled", true) => Reach::Containers,
        ("enabled", false) => Reach::ThisMachine,
        _ => Reach::Nowhere,
    };
    Some(Handler { arch: arch_of(magic)?, reach })
}

/// The architecture in the head of an ELF file: 64 bits, little end first, machine.
fn arch_of(magic: &str) -> Option<Arch> {
    let byte = |at: usize| u8::from_str_radix(magic.get(at * 2..at * 2 + 2)?, 16).ok();
    if magic.get(..12)? != "7f454c460201" {
        return None;
    }
    match u16::from_le_bytes([byte(18)?, byte(19)?]) {
        0x3e => Some(Arch::Amd64),
        0xb7 => Some(Arch::Arm64),
        0xf3 => Some(Arch::Riscv64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ARM64: &str = "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: OCF\noffset 0\nmagic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";

    fn machine(handlers: &[(&str, String)]) -> (tempfile::TempDir, Roots) {
        let directory = tempfile::tempdir().expect("a directory");
        let misc = directory.path().join("sys/fs/binfmt_misc");
        std::fs::create_dir_all(&misc).expect("made");
        for (name, text) in handlers {
            std::fs::write(misc.join(name), text).expect("written");
        }
        let roots = Roots { proc: directory.path().to_path_buf(), ..Roots::default() };
        (directory, roots)
    }

    #[test]
    fn only_handlers_that_reach_into_containers_count() {
        let riscv = ARM64.replace("b700", "f300").replace("aarch64", "riscv64");
        let (_directory, roots) = machine(&[
            ("register", String::new()),
            ("status", "enabled\n".to_owned()),
            ("qemu-aarch64", ARM64.to_owned()),
            ("qemu-riscv64", riscv.replace("OCF", "OC")),
            ("qemu-x86_64", ARM64.replace("b700", "3e00").replace("enabled", "disabled")),
            ("qemu-arm", ARM64.replace("7f454c4602", "7f454c4601").replace("b700", "2800")),
            ("python3.11", "enabled\ninterpreter /usr/bin/python3.11\nflags: \noffset 0\nmagic a70d0d0a\n".to_owned()),
            ("llvm", "enabled\ninterpreter /usr/bin/lli\nflags: \nextension .bc\n".to_owned()),
        ]);
        let found = survey(&roots);
        assert_eq!(found.archs, [Arch::Arm64]);
        let texts: Vec<&str> = found.notes.iter().map(|note| note.text.as_str()).collect();
        assert_eq!(
            texts,
            ["qemu-riscv64 runs riscv64 but not in containers: it was registered without the flag F", "qemu-x86_64 could run amd64 but is disabled"]
        );
    }

    #[test]
    fn all_are_off_when_the_kernel_says_so_and_a_machine_without_any_has_none() {
        let (_directory, roots) = machine(&[("status", "disabled\n".to_owned()), ("qemu-aarch64", ARM64.to_owned())]);
        assert_eq!(survey(&roots).archs, []);
        let (_directory, roots) = machine(&[]);
        assert_eq!(survey(&roots), Emulation::default());
        assert_eq!(survey(&Roots { proc: "/nowhere".into(), ..Roots::default() }), Emulation::default());
    }

    proptest! {
        #[test]
        fn no_handler_makes_it_panic(text in ".{0,200}", magic in "[0-9a-fé]{0,60}") {
            let _ = handler(&text);
            let _ = handler(&format!("enabled\nflags: F\noffset 0\nmagic {magic}"));
        }
    }
}
