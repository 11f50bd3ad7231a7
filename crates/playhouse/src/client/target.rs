//! The address of a server: `http://host:port/prefix`, or `https`.

use std::fmt;

use hyper::Uri;

use super::ClientError;

/// The host, the port and the path prefix of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    tls: bool,
    host: String,
    port: u16,
    prefix: String,
}

// === impl Target ===

impl Target {
    /// Parses a base URL. The scheme may be omitted. A trailing `/v1` is removed, because the base URL of
    /// OpenAI clients ends with it and ours does not.
    ///
    /// # Errors
    /// Returns [`ClientError::BadUrl`] for anything but HTTP, plain or over TLS.
    pub(crate) fn parse(url: &str) -> Result<Self, ClientError> {
        let bad = |why| ClientError::BadUrl { url: url.to_owned(), why };
        let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: Uri = full.parse().map_err(|_| bad("it does not read as http://HOST:PORT"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad("only http:// and https:// are supported")),
        };
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(bad("user names in it are not supported; use --api-key"));
        }
        if uri.query().is_some() {
            return Err(bad("a base URL has no query"));
        }
        let host =
            uri.host().filter(|host| !host.is_empty()).ok_or_else(|| bad("it has no host"))?;
        let prefix = uri.path().trim_end_matches('/');
        Ok(Self {
            tls,
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            prefix: prefix.strip_suffix("/v1").unwrap_or(prefix).to_owned(),
        })
    }

    /// Returns whether the server uses TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls
    }

    /// Returns the host in the form for a resolver: IPv6 addresses without brackets.
    pub(crate) fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Returns the port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns `host:port`, as in the `host` header.
    pub(crate) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Returns the path of an endpoint, such as `/v1/models`, after the prefix.
    pub(crate) fn path(&self, endpoint: &str) -> String {
        format!("{}{endpoint}", self.prefix)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_are_read() {
        for (url, shown, path) in [
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000", "/v1/models"),
            ("127.0.0.1:8000/", "http://127.0.0.1:8000", "/v1/models"),
            ("localhost", "http://localhost:80", "/v1/models"),
            ("http://host:81/v1/", "http://host:81", "/v1/models"),
            ("http://host:81/llm/v1", "http://host:81/llm", "/llm/v1/models"),
            ("http://[::1]:8000", "http://[::1]:8000", "/v1/models"),
            ("https://host/v1", "https://host:443", "/v1/models"),
        ] {
            let target = Target::parse(url).expect(url);
            assert_eq!(target.to_string(), shown);
            assert_eq!(target.path("/v1/models"), path);
        }
        assert_eq!(Target::parse("http://[::1]:8000").expect("IPv6").host(), "::1");
    }

    #[test]
    fn unusable_urls_say_why() {
        for (url, why) in [
            ("ftp://host", "only http://"),
            ("http://", "does not read"),
            ("http://user:pass@host", "--api-key"),
            ("http://host?x=1", "query"),
            ("ho st", "does not read"),
            ("", "does not read"),
        ] {
            let error = Target::parse(url).expect_err(url).to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
