//! Logs, and every metric name once.
