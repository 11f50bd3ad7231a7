//! Groups of every layout: that their ranks agree, and how they end.

mod agreement;
mod endings;
mod joining;
mod processes;
mod ranks;
mod sequences;
mod tensors;
