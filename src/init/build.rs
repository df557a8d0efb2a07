//! Builds the first process of jobs' containers ([`main.rs`](main.rs)) as a small static program, which the daemon then carries inside itself:
//! a container's image may bring no libraries at all, and an administrator then has one file to install.

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    let top = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(variable("OUT_DIR")?);
    let target = variable("TARGET")?;
    for file in ["src/init/main.rs", "src/init/Cargo.toml", "src/init/build.rs", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", top.join(file).display());
    }
    // A directory of its own: cargo holds a lock on the one that it builds in.
    let directory = out.join("init");
    let mut cargo = Command::new(variable("CARGO")?);
    cargo.args(["build", "--locked", "--quiet", "--package", "runner-coordinator-init", "--profile", "init", "--target", &target]);
    cargo.arg("--manifest-path").arg(top.join("Cargo.toml")).arg("--target-dir").arg(&directory);
    // What the outer build was told (lints, coverage, processors) is not for this one.
    for name in ["RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(name);
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    let status = cargo.status()?;
    if !status.success() {
        return Err(format!(
            "the init of containers could not be built ({status}); it is linked statically, which needs the static C library of {target}"
        )
        .into());
    }
    let built = directory.join(&target).join("init/runner-coordinator-init");
    std::fs::copy(&built, out.join("runner-coordinator-init")).map_err(|error| format!("{}: {error}", built.display()))?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "cargo tells a build script everything by the environment")]
fn variable(name: &str) -> Result<String, Box<dyn Error>> {
    env::var(name).map_err(|error| format!("{name}: {error}").into())
}
