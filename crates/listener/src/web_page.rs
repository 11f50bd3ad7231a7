//! Requests that a web page sends: from which site the page is, and under which name it calls the server.
//!
//! A browser sends requests of any page to any server, also to one on loopback that no other machine can
//! reach. Two headers tell: `Origin` names the site of the page, and `Host` the name by which the page has
//! found the server. A site that lets its own name point to loopback (DNS rebinding) cannot hide that name.

use hyper::http::uri::{Authority, Uri};
use hyper::{HeaderMap, Request, header};

/// The headers by which a request is told from that of a foreign web page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WebPage<'a> {
    /// The host and the port that the request calls the server by; `None` if it says none.
    called: Option<&'a str>,
    /// The origin of the page; `None` for a client that is no web page.
    pub origin: Option<&'a str>,
}

// === impl WebPage ===

impl<'a> WebPage<'a> {
    /// Returns what `request` says.
    pub fn of<B>(request: &'a Request<B>) -> Self {
        Self::of_head(request.uri(), request.headers())
    }

    /// Returns what the head of a request says. A header that is not ASCII reads as the empty text, which is
    /// no host and no origin.
    #[must_use]
    pub fn of_head(target: &'a Uri, headers: &'a HeaderMap) -> Self {
        let text = |name| Some(headers.get(name)?.to_str().unwrap_or_default());
        // HTTP/2 has it in the target.
        let called = target.authority().map(Authority::as_str);
        Self { called: called.or_else(|| text(header::HOST)), origin: text(header::ORIGIN) }
    }

    /// Returns the host and the port that the request calls the server by.
    #[must_use]
    pub fn called(&self) -> &'a str {
        self.called.unwrap_or_default()
    }

    /// Returns the host that the request calls the server by, without the port; `None` if it says none.
    #[must_use]
    pub fn called_host(&self) -> Option<String> {
        let called = self.called?;
        Some(
            called
                .parse::<Authority>()
                .map(|it| it.host().to_ascii_lowercase())
                .unwrap_or_default(),
        )
    }

    /// Returns whether the request calls the server by a name that no foreign site can have: a name of
    /// loopback, or an address. So does a request that says none, as no browser does.
    #[must_use]
    pub fn calls_by_own_name(&self) -> bool {
        self.called_host().is_none_or(|host| is_loopback(&host) || is_address(&host))
    }

    /// Returns whether the page, if it is one, comes from this very server.
    #[must_use]
    pub fn is_same_origin(&self) -> bool {
        let called = self.called().to_ascii_lowercase();
        self.origin
            .is_none_or(|origin| authority_of(origin).is_some_and(|it| it.as_str() == called))
    }

    /// Returns whether the page, if it is one, comes from the machine that the request calls, or from the
    /// machine of its reader, on any port.
    #[must_use]
    pub fn is_of_this_machine(&self) -> bool {
        let called = self.called_host().unwrap_or_default();
        self.origin.is_none_or(|origin| {
            host_of(origin).is_some_and(|host| is_loopback(&host) || host == called)
        })
    }
}

fn authority_of(origin: &str) -> Option<Authority> {
    let origin: Uri = origin.to_ascii_lowercase().parse().ok()?;
    let is_web = matches!(origin.scheme_str(), Some("http" | "https"));
    origin.authority().filter(|_| is_web).cloned()
}

/// Returns the host of an origin, in lower case; `None` if it is not of the web, such as `null`.
#[must_use]
pub fn host_of(origin: &str) -> Option<String> {
    authority_of(origin).map(|authority| authority.host().to_owned())
}

/// Returns whether a host is this machine for whoever says it.
fn is_loopback(host: &str) -> bool {
    let is_named = host == "localhost" || host.ends_with(".localhost");
    is_named || address(host).is_some_and(|address| address.is_loopback())
}

fn is_address(host: &str) -> bool {
    address(host).is_some()
}

fn address(host: &str) -> Option<std::net::IpAddr> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    bare.unwrap_or(host).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(host: &str, origin: Option<&str>) -> Request<()> {
        let request = Request::get("/v1/models").header("host", host);
        let request = origin.into_iter().fold(request, |request, it| request.header("origin", it));
        request.body(()).expect("a request")
    }

    #[test]
    fn own_names_are_those_of_loopback_and_addresses() {
        for own in [
            "localhost",
            "LOCALHOST:8000",
            "app.localhost:1",
            "127.0.0.1:8000",
            "127.9.9.9",
            "[::1]:1234",
            "192.0.2.7:8000",
            "[2001:db8::1]",
        ] {
            assert!(WebPage::of(&request(own, None)).calls_by_own_name(), "{own}");
        }
        for foreign in [
            "evil.example",
            "evil.example:8000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "notlocalhost",
            "",
            ":8000",
            "a b",
            "user@localhost.example",
        ] {
            assert!(!WebPage::of(&request(foreign, None)).calls_by_own_name(), "{foreign}");
        }
        let bare = Request::get("/").body(()).expect("a request");
        assert!(WebPage::of(&bare).calls_by_own_name(), "no browser leaves it out");
        let target = Request::get("http://evil.example/").header("host", "localhost").body(());
        assert!(!WebPage::of(&target.expect("a request")).calls_by_own_name(), "HTTP/2");
    }

    #[test]
    fn pages_are_of_this_server_of_this_machine_or_foreign() {
        let cases = [
            (None, true, true),
            (Some("http://localhost:8000"), true, true),
            (Some("http://LOCALHOST:8000"), true, true),
            (Some("http://localhost:5173"), false, true),
            (Some("https://127.0.0.1"), false, true),
            (Some("http://[::1]:3000"), false, true),
            (Some("https://evil.example"), false, false),
            (Some("http://localhost.evil.example:8000"), false, false),
            (Some("null"), false, false),
            (Some("file://localhost"), false, false),
            (Some(""), false, false),
        ];
        for (origin, same, machine) in cases {
            let request = request("localhost:8000", origin);
            let page = WebPage::of(&request);
            assert_eq!(
                (page.is_same_origin(), page.is_of_this_machine()),
                (same, machine),
                "{origin:?}"
            );
        }
        let request = request("gpu-7:8000", Some("http://GPU-7:3000"));
        assert!(WebPage::of(&request).is_of_this_machine(), "the page is served beside the API");
    }
}
