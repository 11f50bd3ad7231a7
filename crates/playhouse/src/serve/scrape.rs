//! The values that are looked up for each scrape of the metrics: the cluster, the certificates, this
//! process.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use playhouse_cluster::{ClusterStatus, NodeStatus, Overview, ReplicaState, ReplicaStatus};
use playhouse_telemetry::{
    CertificateKind, DeviceCondition, FleetMetrics, Metrics, NodeCondition, ProcessUsage,
    ReplicaCondition,
};
use rustix::process::{Resource, getrlimit};

use super::tls::Certificate;

/// The parts of a second in which the kernel counts the times of processes, for all programs and on every
/// architecture that we are built for.
const TICKS_PER_SECOND: u64 = 100;

/// Registers the functions that look up these values.
pub(super) fn look_up(
    metrics: &Metrics,
    overview: Overview,
    certificate: Option<Arc<Certificate>>,
) {
    metrics.on_scrape(move |metrics| {
        count(&metrics.fleet, &overview.status());
        let [head, node] = overview.certificate_ends();
        let tls = certificate.as_ref().and_then(|it| it.end());
        metrics.fleet.certificate(CertificateKind::head, head);
        metrics.fleet.certificate(CertificateKind::node, node);
        metrics.fleet.certificate(CertificateKind::tls, tls);
        if let Some(usage) = usage() {
            metrics.process.set(&usage);
        }
    });
}

fn count(metrics: &FleetMetrics, cluster: &ClusterStatus) {
    let shards = cluster.replicas.iter().flat_map(|replica| &replica.stages);
    let shards = shards.flat_map(|stage| &stage.shards);
    let used: BTreeSet<(&str, &str)> = shards
        .filter_map(|shard| shard.whereabouts.as_ref())
        .map(|at| (&*at.node, &*at.device))
        .collect();
    let devices = cluster.nodes.iter().flat_map(|node| {
        let used = &used;
        node.devices.iter().map(move |device| match of_node(node) {
            NodeCondition::lost => DeviceCondition::lost,
            _ if used.contains(&(&*node.name, &*device.name)) => DeviceCondition::used,
            NodeCondition::drained => DeviceCondition::drained,
            NodeCondition::connected => DeviceCondition::free,
        })
    });
    metrics.nodes(&cluster.nodes.iter().map(of_node).collect::<Vec<_>>());
    metrics.devices(&devices.collect::<Vec<_>>());
    metrics.replicas(&cluster.replicas.iter().map(of_replica).collect::<Vec<_>>());
}

fn of_node(node: &NodeStatus) -> NodeCondition {
    match (node.connected, node.drained) {
        (false, _) => NodeCondition::lost,
        (true, true) => NodeCondition::drained,
        (true, false) => NodeCondition::connected,
    }
}

fn of_replica(replica: &ReplicaStatus) -> ReplicaCondition {
    match &replica.state {
        ReplicaState::Starting => ReplicaCondition::starting,
        ReplicaState::Serving if replica.is_stalled() => ReplicaCondition::stalled,
        ReplicaState::Serving => ReplicaCondition::serving,
        ReplicaState::Restarting { .. } => ReplicaCondition::restarting,
        ReplicaState::Failed { .. } => ReplicaCondition::failed,
        ReplicaState::Draining => ReplicaCondition::draining,
        ReplicaState::Drained => ReplicaCondition::drained,
        ReplicaState::Stopped => ReplicaCondition::stopped,
    }
}

/// Returns the resource usage of this process; `None` where the kernel does not tell.
fn usage() -> Option<ProcessUsage> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let open_fds = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    let max_fds = getrlimit(Resource::Nofile).current;
    read(&stat, &status, &boot, open_fds, max_fds)
}

/// Parses the files of proc_pid_stat(5), proc_pid_status(5) and proc_stat(5).
fn read(
    stat: &str,
    status: &str,
    boot: &str,
    open_fds: u64,
    max_fds: Option<u64>,
) -> Option<ProcessUsage> {
    // The name of the program is in brackets, and may contain brackets and spaces itself.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // The first field after the name is field 3 of the manual page.
    let ticks = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let span = |ticks: u64| Duration::from_millis(ticks.saturating_mul(1000 / TICKS_PER_SECOND));
    let number = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let booted: SystemTime = UNIX_EPOCH + Duration::from_secs(number(boot, "btime ")?);
    Some(ProcessUsage {
        cpu: span(ticks(14)?.saturating_add(ticks(15)?)),
        resident_bytes: number(status, "VmRSS:")?.saturating_mul(1024),
        virtual_bytes: number(status, "VmSize:")?.saturating_mul(1024),
        open_fds,
        max_fds,
        threads: number(status, "Threads:")?,
        start: booted + span(ticks(22)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "4242 (a) b (c)) S 1 4242 4242 0 -1 4194304 1 2 3 4 150 50 0 0 20 0 9 0 \
                        700 1000 2000 18446744073709551615";

    #[test]
    fn a_process_is_read_as_the_kernel_writes_it() {
        let status = "Name:\ta) b (c)\nVmSize:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t9\n";
        let usage = read(STAT, status, "cpu 1 2\nbtime 1000\n", 12, Some(1024)).expect("whole");
        assert_eq!(usage.cpu, Duration::from_secs(2));
        assert_eq!((usage.virtual_bytes, usage.resident_bytes), (2 << 20, 1 << 20));
        assert_eq!((usage.open_fds, usage.max_fds, usage.threads), (12, Some(1024), 9));
        assert_eq!(usage.start, UNIX_EPOCH + Duration::from_secs(1007));
        for cut in 0..STAT.len() {
            // Cut input never causes a panic.
            let _ = read(&STAT[..cut], status, "btime 1000", 0, None);
        }
    }

    #[test]
    fn this_process_is_read() {
        let usage = usage().expect("there is /proc");
        assert!(usage.resident_bytes > 1 << 16 && usage.open_fds >= 3 && usage.threads >= 1);
        let age = SystemTime::now().duration_since(usage.start).unwrap_or_default();
        assert!(age < Duration::from_secs(24 * 3600), "{age:?}");
    }
}
