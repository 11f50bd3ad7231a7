//! One decoder, all families: configuration, weights, forward pass.
