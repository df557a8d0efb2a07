//! Makes metrics and remembers what was made, so that the documentation can be made from it and checked against it.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder, prometheus_text, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry, Unit};

use super::label::Label;

/// What every name begins with, except those of the process, which all programs call alike.
const PREFIX: &str = "runner_coordinator_";
/// What the names of the process's own numbers begin with, by convention.
const PROCESS: &str = "process_";
/// Units, by the end of a name.
const UNITS: [&str; 5] = ["seconds", "bytes", "joules", "celsius", "ratio"];

/// What kind of metric it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from 0 at the start of the daemon unless its help says otherwise.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How many events fell below each of some bounds.
    Histogram,
}

impl Kind {
    /// The name in texts.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What is known of a metric without any of its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// As Prometheus shows it; a histogram's series add `_bucket`, `_sum` and `_count`.
    pub name: String,
    /// What kind it is.
    pub kind: Kind,
    /// The unit, where it has one.
    pub unit: Option<&'static str>,
    /// The labels of its series.
    pub labels: Vec<&'static str>,
    /// What it means.
    pub help: &'static str,
}

impl Description {
    /// The names of its series and what labels they have.
    #[must_use]
    pub fn series(&self) -> Vec<(String, Vec<&'static str>)> {
        match self.kind {
            Kind::Counter | Kind::Gauge => vec![(self.name.clone(), self.labels.clone())],
            Kind::Histogram => {
                let with_bound = [self.labels.as_slice(), &["le"]].concat();
                let plain = ["_sum", "_count"].map(|end| (format!("{}{end}", self.name), self.labels.clone()));
                [vec![(format!("{}_bucket", self.name), with_bound)], plain.to_vec()].concat()
            }
        }
    }
}

/// The names of labels, and a value for each.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Labels<const N: usize> {
    names: [&'static str; N],
    values: [Label; N],
}

impl<const N: usize> EncodeLabelSet for Labels<N> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let pairs: [(&str, &str); N] = std::array::from_fn(|at| (self.names[at], self.values[at].as_str()));
        pairs.encode(encoder)
    }
}

/// The bounds of a histogram.
#[derive(Debug, Clone, Copy)]
struct Bounds(&'static [f64]);

impl MetricConstructor<Histogram> for Bounds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

/// Metrics of one name, one for each combination of its labels' values.
#[derive(Debug, Clone)]
struct Vector<M, C, const N: usize> {
    names: [&'static str; N],
    family: Family<Labels<N>, M, C>,
}

impl<M: Clone, C: MetricConstructor<M>, const N: usize> Vector<M, C, N> {
    fn of(&self, values: [Label; N]) -> M {
        self.family.get_or_create_owned(&Labels { names: self.names, values })
    }
}

/// Counts events.
#[derive(Debug, Clone)]
pub struct Counters<const N: usize>(Vector<Counter, fn() -> Counter, N>);

impl<const N: usize> Counters<N> {
    /// One more.
    pub fn count(&self, values: [Label; N]) {
        self.0.of(values).inc();
    }

    /// Makes the series be there before its first event, so that the first one is seen as a rise.
    pub fn prepare(&self, values: [Label; N]) {
        self.0.of(values);
    }
}

type Amount = Counter<f64, AtomicU64>;

/// Adds up amounts.
#[derive(Debug, Clone)]
pub struct Sums<const N: usize>(Vector<Amount, fn() -> Amount, N>);

impl<const N: usize> Sums<N> {
    /// So much more. What is negative or no number is left out.
    pub fn add(&self, values: [Label; N], amount: f64) {
        if amount >= 0.0 {
            self.0.of(values).inc_by(amount);
        }
    }
}

type Value = Gauge<f64, AtomicU64>;

/// Values that go up and down.
#[derive(Debug, Clone)]
pub struct Gauges<const N: usize>(Vector<Value, fn() -> Value, N>);

impl<const N: usize> Gauges<N> {
    /// It is so much now.
    pub fn set(&self, values: [Label; N], value: f64) {
        self.0.of(values).set(value);
    }

    /// It is so much more.
    pub fn raise(&self, values: [Label; N], by: f64) {
        self.0.of(values).inc_by(by);
    }
}

/// How long things took.
#[derive(Debug, Clone)]
pub struct Durations<const N: usize>(Vector<Histogram, Bounds, N>);

impl<const N: usize> Durations<N> {
    /// One of these took so long.
    pub fn observe(&self, values: [Label; N], took: Duration) {
        self.0.of(values).observe(took.as_secs_f64());
    }

    /// Makes the series be there before its first event.
    pub fn prepare(&self, values: [Label; N]) {
        self.0.of(values);
    }
}

/// In which format to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `OpenMetrics` 1.0, what Prometheus asks for.
    OpenMetrics,
    /// Prometheus's own older text, for everybody else.
    Prometheus,
}

/// Makes metrics; writes them.
#[derive(Debug, Default)]
pub struct Registrar {
    registry: Registry,
    made: Vec<Description>,
}

impl Registrar {
    /// Counts events. The name goes without our prefix and without `_total`.
    pub fn counters<const N: usize>(&mut self, name: &'static str, labels: [&'static str; N], help: &'static str) -> Counters<N> {
        let made = Counters(Vector { names: labels, family: Family::default() });
        self.note(name, Kind::Counter, &labels, help, made.0.family.clone());
        made
    }

    /// Adds up amounts of what the name ends with. The name goes without our prefix and without `_total`.
    pub fn sums<const N: usize>(&mut self, name: &'static str, labels: [&'static str; N], help: &'static str) -> Sums<N> {
        let made = Sums(Vector { names: labels, family: Family::default() });
        self.note(name, Kind::Counter, &labels, help, made.0.family.clone());
        made
    }

    /// Values that go up and down.
    pub fn gauges<const N: usize>(&mut self, name: &'static str, labels: [&'static str; N], help: &'static str) -> Gauges<N> {
        let made = Gauges(Vector { names: labels, family: Family::default() });
        self.note(name, Kind::Gauge, &labels, help, made.0.family.clone());
        made
    }

    /// How long things took, with the bounds in seconds.
    pub fn durations<const N: usize>(
        &mut self,
        name: &'static str,
        labels: [&'static str; N],
        bounds: &'static [f64],
        help: &'static str,
    ) -> Durations<N> {
        let made = Durations(Vector { names: labels, family: Family::new_with_constructor(Bounds(bounds)) });
        self.note(name, Kind::Histogram, &labels, help, made.0.family.clone());
        made
    }

    fn note(&mut self, name: &'static str, kind: Kind, labels: &[&'static str], help: &'static str, metric: impl Metric) {
        let prefix = if name.starts_with(PROCESS) { "" } else { PREFIX };
        let unit = UNITS.into_iter().find(|unit| name.strip_suffix(unit).is_some_and(|stem| stem.ends_with('_')));
        let end = if kind == Kind::Counter { "_total" } else { "" };
        self.made.push(Description { name: format!("{prefix}{name}{end}"), kind, unit, labels: labels.to_vec(), help });
        // The registry ends every help with a full stop of its own.
        let said = help.trim_end_matches('.');
        match unit {
            Some(unit) => {
                let stem = name.trim_end_matches(unit).trim_end_matches('_');
                self.registry.register_with_unit(format!("{prefix}{stem}"), said, Unit::Other(unit.to_owned()), metric);
            }
            None => self.registry.register(format!("{prefix}{name}"), said, metric),
        }
    }

    /// What was made.
    #[must_use]
    pub fn descriptions(&self) -> &[Description] {
        &self.made
    }

    /// Appends all series to a text.
    ///
    /// # Errors
    /// Never, as long as a text can be written to.
    pub fn write(&self, format: Format, text: &mut String) -> fmt::Result {
        match format {
            Format::OpenMetrics => text::encode_registry(text, &self.registry),
            Format::Prometheus => prometheus_text::encode(text, &self.registry),
        }
    }
}

/// What stands at the end of a whole text.
///
/// # Errors
/// Never, as long as a text can be written to.
pub fn end(format: Format, text: &mut String) -> fmt::Result {
    match format {
        Format::OpenMetrics => text::encode_eof(text),
        Format::Prometheus => Ok(()),
    }
}
