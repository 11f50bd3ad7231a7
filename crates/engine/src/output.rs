//! The request for a row of a step.

use playhouse_types::TokenId;

/// The use of one output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    /// Index of the run that the output belongs to.
    pub(crate) run: usize,
    /// Prompt token whose log-probability to report.
    pub(crate) prompt_token: Option<TokenId>,
    /// Whether to sample the next token.
    pub(crate) sample: bool,
}
