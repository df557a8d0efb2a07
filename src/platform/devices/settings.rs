//! From the settings to a watch over the devices.

use std::collections::HashSet;
use std::sync::Arc;

use super::toolkit::Toolkit;
use super::watch::{DEADLINE, DeviceWatch, Held};
use super::{Roots, sources};
use crate::config::{Config, Gpu};
use crate::domain::{Clock, DeviceNote, Weight};
use crate::platform::{Inventory, PlatformManager};

impl From<&Gpu> for Roots {
    fn from(settings: &Gpu) -> Self {
        Self { sysfs: settings.sysfs.clone(), dev: settings.dev.clone(), proc: settings.proc.clone(), nvml: settings.nvml.clone() }
    }
}

/// The watch over this machine's devices. An engine on another machine has devices of its own, which cannot be seen from here: then
/// there is none, and that is noted.
#[must_use]
pub fn watch(config: &Config, platform: &Arc<PlatformManager>, held: Held, clock: Arc<dyn Clock>) -> Option<DeviceWatch> {
    if !config.docker.host.starts_with("unix://") {
        let text = format!("the engine at {} is on another machine, whose devices cannot be seen from here", config.docker.host);
        let note = DeviceNote { about: "devices".to_owned(), weight: Weight::Info, text };
        platform.on_devices(Inventory { notes: vec![note], ..Inventory::default() });
        return None;
    }
    let roots = Roots::from(&config.gpu);
    let toolkit = Toolkit::new(config.gpu.toolkit.clone(), config.gpu.old_toolkit);
    let watch = DeviceWatch::new(roots.clone(), sources(&roots, config.gpu.integrated), Arc::clone(platform), held, DEADLINE, clock);
    Some(watch.minding(toolkit))
}

/// Nobody holds anything: for a look that is not followed by others.
#[must_use]
pub fn nobody() -> Held {
    Arc::new(HashSet::new)
}
