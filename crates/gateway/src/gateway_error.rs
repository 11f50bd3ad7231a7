//! Why a gateway cannot be put together.

use playhouse_types::{InvalidParam, TokenId};

/// Why a gateway cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Nothing to call the model by.
    #[error("served_model_names must not be empty, nor contain an empty name")]
    NoModelName,
    /// An empty key would let everyone in who sends an empty one.
    #[error("the API key {0:?} is empty: leave it out to ask for none")]
    EmptyApiKey(String),
    /// A name or a key is there twice: whose limits hold?
    #[error("the API keys {0:?} and {1:?} have the same name or the same key")]
    SameApiKey(String, String),
    /// Nothing secret can be drawn.
    #[error("the system gives no randomness")]
    NoRandomness,
    /// The model's own sampling defaults are out of range.
    #[error("the default sampling parameters (generation_config.json) are invalid: {0}")]
    Defaults(InvalidParam),
    /// An end-of-sequence token the model does not have.
    #[error("eos token {token} is not below the vocabulary size {vocab}")]
    EosToken {
        /// The token.
        token: TokenId,
        /// Ids end before this.
        vocab: u32,
    },
}
