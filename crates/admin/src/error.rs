//! Refusals and failures, in one shape on every path (**ADM-2**).

use axum::Json;
use axum::http::header::{CONNECTION, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use playhouse_cluster::NoToken;

use crate::view::{ErrorBody, ErrorDetail};

/// What the client is told instead of an answer.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    detail: ErrorDetail,
}

// === impl ApiError ===

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        let detail = ErrorDetail { code: code.to_owned(), message: message.into(), field: None };
        Self { status, detail }
    }

    /// 400 because of one field.
    pub(crate) fn bad_field(field: &str, message: impl std::fmt::Display) -> Self {
        let mut error =
            Self::new(StatusCode::BAD_REQUEST, "invalid_field", format!("{field}: {message}"));
        error.detail.field = Some(field.to_owned());
        error
    }

    pub(crate) fn unauthorized() -> Self {
        let message = "missing or wrong admin token: send `Authorization: Bearer TOKEN`";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(ErrorBody { error: self.detail })).into_response();
        let headers = response.headers_mut();
        // Whatever of the request was not read yet is not going to be.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<NoToken> for ApiError {
    fn from(why: NoToken) -> Self {
        let code = match why {
            NoToken::NotListening => "not_listening",
            NoToken::Failed(_) => "token_failed",
        };
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, why.to_string())
    }
}
