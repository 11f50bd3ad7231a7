//! The two text formats in which metrics are exposed, and the choice between them.

use std::fmt::Write;

/// A format in which a scraper reads metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    /// Prometheus's text format 0.0.4, which every scraper reads.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

// === impl Exposition ===

impl Exposition {
    /// Returns the format that the values of a request's `Accept` headers prefer: OpenMetrics only for a
    /// client that names it, because others do not read it.
    #[must_use]
    pub fn accepted<'a>(accept: impl Iterator<Item = &'a str>) -> Self {
        let (mut text, mut open_metrics) = (0.0_f32, 0.0_f32);
        for range in accept.flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut weight, mut version) = (1.0, None);
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match name.trim().to_ascii_lowercase().as_str() {
                    "q" => weight = value.trim().parse().unwrap_or(0.0),
                    "version" => version = Some(value.trim().trim_matches('"')),
                    _ => {}
                }
            }
            match &*media {
                "application/openmetrics-text" if reads_ours(version) => {
                    open_metrics = open_metrics.max(weight);
                }
                "text/plain" | "text/*" | "*/*" => text = text.max(weight),
                _ => {}
            }
        }
        if open_metrics > 0.0 && open_metrics >= text { Self::OpenMetrics } else { Self::Text }
    }

    /// Returns the content type of the format.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Returns whether a client that asks for this version of OpenMetrics reads 1.0.0.
fn reads_ours(version: Option<&str>) -> bool {
    version.is_none_or(|version| version == "0.0.1" || version.starts_with("1."))
}

/// Converts metrics from OpenMetrics into the text format 0.0.4: the name of a counter there ends with
/// `_total` in its description as well, and there are no units and no end marker.
pub(crate) fn to_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + 4096);
    let mut help = "";
    for line in open_metrics.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some(described) = line.strip_prefix("# TYPE ") {
            let (name, kind) = described.split_once(' ').unwrap_or((described, "unknown"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                _ => ("", kind),
            };
            let described =
                format_args!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n");
            text.write_fmt(described).expect("writing to a String cannot fail");
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::Exposition::{OpenMetrics, Text};
    use super::*;

    #[test]
    fn open_metrics_goes_only_to_clients_that_name_it_and_do_not_like_text_better() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                          application/openmetrics-text;version=0.0.1;q=0.4,\
                          text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
                          text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        let cases: [(&[&str], Exposition); 12] = [
            (&[], Text),
            (&["*/*"], Text),
            (&["text/html, */*;q=0.8"], Text),
            (&["application/json"], Text),
            (&["application/openmetrics-text"], OpenMetrics),
            (&["Application/OpenMetrics-Text; Version=1.0.0; Q=0.3, */*;q=0.1"], OpenMetrics),
            (&["application/openmetrics-text;version=2.0.0"], Text),
            (&["application/openmetrics-text;q=0"], Text),
            (&["application/openmetrics-text;q=0.2, text/plain;q=0.9"], Text),
            (&["application/openmetrics-text, text/plain"], OpenMetrics),
            (&["text/plain;q=0.5", "application/openmetrics-text;version=\"1.0.0\""], OpenMetrics),
            (&[prometheus], OpenMetrics),
        ];
        for (accept, expected) in cases {
            assert_eq!(Exposition::accepted(accept.iter().copied()), expected, "{accept:?}");
        }
    }

    #[test]
    fn the_text_format_describes_series_under_the_names_that_they_have() {
        let open_metrics = "# HELP a_tokens Tokens.\n# TYPE a_tokens counter\n\
                            a_tokens_total{m=\"# TYPE\"} 7\n# HELP b Depth.\n# TYPE b gauge\n\
                            # UNIT b requests\nb 1\n# HELP c Seconds.\n# TYPE c histogram\n\
                            c_bucket{le=\"+Inf\"} 0\n# EOF\n";
        let text = "# HELP a_tokens_total Tokens.\n# TYPE a_tokens_total counter\n\
                    a_tokens_total{m=\"# TYPE\"} 7\n# HELP b Depth.\n# TYPE b gauge\nb 1\n\
                    # HELP c Seconds.\n# TYPE c histogram\nc_bucket{le=\"+Inf\"} 0\n";
        assert_eq!(to_text(open_metrics), text);
    }
}
