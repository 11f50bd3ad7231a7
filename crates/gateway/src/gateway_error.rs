//! Why a gateway cannot be built.

use playhouse_types::{InvalidParam, TokenId};

/// The reason why a gateway cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The model has no name.
    #[error("served_model_names must not be empty, nor contain an empty name")]
    NoModelName,
    /// A key is empty, which would admit every client that sends an empty key.
    #[error("the API key {0:?} is empty: leave it out to ask for none")]
    EmptyApiKey(String),
    /// A name or a key is given twice, so that its limits are ambiguous.
    #[error("the API keys {0:?} and {1:?} have the same name or the same key")]
    SameApiKey(String, String),
    /// The system has no source of randomness for secrets.
    #[error("the system gives no randomness")]
    NoRandomness,
    /// The model's own sampling defaults are out of range.
    #[error("the default sampling parameters (generation_config.json) are invalid: {0}")]
    Defaults(InvalidParam),
    /// The model does not have an end-of-sequence token of the configuration.
    #[error("eos token {token} is not below the vocabulary size {vocab}")]
    EosToken {
        /// The token.
        token: TokenId,
        /// The number of token ids of the model.
        vocab: u32,
    },
}
