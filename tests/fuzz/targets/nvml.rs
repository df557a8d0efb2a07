//! What NVIDIA's library tells, through the real wrapper and the stand-in of `tests/gpu/nvml.c`: the text is what the stand-in reads.
//!
//! What must hold: a look is answered, whatever the library says, and no two cards that are known have one id.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::sync_channel;

use runner_coordinator::domain::GpuVendor;
use runner_coordinator::platform::devices::nvidia;

use super::machine::Machine;

thread_local! {
    static MACHINE: Machine = built();
}

/// A machine with the stand-in.
fn built() -> Machine {
    let machine = Machine::new();
    let library = machine.path().join("lib/libnvidia-ml.so.1");
    std::fs::create_dir_all(machine.path().join("lib")).expect("made");
    let status = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source()).status();
    assert!(status.expect("cc is there").success(), "the stand-in for NVML does not compile");
    machine
}

/// It is compiled in two packages, of which one lies below the other.
fn source() -> PathBuf {
    let places = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|above| above.join("tests/gpu/nvml.c"));
    places.into_iter().find(|place| place.exists()).expect("the stand-in's source")
}

pub(crate) fn run(data: &[u8]) {
    // A library that hangs is what the guard around it is for.
    if data.windows(4).any(|four| four == b"hang") {
        return;
    }
    MACHINE.with(|machine| {
        std::fs::write(machine.path().join("lib/libnvidia-ml.so.1.state"), data).expect("written");
        let (ask, asked) = sync_channel(2);
        let answers = [(); 2].map(|()| {
            let (reply, answer) = tokio::sync::oneshot::channel();
            ask.send(reply).expect("there is room");
            answer
        });
        drop(ask);
        nvidia::serve(&machine.roots(), &asked);
        for mut answer in answers {
            let survey = answer.try_recv().expect("each question is answered");
            super::devices::check(GpuVendor::Nvidia, &survey);
        }
    });
}
