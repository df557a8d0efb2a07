//! NVIDIA's cards, through the driver's own library, which is loaded when it is there and missed when it is not.
//!
//! [`serve`] runs on a thread of its own, because any call may hang. It keeps one session with the library open, since opening one can
//! take seconds per card, and since faults ("Xids") are only told to those who listened when they happened. A session ends when the
//! library says that it is of no use any more; the next look opens another.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::Receiver;

use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::event::EventSet;

use super::guard::Reply;
use super::nvidia_card::{self, Trouble, reading};
use super::{MAX_DEVICES, Roots, Seen, Sight, Survey, note, sysfs};
use crate::domain::{DeviceNote, Gpu, GpuFaults, GpuHealth, GpuId, GpuVendor, GpuVitals, Reading, Weight};

/// NVIDIA's number on the PCI bus.
const NVIDIA: u32 = 0x10de;
/// Faults that a program causes and that leave the card as it was; the list is the one that NVIDIA's device plugin for Kubernetes uses.
const FAULTS_OF_PROGRAMS: [u64; 6] = [13, 31, 43, 45, 68, 109];
/// Looks with a card that is lost, after which the session is opened anew, for a card that was reset shows only then.
const LOOKS_WITH_A_LOST_CARD: u32 = 20;

/// Faults by card. They outlive sessions, but not the driver.
type Xids = HashMap<GpuId, Heard>;

/// The faults that were heard of one card.
#[derive(Debug, Default)]
struct Heard {
    /// The latest of all, the last one last.
    xids: VecDeque<u64>,
    /// Those of the card itself.
    faults: GpuFaults,
}

impl Heard {
    fn note(&mut self, xid: u64) {
        if self.xids.len() == GpuVitals::MAX_XIDS {
            self.xids.pop_front();
        }
        self.xids.push_back(xid);
        if !FAULTS_OF_PROGRAMS.contains(&xid) {
            self.faults = GpuFaults { count: self.faults.count.saturating_add(1), last: Some(describe(xid)) };
        }
    }
}

/// Answers every question with a look at the cards, until nobody can ask any more.
pub fn serve(roots: &Roots, asked: &Receiver<Reply<Survey>>) {
    let mut xids = Xids::new();
    while let Ok(reply) = asked.recv() {
        match open(roots) {
            // An asker that has gone needs no answer, here and below.
            Ok(nvml) => Session::new(roots, &nvml, &mut xids).run(reply, asked),
            Err(survey) => {
                xids.clear();
                let _ = reply.send(survey);
            }
        }
    }
}

/// Opens a session, or says what a machine without one is.
fn open(roots: &Roots) -> Result<Nvml, Survey> {
    let nvml = Nvml::builder().lib_path(roots.nvml.as_os_str()).init().map_err(|error| no_session(roots, &error))?;
    if nvml.lib().nvmlShutdown.is_err() || nvml.lib().nvmlEventSetFree.is_err() {
        // The wrapper ends what it began with calls that it takes for granted.
        std::mem::forget(nvml);
        return Err(no_session(roots, &NvmlError::FailedToLoadSymbol("nvmlShutdown or nvmlEventSetFree".to_owned())));
    }
    Ok(nvml)
}

fn no_session(roots: &Roots, error: &NvmlError) -> Survey {
    let (reason, no_driver) = match error {
        NvmlError::LibloadingError(cause) => (format!("no NVIDIA driver: {cause}"), true),
        NvmlError::DriverNotLoaded => ("no NVIDIA driver: the library is there, the kernel module is not loaded".to_owned(), true),
        other => (format!("the NVIDIA driver does not work: NVML: {other}"), false),
    };
    let cards = sysfs::display_controllers(roots, NVIDIA);
    let weight = if no_driver && cards.is_empty() { Weight::Info } else { Weight::Warning };
    let mut notes = vec![note(GpuVendor::Nvidia, weight, reason.clone())];
    notes.extend(cards.iter().map(|address| note(GpuVendor::Nvidia, Weight::Warning, format!("the card at {address} cannot be used"))));
    Survey { sight: Sight::Blind(reason), notes }
}

/// One card of a session, by its number.
#[derive(Default)]
struct Slot<'nvml> {
    /// The card as it last answered: a lost one does not even tell who it is.
    last: Option<Gpu>,
    events: Option<EventSet<'nvml>>,
}

struct Session<'a, 'nvml> {
    roots: &'a Roots,
    nvml: &'nvml Nvml,
    xids: &'a mut Xids,
    slots: Vec<Slot<'nvml>>,
    looks_with_lost: u32,
}

/// Whether a session can be used further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Further,
    Over,
}

impl<'a, 'nvml> Session<'a, 'nvml> {
    fn new(roots: &'a Roots, nvml: &'nvml Nvml, xids: &'a mut Xids) -> Self {
        Self { roots, nvml, xids, slots: Vec::new(), looks_with_lost: 0 }
    }

    fn run(mut self, first: Reply<Survey>, asked: &Receiver<Reply<Survey>>) {
        let mut reply = first;
        loop {
            let (survey, further) = self.look();
            let _ = reply.send(survey);
            if further == Use::Over {
                return;
            }
            match asked.recv() {
                Ok(next) => reply = next,
                Err(_) => return,
            }
        }
    }

    fn look(&mut self) -> (Survey, Use) {
        let count = match self.nvml.device_count() {
            Ok(count) => usize::try_from(count).unwrap_or(MAX_DEVICES).min(MAX_DEVICES),
            Err(error) => return (no_session(self.roots, &error), Use::Over),
        };
        let driver = reading(self.nvml.sys_driver_version()).map(|version| format!("nvidia {version}"));
        self.slots.resize_with(count, Slot::default);
        let (mut seen, mut notes) = (Vec::new(), Vec::new());
        for index in 0..count {
            self.look_at(index, &driver, &mut seen, &mut notes);
        }
        let lost = !notes.is_empty() || seen.iter().any(|one| matches!(one.gpu.health, GpuHealth::Lost(_)));
        self.looks_with_lost = if lost { self.looks_with_lost + 1 } else { 0 };
        let further = if self.looks_with_lost >= LOOKS_WITH_A_LOST_CARD { Use::Over } else { Use::Further };
        (Survey { sight: Sight::Seen(seen), notes }, further)
    }

    /// Reads one card with its parts.
    fn look_at(&mut self, index: usize, driver: &Reading<String>, seen: &mut Vec<Seen>, notes: &mut Vec<DeviceNote>) {
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        let Some(slot) = self.slots.get_mut(index) else { return };
        let card = self.nvml.device_by_index(number).map_err(Trouble::from).and_then(|device| {
            let card = nvidia_card::read(self.roots, &device, number, driver)?;
            if slot.events.is_none() {
                slot.events = listen(self.nvml, &device);
            }
            Ok((device, card))
        });
        let (device, mut card) = match card {
            Ok(card) => card,
            Err(trouble) => {
                let text = format!("GPU {number} does not answer: {trouble}");
                match slot.last.clone() {
                    Some(last) => {
                        let gpu = Gpu { health: GpuHealth::Lost(trouble.to_string()), ..last };
                        seen.push(Seen { gpu, vitals: GpuVitals::unreadable(&text) });
                    }
                    None => notes.push(note(GpuVendor::Nvidia, Weight::Warning, text)),
                }
                return;
            }
        };
        let known = self.xids.entry(card.gpu.id.clone()).or_default();
        if let Some(events) = &slot.events {
            drain(events, known);
        }
        card.vitals.xids = known.xids.iter().copied().collect();
        card.vitals.faults = known.faults.clone();
        slot.last = Some(card.gpu.clone());
        let parts = nvidia_card::parts(self.roots, &device, &card.gpu, notes);
        seen.push(card);
        seen.extend(parts);
    }
}

/// Has faults of a card kept for us. Old cards and some virtual ones cannot.
fn listen<'nvml>(nvml: &'nvml Nvml, device: &nvml_wrapper::Device<'nvml>) -> Option<EventSet<'nvml>> {
    let set = nvml.create_event_set().ok()?;
    device.register_events(EventTypes::CRITICAL_XID_ERROR, set).ok()
}

/// Takes the faults that were kept, without waiting for more.
fn drain(events: &EventSet<'_>, known: &mut Heard) {
    // Bounded, should a library never run out of them.
    for _ in 0..GpuVitals::MAX_XIDS {
        let Ok(event) = events.wait(0) else { return };
        let fault = match event.event_data {
            Some(XidError::Value(fault)) => fault,
            Some(XidError::Unknown) => 999,
            None => continue,
        };
        known.note(fault);
    }
}

/// A fault with what it means, for the common ones.
fn describe(xid: u64) -> String {
    let meaning = match xid {
        48 | 94 | 95 => "memory error that could not be corrected",
        61 | 62 => "its microcontroller halted",
        63 | 64 => "a memory row was retired",
        74 => "NVLink error",
        79 => "it fell off the bus",
        119 | 120 => "its system processor does not answer",
        999 => "unknown fault",
        _ => return format!("Xid {xid}"),
    };
    format!("Xid {xid}: {meaning}")
}

#[cfg(test)]
#[path = "nvidia_tests.rs"]
mod tests;
