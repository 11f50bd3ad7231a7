//! The record of renewed certificates: a metric, and a line of the audit log.

use std::sync::Arc;

use playhouse_admin::{AuditEntry, AuditLog, RenewalEntry};
use playhouse_link::{Renewal, TellRenewal};
use playhouse_telemetry::{Holder, Metrics, RenewalLabels, RenewalOutcome};
use playhouse_wire::Role;
use tracing::error;

use crate::date::Date;

/// Returns a function that records each renewal. A log that cannot be written withholds no certificate:
/// otherwise a full disk would end a cluster.
pub(super) fn noted(metrics: Arc<Metrics>, audit: Option<Arc<dyn AuditLog>>) -> TellRenewal {
    Arc::new(move |renewal| {
        metrics.certificate_renewals.get_or_create(&labels(renewal)).inc();
        let entry = AuditEntry::Renewal(entry(renewal));
        if let Some(Err(why)) = audit.as_ref().map(|log| log.write(&entry)) {
            error!(%why, peer = %renewal.peer, "cannot write a renewal into the audit log");
        }
    })
}

fn labels(renewal: &Renewal) -> RenewalLabels {
    let role = match renewal.peer.role() {
        Role::Head => Holder::head,
        Role::Node => Holder::node,
        Role::Shard => Holder::shard,
    };
    let outcome = match renewal.outcome {
        Ok(_) => RenewalOutcome::renewed,
        Err(_) => RenewalOutcome::refused,
    };
    RenewalLabels { role, outcome }
}

fn entry(renewal: &Renewal) -> RenewalEntry {
    let peer = renewal.peer.to_string();
    match &renewal.outcome {
        Ok(until) => RenewalEntry::Renewed { peer, until: Date::of(*until).rfc3339() },
        Err(why) => RenewalEntry::NotRenewed { peer, why: why.to_string() },
    }
}
