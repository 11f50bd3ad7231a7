//! The settings of traces: the collector's address and the sampler, from the flag and then from the variables
//! that every OpenTelemetry SDK reads.

use std::path::PathBuf;

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};
use opentelemetry_sdk::trace::Sampler;

/// The path of traces in OTLP over HTTP.
const PATH: &str = "/v1/traces";

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const TRACES_PROTOCOL: &str = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL";
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
const TRACES_HEADERS: &str = "OTEL_EXPORTER_OTLP_TRACES_HEADERS";
const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";
const TRACES_CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE";
/// Settings that are not supported: a client certificate for the collector.
const CLIENT_IDENTITY: [&str; 4] = [
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY",
];
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";

/// The collector to which traces go, and the sampler that selects requests.
#[derive(Clone, Debug)]
pub struct TraceSettings {
    pub(super) endpoint: String,
    /// File of the certificates that may sign the collector's.
    pub(super) certificate: Option<PathBuf>,
    pub(super) sampler: Sampler,
}

/// A setting that is invalid or not supported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} is {value:?}: {allowed}")]
pub struct InvalidTraceSetting {
    name: &'static str,
    value: String,
    allowed: &'static str,
}

// === impl TraceSettings ===

impl TraceSettings {
    /// Reads the flag `--otlp-traces-endpoint` and the environment; returns `None` when neither names a
    /// collector.
    ///
    /// # Errors
    /// The first setting that is invalid here.
    pub fn read(
        flag: Option<&str>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, InvalidTraceSetting> {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        let general = || Some(endpoint(ENDPOINT, &set(ENDPOINT)?, Path::Appended));
        let of_traces = || Some(endpoint(TRACES_ENDPOINT, &set(TRACES_ENDPOINT)?, Path::AsGiven));
        let of_flag = flag.map(|url| endpoint("--otlp-traces-endpoint", url, Path::IfNone));
        let Some(endpoint) = of_flag.or_else(of_traces).or_else(general).transpose()? else {
            return Ok(None);
        };
        for name in [TRACES_PROTOCOL, PROTOCOL] {
            if let Some(value) = set(name).filter(|value| value != "http/protobuf") {
                let allowed =
                    "only http/protobuf is spoken, for which collectors listen on port 4318";
                return Err(InvalidTraceSetting { name, value, allowed });
            }
        }
        for name in CLIENT_IDENTITY {
            if let Some(value) = set(name) {
                let allowed = "collectors are shown no certificate; a token can go along in \
                               OTEL_EXPORTER_OTLP_HEADERS";
                return Err(InvalidTraceSetting { name, value, allowed });
            }
        }
        // The exporter reads them, and drops without a word what it does not understand.
        for name in [TRACES_HEADERS, HEADERS] {
            set(name).map_or(Ok(()), |value| headers(name, &value))?;
        }
        let certificate = set(TRACES_CERTIFICATE).or_else(|| set(CERTIFICATE)).map(PathBuf::from);
        let sampler = sampler(set(SAMPLER), set(SAMPLER_ARG))?;
        Ok(Some(Self { endpoint, certificate, sampler }))
    }
}

/// The treatment of a URL's path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Path {
    AsGiven,
    IfNone,
    Appended,
}

fn endpoint(name: &'static str, value: &str, path: Path) -> Result<String, InvalidTraceSetting> {
    let invalid = |allowed| InvalidTraceSetting { name, value: value.to_owned(), allowed };
    let how = "write a URL such as http://localhost:4318 or https://collector.example:4318";
    let uri: Uri = value.parse().map_err(|_| invalid(how))?;
    let Some("http" | "https") = uri.scheme_str() else { return Err(invalid(how)) };
    if uri.host().is_none_or(str::is_empty) {
        return Err(invalid(how));
    }
    let bare = value.trim_end_matches('/');
    Ok(match path {
        Path::Appended => format!("{bare}{PATH}"),
        Path::IfNone if uri.path() == "/" => format!("{bare}{PATH}"),
        Path::IfNone | Path::AsGiven => value.to_owned(),
    })
}

/// Checks that every header is valid: `name=value`, separated by commas, with the escapes of URLs. An error
/// does not repeat the headers, which may be secret.
fn headers(name: &'static str, value: &str) -> Result<(), InvalidTraceSetting> {
    let is_header = |header: &str| {
        let (name, value) = header.split_once('=')?;
        HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
        HeaderValue::from_bytes(&unescaped(value.trim())?).ok()
    };
    if value.split_terminator(',').all(|header| is_header(header).is_some()) {
        return Ok(());
    }
    let allowed = "write name=value, several of them with commas between, and a space as %20, such as \
                   authorization=Bearer%20TOKEN";
    Err(InvalidTraceSetting { name, value: "…".to_owned(), allowed })
}

/// Decodes the `%20`s of a text.
fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.as_bytes().split(|&byte| byte == b'%');
    let mut bytes = parts.next().unwrap_or_default().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        bytes.extend(rest);
    }
    Some(bytes)
}

/// Returns the sampler that has OpenTelemetry's name.
fn sampler(name: Option<String>, arg: Option<String>) -> Result<Sampler, InvalidTraceSetting> {
    let ratio = || match &arg {
        None => Ok(1.0),
        Some(value) => match value.parse() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
            _ => {
                let allowed = "write the part of requests to trace, from 0 to 1, such as 0.01";
                Err(InvalidTraceSetting { name: SAMPLER_ARG, value: value.clone(), allowed })
            }
        },
    };
    let name = name.unwrap_or_else(|| "parentbased_always_on".to_owned());
    let (name, follows_parent) = match name.strip_prefix("parentbased_") {
        Some(root) => (root, true),
        None => (&*name, false),
    };
    let root = match name {
        "always_on" => Sampler::AlwaysOn,
        "always_off" => Sampler::AlwaysOff,
        "traceidratio" => Sampler::TraceIdRatioBased(ratio()?),
        _ => {
            let allowed = "write always_on, always_off or traceidratio, or one of them after \
                           parentbased_";
            return Err(InvalidTraceSetting { name: SAMPLER, value: name.to_owned(), allowed });
        }
    };
    Ok(if follows_parent { Sampler::ParentBased(Box::new(root)) } else { root })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(
        flag: Option<&str>,
        variables: &[(&str, &str)],
    ) -> Result<Option<TraceSettings>, InvalidTraceSetting> {
        TraceSettings::read(flag, |name| {
            let found = variables.iter().find(|(found, _)| *found == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn endpoint_of(flag: Option<&str>, variables: &[(&str, &str)]) -> Option<String> {
        read(flag, variables).expect("valid").map(|settings| settings.endpoint)
    }

    #[test]
    fn the_flag_wins_over_the_variables_of_opentelemetry() {
        assert_eq!(endpoint_of(None, &[]), None);
        assert_eq!(endpoint_of(None, &[(ENDPOINT, "")]), None, "empty is unset");
        let general = (ENDPOINT, "http://general:4318/");
        let traces = (TRACES_ENDPOINT, "http://traces:4318/somewhere");
        let expect = |flag, variables: &[_], url: &str| {
            assert_eq!(endpoint_of(flag, variables).as_deref(), Some(url));
        };
        expect(None, &[general], "http://general:4318/v1/traces");
        expect(None, &[general, traces], "http://traces:4318/somewhere");
        expect(Some("http://flag:1"), &[general, traces], "http://flag:1/v1/traces");
        expect(Some("http://flag:1/as/is"), &[], "http://flag:1/as/is");
    }

    #[test]
    fn what_cannot_be_followed_is_refused_by_name() {
        let local = Some("http://localhost:4318");
        for (flag, variables, named) in [
            (Some("localhost:4317"), &[][..], "--otlp-traces-endpoint"),
            (Some("ftp://x:4318"), &[], "--otlp-traces-endpoint"),
            (None, &[(ENDPOINT, "grpc://x:4317")], ENDPOINT),
            (local, &[(PROTOCOL, "grpc")], PROTOCOL),
            (local, &[(CLIENT_IDENTITY[3], "/key.pem")], CLIENT_IDENTITY[3]),
            (local, &[(SAMPLER, "sometimes")], SAMPLER),
            (local, &[(SAMPLER, "traceidratio"), (SAMPLER_ARG, "2")], SAMPLER_ARG),
        ] {
            let why = read(flag, variables).expect_err("not to be followed").to_string();
            assert!(why.starts_with(named), "{why}");
        }
    }

    /// TR-5
    #[test]
    fn headers_that_would_be_dropped_are_refused_and_not_repeated() {
        let with = |value| read(Some("https://x:4318"), &[(HEADERS, value)]);
        for value in ["a=b", "authorization=Bearer%20t0p-secret, x-tenant=7", "a=b,"] {
            assert!(with(value).is_ok(), "{value}");
        }
        for value in ["hush", "a=b,hush", "a b=hush", "a=%2", "a=%zzhush", "a=b%0Ahush", "=hush"] {
            let why = with(value).expect_err(value).to_string();
            assert!(why.starts_with(HEADERS) && !why.contains("hush"), "{why}");
        }
    }

    #[test]
    fn the_certificate_of_traces_wins() {
        let general = (CERTIFICATE, "/general.pem");
        for (variables, file) in [
            (&[general][..], Some("/general.pem")),
            (&[general, (TRACES_CERTIFICATE, "/traces.pem")], Some("/traces.pem")),
            (&[], None),
        ] {
            let settings = read(Some("https://x:4318"), variables).expect("valid").expect("some");
            assert_eq!(settings.certificate, file.map(PathBuf::from));
        }
    }

    #[test]
    fn samplers_have_the_names_of_opentelemetry() {
        let of = |name: &str, arg: Option<&str>| {
            let sampler = sampler(Some(name.to_owned()), arg.map(str::to_owned));
            format!("{:?}", sampler.expect("a sampler"))
        };
        assert_eq!(of("always_off", None), "AlwaysOff");
        assert_eq!(of("traceidratio", Some("0.01")), "TraceIdRatioBased(0.01)");
        let based = of("parentbased_traceidratio", Some("0.5"));
        assert_eq!(based, "ParentBased(TraceIdRatioBased(0.5))");
    }
}
