//! How tensors move between the ranks of a group.
