//! `[traces]`: where the traces of ended jobs are sent.

use secrecy::SecretString;

use super::section::Section;
use super::values;
use crate::domain::FieldFault;

/// Most headers of a request to the collector.
const MOST_HEADERS: usize = 16;

/// Where the traces of ended jobs are sent.
#[derive(Debug, Clone)]
pub struct Traces {
    /// `traces.endpoint`, needed: base URL of an OTLP receiver that speaks HTTP; `/v1/traces` is put behind it.
    pub endpoint: String,
    /// `[[traces.headers]]`, default none: headers of every request, such as an API key.
    pub headers: Vec<TraceHeader>,
    /// `traces.sample`, default 1: which part of the jobs is sent, from 0 to 1.
    pub sample: f64,
}

/// One header.
#[derive(Debug, Clone)]
pub struct TraceHeader {
    /// `name`.
    pub name: String,
    /// `value` or `value_file`.
    pub value: SecretString,
}

/// Reads `[traces]`.
pub(super) fn read(section: &mut Section<'_>) -> Option<Traces> {
    let endpoint = section.required("endpoint", values::base_url);
    let sample = section.number("sample", ratio).unwrap_or(1.0);
    let mut given = 0;
    let headers = section.each("headers", |header| {
        given += 1;
        let name = header.required("name", header_name);
        let value = header.secret("value");
        if !header.has("value") && !header.has("value_file") {
            header.fault("value", "or value_file must be given");
        }
        Some(TraceHeader { name: name?, value: value? })
    });
    if given > MOST_HEADERS {
        section.fault("headers", format!("must be at most {MOST_HEADERS}"));
    }
    Some(Traces { endpoint: endpoint?, headers, sample })
}

fn ratio(field: &str, number: f64) -> Result<f64, FieldFault> {
    if (0.0..=1.0).contains(&number) { Ok(number) } else { Err(FieldFault::new(field, "must be a number from 0 to 1")) }
}

/// A name as HTTP allows it.
fn header_name(field: &str, text: &str) -> Result<String, FieldFault> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let good = (1..=128).contains(&text.len()) && text.chars().all(legal);
    if good { Ok(text.to_owned()) } else { Err(FieldFault::new(field, "must be the name of an HTTP header such as authorization")) }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use crate::config::fixture::load;

    #[test]
    fn nothing_is_sent_unless_somebody_says_where() {
        assert!(load("").expect("a configuration").traces.is_none());
        let toml = "[traces]\nendpoint = \"https://collector.test/otlp/\"\nsample = 0.25\n[[traces.headers]]\nname = \"api-key\"\nvalue = \"hunter2, twice\"";
        let traces = load(toml).expect("a configuration").traces.expect("traces");
        assert_eq!((traces.endpoint.as_str(), traces.headers[0].name.as_str()), ("https://collector.test/otlp", "api-key"));
        assert!((traces.sample - 0.25).abs() < f64::EPSILON && traces.headers[0].value.expose_secret() == "hunter2, twice");
        assert!(!format!("{traces:?}").contains("hunter2"));
    }

    #[test]
    fn every_fault_is_told() {
        let toml = "[traces]\nsample = 1.5\nprotocol = \"grpc\"\n[[traces.headers]]\nname = \"a b\"\n";
        let faults = load(toml).expect_err("faults");
        for key in ["traces.endpoint must", "traces.sample", "traces.protocol", "traces.headers[0].name", "traces.headers[0].value"] {
            assert!(faults.contains(key), "{key}: {faults}");
        }
        let many =
            format!("[traces]\nendpoint = \"http://c\"\n{}", "[[traces.headers]]\nname = \"a\"\nvalue = \"b\"\n".repeat(super::MOST_HEADERS + 1));
        assert!(load(&many).expect_err("a fault").contains("traces.headers must be at most"));
    }
}
