//! Web pages that may use the API: what browsers are told (CORS), and which requests are refused.
//!
//! - **WEB-1** without an API key, no page of a foreign site has tokens computed: a request with the `Origin` of
//!   such a page is refused with 403, whatever its content type. Pages of this machine are served.
//! - **WEB-2** without an API key and on loopback, a request that calls the server by a foreign name is refused
//!   with 403, so a site cannot read answers by pointing its own name to loopback (DNS rebinding).
//! - **WEB-3** with an API key, every page is served that has the key. A preflight needs none.
//! - **WEB-4** origins that are named by the operator replace these rules: only those are served, with a key or
//!   without one. A page of this very server always is.
//!
//! The health probes are answered for everyone.

use std::time::Duration;

use axum::extract::Request;
use axum::http::header::ORIGIN;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use playhouse_listener::{WebPage, host_of};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::error::{ApiError, Result};

/// How long a browser may remember the answer to a preflight.
const PREFLIGHT_AGE: Duration = Duration::from_secs(600);

/// The methods that pages may use unless the operator names some.
const METHODS: [Method; 7] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
];

/// The values of a list that the operator may leave open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed<T> {
    /// Every value.
    Any,
    /// These values.
    Only(Vec<T>),
}

/// The settings for web pages.
#[derive(Clone, Debug)]
pub struct Cors {
    /// The origins of pages that may use the API, such as `http://localhost:5173`. `None`: every page that
    /// has an API key, and without API keys the pages of this machine.
    pub origins: Option<Allowed<HeaderValue>>,
    /// The methods that pages may use.
    pub methods: Allowed<Method>,
    /// The headers that pages may send.
    pub headers: Allowed<HeaderName>,
    /// Whether pages may send cookies and other credentials of the browser.
    pub credentials: bool,
}

// === impl Cors ===

impl Default for Cors {
    fn default() -> Self {
        let (methods, headers) = (Allowed::Any, Allowed::Any);
        Self { origins: None, methods, headers, credentials: false }
    }
}

impl Cors {
    /// Returns whether a page may use the API. `is_open` says that no API key is needed.
    fn admits(&self, page: WebPage<'_>, is_open: bool) -> bool {
        match &self.origins {
            None if is_open => page.is_of_this_machine(),
            None | Some(Allowed::Any) => true,
            Some(Allowed::Only(origins)) => {
                page.is_same_origin()
                    || page.origin.is_none_or(|it| origins.iter().any(|own| own == it))
            }
        }
    }

    /// Returns whether an open server on loopback may be called by this name.
    fn knows_name(&self, page: WebPage<'_>) -> bool {
        page.calls_by_own_name()
            || match &self.origins {
                None => false,
                Some(Allowed::Any) => true,
                Some(Allowed::Only(origins)) => {
                    let mut hosts = origins.iter().filter_map(|it| host_of(it.to_str().ok()?));
                    let called = page.called_host();
                    hosts.any(|host| Some(host) == called)
                }
            }
    }

    /// Returns the layer that answers preflights and tells browsers which pages may read answers, and the
    /// headers `exposed` of them. `is_open` says whether no API key is needed now.
    pub(crate) fn layer<const N: usize>(
        &self,
        exposed: [HeaderName; N],
        is_open: impl Fn() -> bool + Clone + Send + Sync + 'static,
    ) -> CorsLayer {
        let cors = self.clone();
        let admits = move |_: &HeaderValue, parts: &Parts| {
            cors.admits(WebPage::of_head(&parts.uri, &parts.headers), is_open())
        };
        let layer = CorsLayer::new()
            .allow_origin(AllowOrigin::predicate(admits))
            .allow_credentials(self.credentials)
            .expose_headers(exposed)
            .max_age(PREFLIGHT_AGE)
            .vary([ORIGIN]);
        let layer = match &self.methods {
            Allowed::Any => layer.allow_methods(METHODS),
            Allowed::Only(methods) => layer.allow_methods(methods.clone()),
        };
        match &self.headers {
            Allowed::Any => layer.allow_headers(AllowHeaders::mirror_request()),
            Allowed::Only(headers) => layer.allow_headers(headers.clone()),
        }
    }

    /// Checks that a request is not that of a foreign page (**WEB-1**, **WEB-2**, **WEB-4**). `is_open` says
    /// that no API key is needed, `is_loopback` that no other machine can reach the server.
    ///
    /// # Errors
    /// Returns a 403 that says what to do about it.
    pub(crate) fn check(&self, request: &Request, is_open: bool, is_loopback: bool) -> Result<()> {
        let page = WebPage::of(request);
        if is_open && is_loopback && !self.knows_name(page) {
            let called = page.called();
            let message = format!(
                "the request calls the server {called:?}, which is not a name of this machine, and no API \
                 key is set: call it localhost, name the site with --allowed-origins, or set --api-key"
            );
            return Err(ApiError::refused(StatusCode::FORBIDDEN, "foreign_host", message));
        }
        if !self.admits(page, is_open) {
            let origin = page.origin.unwrap_or_default();
            let key = if is_open { ", or set --api-key" } else { "" };
            let message = format!(
                "web pages of {origin:?} may not use this server: name the site with \
                 --allowed-origins{key}"
            );
            return Err(ApiError::refused(StatusCode::FORBIDDEN, "foreign_origin", message));
        }
        Ok(())
    }
}
