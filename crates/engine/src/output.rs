//! What is wanted of a row of a step.

use playhouse_types::TokenId;

/// What becomes of one output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    /// Index of its run.
    pub(crate) run: usize,
    /// Report the log-probability of this prompt token.
    pub(crate) prompt_token: Option<TokenId>,
    /// Sample the next token.
    pub(crate) sample: bool,
}
