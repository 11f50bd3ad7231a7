//! Refusals and failures, in one form on every path (**ADM-2**).

use axum::Json;
use axum::body::Bytes;
use axum::http::header::{CONNECTION, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use playhouse_cluster::{NoToken, NotRevoked, OperationId};

use crate::view::{ErrorBody, ErrorDetail};

/// An error that the client gets instead of an answer.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    detail: ErrorDetail,
}

/// The code of an error, attached to its response for the audit log.
#[derive(Clone, Debug)]
pub(crate) struct ErrorCode(pub(crate) String);

// === impl ApiError ===

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        let (code, message) = (code.to_owned(), message.into());
        Self { status, detail: ErrorDetail { code, message, field: None, operation: None } }
    }

    pub(crate) fn not_found(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    /// Adds the operation that is to blame.
    pub(crate) fn about(mut self, OperationId(id): OperationId) -> Self {
        self.detail.operation = Some(id);
        self
    }

    /// Returns a 400 because of one field.
    pub(crate) fn bad_field(field: &str, message: impl std::fmt::Display) -> Self {
        let mut error =
            Self::new(StatusCode::BAD_REQUEST, "invalid_field", format!("{field}: {message}"));
        error.detail.field = Some(field.to_owned());
        error
    }

    /// Returns the error as JSON, without a response around it.
    pub(crate) fn body(self) -> Bytes {
        let body = ErrorBody { error: self.detail };
        serde_json::to_vec(&body).expect("an error has texts and numbers only").into()
    }

    pub(crate) fn unauthorized() -> Self {
        let message = "missing or wrong admin token: send `Authorization: Bearer TOKEN`";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let code = ErrorCode(self.detail.code.clone());
        let operation = self.detail.operation.map(OperationId);
        let mut response = (self.status, Json(ErrorBody { error: self.detail })).into_response();
        response.extensions_mut().insert(code);
        if let Some(id) = operation {
            response.extensions_mut().insert(id);
        }
        let headers = response.headers_mut();
        // The rest of the request will not be read.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<NotRevoked> for ApiError {
    fn from(why: NotRevoked) -> Self {
        let (status, code) = match why {
            NotRevoked::NotListening => (StatusCode::SERVICE_UNAVAILABLE, "not_listening"),
            NotRevoked::BadName(_) => (StatusCode::BAD_REQUEST, "invalid_name"),
            NotRevoked::NotKept(_) => (StatusCode::SERVICE_UNAVAILABLE, "not_kept"),
        };
        Self::new(status, code, why.to_string())
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
