//! Single values, each line given to every reader that takes a text from outside.
//!
//! What must hold: what is read, written and read again is the same.

use std::fmt::{Debug, Display};

use runner_coordinator::config::Destination;
use runner_coordinator::domain::{
    Arch, ClassName, ComputeCapability, DiskMark, Emulation, FieldFault, GpuRequest, GpuVendor, HostFile, ImagePattern, ImageRef, MemoryBytes,
    ModelPattern, PciAddress, ProjectName,
};
use runner_coordinator::platform::devices::toolkit::Version;
use runner_coordinator::platform::process;

pub(crate) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = (Version::find(&text), process::from_stat(&text));
    for line in text.split('\n') {
        one(line);
    }
}

fn one(text: &str) {
    again(text, MemoryBytes::parse);
    again(text, Destination::parse);
    again(text, DiskMark::parse);
    again(text, ComputeCapability::parse);
    again(text, ImageRef::parse);
    again(text, HostFile::parse);
    again(text, ClassName::parse);
    again(text, ProjectName::parse);
    again(text, Arch::parse);
    again(text, GpuVendor::parse);
    if let Some(address) = PciAddress::parse(text) {
        assert_eq!(PciAddress::parse(&address.to_string()), Some(address), "{text:?}");
    }
    if let Some(destination) = Destination::of_url(text) {
        assert_eq!(Destination::parse("value", &destination.to_string()), Ok(destination), "{text:?}");
    }
    let _ = (Emulation::parse("value", text), GpuRequest::checked_mig_profile("value", text));
    image(text);
    if let Ok(pattern) = ModelPattern::parse("value", text) {
        let _ = (pattern.matches("NVIDIA A100-SXM4-40GB"), pattern.matches(text));
    }
    if let Ok(path) = HostFile::parse("value", text) {
        let never = ["/proc", "/sys", "/dev", "/run", "/var/run"];
        assert!(!never.iter().any(|never| std::path::Path::new(path.as_str()).starts_with(never)), "{text:?}");
    }
}

fn image(text: &str) {
    let Ok(image) = ImageRef::parse("value", text) else { return };
    let whole = image.qualified();
    // Of the longest names there are, the whole spelling is too long.
    if text.len() < 200 {
        assert_eq!(ImageRef::parse("value", whole.as_str()).as_ref(), Ok(&whole), "{text:?}");
    }
    assert_eq!(whole.qualified(), whole, "{text:?}");
    assert!(whole.as_str().starts_with(&whole.repository()), "{text:?}");
    let _ = (image.registry(), image.name_and_version());
    // What names one image is also the pattern of that one.
    if let Ok(pattern) = ImagePattern::parse("value", text) {
        assert!(pattern.matches(&image), "{text:?}");
    }
}

fn again<T: Display + Debug + PartialEq>(text: &str, parse: impl Fn(&str, &str) -> Result<T, FieldFault>) {
    if let Ok(value) = parse("value", text) {
        let written = value.to_string();
        assert_eq!(parse("value", &written), Ok(value), "{text:?} was written as {written:?}");
    }
}
