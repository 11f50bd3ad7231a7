//! The HTTP response of an [`Answer`].

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;

use crate::answer::Answer;
use crate::error::Result;
use crate::stream::EventStream;

/// Returns the response to an HTTP request: a stream, or the whole answer when it is complete.
pub(crate) async fn respond(mut answer: Answer) -> Result<Response> {
    if answer.setting.form.stream.is_some() {
        answer.opening().await?;
        let mut response = Response::new(Body::new(EventStream::new(answer)));
        let headers = response.headers_mut();
        let events = HeaderValue::from_static("text/event-stream; charset=utf-8");
        headers.insert(CONTENT_TYPE, events);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // nginx buffers answers unless told not to.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        return Ok(response);
    }
    let body = answer.collect().await?;
    let mut response = Response::new(Body::from(body));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    Ok(response)
}
