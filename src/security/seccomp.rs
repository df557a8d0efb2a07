//! Which system calls a container may make.
//!
//! The list is our own, in the form that engines read, and closes more than theirs: see `docs/security.md`. What it does not name is refused.

use std::sync::LazyLock;

/// As people read it.
const PROFILE: &str = include_str!("../../config/seccomp.json");

/// The engine's option that sets it. Engines take the text and not a file's name.
pub(super) static OPTION: LazyLock<String> = LazyLock::new(|| {
    // What cannot be read would be refused by every engine; a test reads it.
    let compact = serde_json::from_str::<serde_json::Value>(PROFILE).map_or_else(|_| PROFILE.to_owned(), |profile| profile.to_string());
    format!("seccomp={compact}")
});

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn profile() -> Value {
        serde_json::from_str(OPTION.strip_prefix("seccomp=").expect("an option")).expect("JSON")
    }

    /// What may be called: whatever its arguments, or as they decide.
    fn allowed(decided_by: Option<&str>) -> BTreeSet<String> {
        let profile = profile();
        let rules = profile["syscalls"].as_array().expect("rules").iter();
        let such = rules.filter(|rule| rule["action"] == "SCMP_ACT_ALLOW" && rule.get("args").is_some() == decided_by.is_some());
        such.flat_map(|rule| rule["names"].as_array().expect("names")).map(|name| name.as_str().expect("a name").to_owned()).collect()
    }

    #[test]
    fn what_it_does_not_name_is_refused() {
        assert_eq!((&profile()["defaultAction"], &profile()["defaultErrnoRet"]), (&Value::from("SCMP_ACT_ERRNO"), &Value::from(1)));
        let plain = allowed(None);
        assert!(plain.len() > 300 && plain.contains("execve") && plain.contains("openat"), "{plain:?}");
        assert_eq!(allowed(Some("args")), ["clone", "personality", "socket", "socketpair"].map(str::to_owned).into());
    }

    #[test]
    fn what_is_attacked_and_not_needed_is_not_in_it() {
        let plain = allowed(None);
        for closed in [
            "bpf",
            "perf_event_open",
            "userfaultfd",
            "io_uring_setup",
            "add_key",
            "keyctl",
            "request_key",
            "mount",
            "umount2",
            "fsopen",
            "move_mount",
            "open_tree",
            "unshare",
            "setns",
            "pivot_root",
            "chroot",
            "open_by_handle_at",
            "init_module",
            "finit_module",
            "kexec_load",
            "reboot",
            "swapon",
            "clone",
            "clone3",
            "socket",
            "socketcall",
            "socketpair",
            "personality",
            "fanotify_init",
            "modify_ldt",
            "vmsplice",
            "syslog",
            "quotactl",
            "sethostname",
            "clock_settime",
            "settimeofday",
            "acct",
            "iopl",
            "ioperm",
            "pidfd_getfd",
            "process_madvise",
            "move_pages",
            "kcmp",
            "memfd_secret",
        ] {
            assert!(!plain.contains(closed), "{closed}");
        }
    }

    #[test]
    fn each_architecture_that_we_run_on_has_its_filter_and_x32_has_none() {
        let profile = profile();
        let maps = profile["archMap"].as_array().expect("architectures");
        let names: Vec<&str> = maps.iter().map(|map| map["architecture"].as_str().expect("a name")).collect();
        assert_eq!(names, ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64", "SCMP_ARCH_RISCV64"]);
        assert!(!profile.to_string().contains("SCMP_ARCH_X32"));
    }
}
