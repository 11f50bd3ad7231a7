//! Layouts of every kind of model: judged, translated, counted, placed, recommended and printed.

mod cluster_configs;
mod documents;
mod examples;
mod explain;
mod hardware;
mod hostile;
mod models;
mod props;
mod published;
mod ranks;
mod recommend;
mod said;
mod servers;
#[path = "../examples/shape.rs"]
mod shape;
mod shares;
mod storage;
mod traffic;
#[path = "../../../../tests/transcript.rs"]
mod transcript;
