//! The words in which every command describes an operation: its change, and the phase it is in.

use playhouse_admin::view::{Change, Phase};

use crate::terminal::visible;

/// Returns the word for a phase.
pub(crate) fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Plan => "plan",
        Phase::Prepare => "prepare",
        Phase::Switch => "switch",
        Phase::Retire => "retire",
        Phase::Done => "done",
        Phase::Failed => "failed",
        Phase::Aborted => "aborted",
    }
}

/// Returns a description of a change.
pub(crate) fn change_words(change: &Change) -> String {
    match change {
        Change::Deployment { data_parallel, tensor_parallel, pipeline_parallel, .. } => {
            let part = |name: &str, number: &Option<u32>| number.map(|n| format!("{name} {n}"));
            let parts = [
                part("dp", data_parallel),
                part("tp", tensor_parallel),
                part("pp", pipeline_parallel),
            ];
            format!("scale to {}", parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
        }
        Change::DrainReplica { replica, deadline_seconds, .. } => {
            format!("drain replica {replica} within {deadline_seconds} s")
        }
        Change::RestartReplica { replica } => format!("restart replica {replica}"),
        Change::RemoveReplica { replica, deadline_seconds, .. } => {
            format!("remove replica {replica} within {deadline_seconds} s")
        }
        Change::DrainNode { node, deadline_seconds, .. } => {
            format!("drain node {} within {deadline_seconds} s", visible(node))
        }
        Change::UndrainNode { node } => format!("undrain node {}", visible(node)),
        Change::RemoveNode { node } => format!("remove node {}", visible(node)),
    }
}
