//! The intake of one request: its body is read, parsed and tokenized within bounds.
//!
//! - **INT-1** a text that cannot fit the context is refused by its bytes alone where the tokenizer bounds the
//!   bytes of a token, and otherwise when little more of it is tokenized than fits.
//! - **INT-2** a body over [`INLINE_BYTES`], or with a conversation whose template may run for long, is taken in
//!   on the blocking pool, and no more of them at once than [`Limits::intakes`](crate::Limits::intakes); others
//!   wait their turn.
//! - **INT-3** when the client leaves, its intake gives up its turn, or ends before it tokenizes the next part.

use std::sync::Arc;

use axum::extract::Request;
use playhouse_types::TokenId;
use tokio_util::sync::CancellationToken;

use crate::body::{InputBounds, Object, parse_object};
use crate::error::{ApiError, Result};
use crate::gateway::Gateway;
use crate::known_fields::{Endpoint, Ignored};
use crate::template::RenderChat;
use crate::tokenizer::{EncodeError, Tokenizer};
use crate::upload::read_body;

/// The maximum size of a body that is parsed and tokenized where it arrives: a longer one would make the
/// other connections of the same thread wait.
const INLINE_BYTES: usize = 32 << 10;

/// The bytes per token of the context up to which a text is tokenized in one go. Texts have three to five
/// bytes per token, and the tokenizer needs about a hundred bytes of memory for each of them.
const BYTES_PER_TOKEN: usize = 8;

/// The size of a text that is always counted by `/tokenize`, whatever the context is.
const DOCUMENT_BYTES: usize = 1 << 20;

/// The size of the parts of which the tokens of a long text are counted.
const PART_BYTES: usize = 64 << 10;

/// The maximum number of tokens that a text has less than its parts together, for each cut between them.
const CUT_TOKENS: usize = 64;

/// The paths of requests that may have a conversation.
const CONVERSATION_PATHS: [&str; 2] = ["/v1/chat/completions", "/tokenize"];

/// The intake of one request.
pub(crate) struct Intake<'a> {
    pub(crate) gateway: &'a Gateway,
    /// Cancelled when the client has left.
    departure: CancellationToken,
}

/// The use of a text, which bounds its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// A prompt, which the model continues.
    Prompt,
    /// A text that is only counted.
    Document,
}

/// Takes in the body of `request` by `work`.
pub(crate) async fn take_in<T: Send + 'static>(
    gateway: &Arc<Gateway>,
    request: Request,
    work: impl FnOnce(&Intake<'_>, &[u8]) -> Result<T> + Send + 'static,
) -> Result<T> {
    let may_render = CONVERSATION_PATHS.contains(&request.uri().path());
    let may_block = may_render && gateway.template().is_ok_and(RenderChat::may_block);
    let body = read_body(gateway, request.into_body()).await?;
    let departure = CancellationToken::new();
    if body.bytes.len() <= INLINE_BYTES && !may_block {
        return work(&Intake { gateway, departure }, &body.bytes);
    }
    let turn = Arc::clone(gateway.intakes()).acquire_owned().await.expect("nothing closes it");
    // The client's departure drops this future, but not the work.
    let _guard = departure.clone().drop_guard();
    let gateway = Arc::clone(gateway);
    let worked = tokio::task::spawn_blocking(move || {
        let done = work(&Intake { gateway: &gateway, departure }, &body.bytes);
        drop(turn);
        done
    });
    match worked.await {
        Ok(result) => result,
        // The caller turns a panic into a 500; without a panic, the runtime is shutting down.
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(ApiError::draining()),
        },
    }
}

// === impl Intake ===

impl Intake<'_> {
    /// Parses the body of a request to `endpoint`.
    pub(crate) fn parse(&self, body: &[u8], endpoint: Endpoint) -> Result<(Object, Ignored)> {
        let context = self.gateway.front_door().max_model_len();
        let bounds = InputBounds {
            vocab: self.gateway.front_door().vocab(),
            context,
            tokens: context.max(DOCUMENT_BYTES),
        };
        let object = parse_object(body, &bounds)?;
        let ignored = endpoint.check(&object)?;
        self.gateway.unknown_fields().log(&ignored);
        Ok((object, ignored))
    }

    /// Returns the tokens of `text`, the value at `path`.
    pub(crate) fn encode(
        &self,
        path: &str,
        text: &str,
        add_special_tokens: bool,
        extent: Extent,
    ) -> Result<Vec<TokenId>> {
        self.encode_by(path, text, extent, |tokenizer| tokenizer.encode(text, add_special_tokens))
    }

    /// Returns the tokens of `text` by `encode`, if it can fit.
    pub(crate) fn encode_by(
        &self,
        path: &str,
        text: &str,
        extent: Extent,
        encode: impl FnOnce(&Tokenizer) -> Result<Vec<TokenId>, EncodeError>,
    ) -> Result<Vec<TokenId>> {
        self.check_bytes(text.len(), extent)?;
        if text.len() > self.in_one_go(extent) {
            self.check_tokens(path, text)?;
        }
        self.tokenize(path, encode)
    }

    /// Checks whether a text of `bytes` bytes can fit the context.
    pub(crate) fn check_bytes(&self, bytes: usize, extent: Extent) -> Result<()> {
        let limit = self.gateway.front_door().max_model_len();
        let Some(longest) = self.gateway.tokenizer().bytes_per_token_max() else { return Ok(()) };
        let most = limit.saturating_mul(longest);
        if bytes <= most.max(self.in_one_go(extent)) {
            return Ok(());
        }
        let length = format_args!("{bytes} bytes ({limit} tokens have at most {most})");
        Err(ApiError::prompt_too_long(limit, length))
    }

    /// Returns the length in bytes up to which a text is tokenized in one go.
    fn in_one_go(&self, extent: Extent) -> usize {
        let prompt = self.gateway.front_door().max_model_len().saturating_mul(BYTES_PER_TOKEN);
        match extent {
            Extent::Prompt => prompt,
            Extent::Document => prompt.max(DOCUMENT_BYTES),
        }
    }

    /// Checks whether a long text fits the context, part by part.
    fn check_tokens(&self, path: &str, text: &str) -> Result<()> {
        let limit = self.gateway.front_door().max_model_len();
        let (mut most, mut tokens) = (limit, 0);
        let mut rest = text;
        while !rest.is_empty() {
            let part;
            (part, rest) = rest.split_at(rest.floor_char_boundary(PART_BYTES));
            tokens += self.tokenize(path, |tokenizer| tokenizer.encode(part, false))?.len();
            most += CUT_TOKENS;
            if tokens > most {
                return Err(ApiError::prompt_too_long(
                    limit,
                    format_args!("more than {limit} tokens"),
                ));
            }
        }
        Ok(())
    }

    fn tokenize(
        &self,
        path: &str,
        encode: impl FnOnce(&Tokenizer) -> Result<Vec<TokenId>, EncodeError>,
    ) -> Result<Vec<TokenId>> {
        if self.departure.is_cancelled() {
            return Err(ApiError::client_left());
        }
        encode(self.gateway.tokenizer()).map_err(|error| ApiError::bad_param(path, error))
    }
}
