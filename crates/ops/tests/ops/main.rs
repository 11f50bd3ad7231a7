//! Every op against a plain reference, and the guarantees OP-1 to OP-3, through the public API.
#![allow(clippy::unwrap_used, missing_docs)]

mod attention;
mod linear;
mod operands;
mod reference;
mod rope;
mod rows;
