//! The flags for web pages, spelled as in vLLM: each list is JSON, or names with commas.

use clap::Args;
use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use playhouse_gateway::{Allowed, Cors};

/// Web pages that may use the OpenAI API.
#[derive(Args)]
pub(crate) struct CorsArgs {
    /// Origins of web pages that may use the OpenAI API, such as http://localhost:5173,https://chat.example.com
    /// or '["*"]' for all. By default every page that sends an API key, and without API keys the pages of this
    /// machine
    #[arg(long, env = "PLAYHOUSE_ALLOWED_ORIGINS", value_name = "ORIGINS", value_parser = origins)]
    allowed_origins: Option<Allowed<HeaderValue>>,
    /// HTTP methods that web pages may use, such as GET,POST
    #[arg(
        long,
        env = "PLAYHOUSE_ALLOWED_METHODS",
        value_name = "METHODS",
        default_value = "*",
        value_parser = methods
    )]
    allowed_methods: Allowed<Method>,
    /// HTTP headers that web pages may send, such as authorization,content-type
    #[arg(
        long,
        env = "PLAYHOUSE_ALLOWED_HEADERS",
        value_name = "HEADERS",
        default_value = "*",
        value_parser = headers
    )]
    allowed_headers: Allowed<HeaderName>,
    /// Let web pages send cookies and other credentials of the browser
    #[arg(long, env = "PLAYHOUSE_ALLOW_CREDENTIALS")]
    allow_credentials: bool,
}

// === impl CorsArgs ===

impl CorsArgs {
    /// Returns the settings of the gateway.
    pub(crate) fn cors(&self) -> Cors {
        Cors {
            origins: self.allowed_origins.clone(),
            methods: self.allowed_methods.clone(),
            headers: self.allowed_headers.clone(),
            credentials: self.allow_credentials,
        }
    }
}

fn origins(text: &str) -> Result<Allowed<HeaderValue>, String> {
    list(text, |origin| {
        let bare = origin.split_once("://").map(|(_, host)| host);
        let is_origin =
            bare.is_some_and(|host| !host.is_empty() && !host.contains(['/', '?', '*']));
        // Browsers write scheme and host in lower case.
        let value = HeaderValue::try_from(origin.to_ascii_lowercase()).ok();
        value.filter(|_| is_origin || origin == "null").ok_or_else(|| {
            format!(
                "{origin:?} is no origin: write scheme and host, and the port if there is one, without a \
                 path, such as http://localhost:5173; `*` alone is every origin"
            )
        })
    })
}

fn methods(text: &str) -> Result<Allowed<Method>, String> {
    list(text, |method| {
        let known = Method::from_bytes(method.to_ascii_uppercase().as_bytes());
        known.map_err(|_| format!("{method:?} is no HTTP method, such as POST"))
    })
}

fn headers(text: &str) -> Result<Allowed<HeaderName>, String> {
    list(text, |header| {
        let name = HeaderName::try_from(header);
        name.map_err(|_| format!("{header:?} is no name of an HTTP header, such as content-type"))
    })
}

/// Reads a JSON list of texts, or texts with commas between them; one `*` is everything.
fn list<T>(text: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Allowed<T>, String> {
    let names: Vec<String> = match text.trim_start().starts_with('[') {
        true => serde_json::from_str(text)
            .map_err(|_| "it is no JSON list of texts, such as [\"a\", \"b\"]".to_owned())?,
        false => text.split(',').map(str::to_owned).collect(),
    };
    let mut names = names.iter().map(|name| name.trim()).filter(|name| !name.is_empty()).peekable();
    if names.clone().any(|name| name == "*") {
        return Ok(Allowed::Any);
    }
    if names.peek().is_none() {
        return Err("it names nothing".to_owned());
    }
    names.map(read).collect::<Result<_, _>>().map(Allowed::Only)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_json_or_have_commas() {
        let both = ["https://a.example", "http://localhost:5173"].map(HeaderValue::from_static);
        let both = Ok(Allowed::Only(both.to_vec()));
        assert_eq!(origins("https://a.example, http://LOCALHOST:5173"), both);
        assert_eq!(origins(r#" ["https://a.example","http://localhost:5173"]"#), both);
        for all in ["*", r#"["*"]"#, "http://a,*"] {
            assert_eq!(origins(all), Ok(Allowed::Any), "{all}");
        }
        assert_eq!(methods("get,POST"), Ok(Allowed::Only(vec![Method::GET, Method::POST])));
        let names = ["authorization", "x-a"].map(HeaderName::from_static).to_vec();
        assert_eq!(headers(r#"["Authorization", "X-A"]"#), Ok(Allowed::Only(names)));
    }

    #[test]
    fn what_no_browser_sends_is_refused_with_an_example() {
        for wrong in ["localhost:5173", "http://", "http://a/", "http://a/b", "https://*.a.example"]
        {
            let why = origins(wrong).expect_err(wrong);
            assert!(why.contains(wrong) && why.contains("http://localhost:5173"), "{why}");
        }
        for (wrong, read) in [("", "names nothing"), (",", "names nothing"), ("[1]", "JSON list")] {
            let why = origins(wrong).expect_err(wrong);
            assert!(why.contains(read), "{why}");
        }
        assert!(methods("P ST").is_err() && headers("a b").is_err());
        assert_eq!(origins("null"), Ok(Allowed::Only(vec![HeaderValue::from_static("null")])));
    }
}
