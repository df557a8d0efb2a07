//! Tests of the profile: see `profile.rs`.

use proptest::prelude::*;

use super::*;

pub(super) fn request() -> ProfileRequest {
    ProfileRequest {
        user: "65532:65532".to_owned(),
        cpus: CpuMillis(500),
        memory: MemoryBytes(128 << 20),
        pids: 64,
        tmpfs: vec![TmpfsMount { path: "/tmp".to_owned(), size: MemoryBytes(32 << 20), exec: Exec::Forbidden }],
        network: NetworkAccess::None,
        runtime: "runc".to_owned(),
        stop_grace: Duration::from_secs(5),
        devices: DeviceGrant::None,
        runner_binary: None,
        filter: CallFilter::Ours,
        proof: None,
    }
}

fn fault(change: impl FnOnce(&mut ProfileRequest)) -> String {
    let mut request = request();
    change(&mut request);
    HardenedProfile::new(request).expect_err("this must be refused").field
}

#[test]
fn takes_a_sane_request_and_writes_the_user_canonically() {
    let profile = HardenedProfile::new(ProfileRequest { user: "01000:0".to_owned(), ..request() }).expect("a profile");
    assert_eq!(profile.user(), "1000:0");
}

#[test]
fn refuses_root_and_names() {
    for user in ["0:0", "0:1000", "00:1", "root", "root:root", "1000", "1000:", ":1", "", "+5:1", "-1:1", "1:1:1", "2147483648:1", "1 :1"] {
        assert_eq!(fault(|r| r.user = user.to_owned()), "user", "{user:?}");
    }
}

#[test]
fn refuses_amounts_out_of_range() {
    assert_eq!(fault(|r| r.cpus = CpuMillis(0)), "cpus");
    assert_eq!(fault(|r| r.cpus = CpuMillis(u64::MAX)), "cpus");
    assert_eq!(fault(|r| r.memory = MemoryBytes(1 << 20)), "memory");
    assert_eq!(fault(|r| r.memory = MemoryBytes(u64::MAX)), "memory");
    assert_eq!(fault(|r| r.pids = 0), "pids");
    assert_eq!(fault(|r| r.pids = u32::MAX), "pids");
    assert_eq!(fault(|r| r.stop_grace = Duration::ZERO), "stop_grace");
    assert_eq!(fault(|r| r.stop_grace = Duration::from_secs(2 * 60 * 60)), "stop_grace");
    for runtime in ["", "-x", "a b", "/bin/sh"] {
        assert_eq!(fault(|r| r.runtime = runtime.to_owned()), "runtime", "{runtime:?}");
    }
}

#[test]
fn refuses_directories_that_would_reach_elsewhere() {
    let paths = [
        "",
        "/",
        "tmp",
        "/tmp/",
        "/a//b",
        "/a/../b",
        "/.",
        "/proc",
        "/proc/x",
        "/sys/fs",
        "/dev/shm",
        "/a:b",
        "/a,size=9g",
        "/a\n",
        HardenedProfile::RUNNER_PATH,
        "/.runner-coordinator",
        HardenedProfile::RECEIPT_PATH,
    ];
    for path in paths {
        assert_eq!(fault(|r| r.tmpfs[0].path = path.to_owned()), "tmpfs.path", "{path:?}");
    }
    assert_eq!(fault(|r| r.tmpfs[0].size = MemoryBytes(1 << 40)), "tmpfs.size");
    assert_eq!(fault(|r| r.tmpfs[0].size = MemoryBytes(0)), "tmpfs.size");
    assert_eq!(fault(|r| r.tmpfs.push(r.tmpfs[0].clone())), "tmpfs.path");
    assert_eq!(fault(|r| r.tmpfs = vec![r.tmpfs[0].clone(); 17]), "tmpfs");
}

proptest! {
    #[test]
    fn no_user_text_becomes_root(user in "[0-9:+ a-z-]{0,14}") {
        if let Ok(profile) = HardenedProfile::new(ProfileRequest { user, ..request() }) {
            let (uid, gid) = profile.user().split_once(':').expect("both ids");
            prop_assert!(uid.parse::<u32>().expect("numeric") > 0);
            prop_assert!(gid.parse::<u32>().is_ok());
        }
    }
}
