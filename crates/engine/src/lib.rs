//! One shard: executes step plans in order on its own thread.
