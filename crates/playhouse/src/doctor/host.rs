//! The checks of the machine: processor, memory, limits, clock, environment. Linux tells all of them in
//! `/proc`; elsewhere unknown values are reported as unknown.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, SystemTime};

use clap::Command;
use playhouse_ops::Isa;

use super::Check;
use crate::cgroups::memory_limit;
use crate::date::Date;

/// The available memory below which even a small model does not fit.
const MEMORY_FAIL: u64 = 256 << 20;
/// The available memory below which few models fit.
const MEMORY_WARN: u64 = 2 << 30;
/// The limit on open files below which a few hundred streams are too many.
const FILES_WARN: u64 = 4096;
/// The limit on open files below which a server is useless.
const FILES_FAIL: u64 = 128;
/// The time below which a clock is wrong: 2026-01-01.
const CLOCK_FLOOR: Duration = Duration::from_secs(1_767_225_600);

/// Returns all checks of this machine.
pub(super) fn checks(command: &Command) -> Vec<Check> {
    vec![
        cpu(
            &read("/proc/cpuinfo"),
            std::thread::available_parallelism().map_or(1, usize::from),
            Isa::detect(),
        ),
        memory(&read("/proc/meminfo"), memory_limit()),
        open_files(open_files_max()),
        clock(SystemTime::now()),
        environment(
            std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()),
            command,
        ),
        log_filter(std::env::var("RUST_LOG").ok().as_deref()),
    ]
}

/// Returns the number of files that this process may have open at once; `None` if that is not known.
pub(crate) fn open_files_max() -> Option<u64> {
    soft_limit(&read("/proc/self/limits"))
}

fn soft_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// Reads a file; an unreadable file counts as empty, and each check reports what it lacks.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn cpu(cpuinfo: &str, threads: usize, isa: Isa) -> Check {
    let value = |key: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(key))?;
        line.split_once(':').map(|(_, value)| value.trim())
    };
    let flags: BTreeSet<&str> =
        value("flags").or_else(|| value("Features")).unwrap_or("").split_whitespace().collect();
    let known = [
        ("avx2", "AVX2"),
        ("avx512f", "AVX-512F"),
        ("avx512_bf16", "AVX-512 BF16"),
        ("amx_bf16", "AMX BF16"),
    ];
    let found: Vec<&str> =
        known.iter().filter(|(flag, _)| flags.contains(flag)).map(|(_, name)| *name).collect();
    let name = value("model name").unwrap_or(std::env::consts::ARCH);
    let features =
        if found.is_empty() { "no vector extensions".to_owned() } else { found.join(", ") };
    let detail = format!("{name}, {threads} threads, {features}; matmul path: {isa}");
    if isa == Isa::Portable {
        return Check::warn("cpu", detail, "without AVX2 expect a tenth of the speed");
    }
    Check::ok("cpu", detail)
}

fn memory(meminfo: &str, container_max: Option<u64>) -> Check {
    let bytes = |key: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib << 10)
    };
    let (Some(total), Some(available)) = (bytes("MemTotal:"), bytes("MemAvailable:")) else {
        return Check::warn("memory", "unknown", "/proc/meminfo cannot be read here");
    };
    let limit = container_max.filter(|&max| max < total);
    let usable = limit.map_or(available, |max| available.min(max));
    let container =
        limit.map(|max| format!(", the container may use {}", gib(max))).unwrap_or_default();
    let detail = format!("{} of {} available{container}", gib(available), gib(total));
    let hint = "weights and KV cache must fit; see --kv-cache-memory of `playhouse serve`";
    match usable {
        0..MEMORY_FAIL => Check::fail("memory", detail, hint),
        MEMORY_FAIL..MEMORY_WARN => Check::warn("memory", detail, hint),
        _ => Check::ok("memory", detail),
    }
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / (1_u64 << 30) as f64)
}

fn open_files(max: Option<u64>) -> Check {
    let Some(max) = max else {
        return Check::warn("open files", "unknown", "/proc/self/limits cannot be read here");
    };
    let detail = format!("at most {max}; each connection takes one");
    let hint = "raise it with `ulimit -n 65536`, or LimitNOFILE= in a systemd unit";
    match max {
        0..FILES_FAIL => Check::fail("open files", detail, hint),
        FILES_FAIL..FILES_WARN => Check::warn("open files", detail, hint),
        u64::MAX => Check::ok("open files", "not limited"),
        _ => Check::ok("open files", detail),
    }
}

fn clock(now: SystemTime) -> Check {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let detail = Date::of(now).to_string();
    if seconds < CLOCK_FLOOR {
        let hint = "set the clock: logs and the `created` of answers carry it";
        return Check::warn("clock", detail, hint);
    }
    Check::ok("clock", detail)
}

/// Checks for variables with our prefix that no flag reads, which are most likely misspelt.
fn environment(names: impl Iterator<Item = String>, command: &Command) -> Check {
    let known: BTreeSet<String> = command
        .get_subcommands()
        .flat_map(Command::get_arguments)
        .filter_map(|argument| argument.get_env())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    let ours = names.filter(|name| name.starts_with("PLAYHOUSE_"));
    let (set, unknown): (BTreeSet<String>, BTreeSet<String>) =
        ours.partition(|name| known.contains(name));
    let list = |names: BTreeSet<String>| names.into_iter().collect::<Vec<_>>().join(", ");
    if !unknown.is_empty() {
        let detail = format!("{} not read by any command", list(unknown));
        return Check::warn("environment", detail, format!("known are {}", list(known)));
    }
    // Only the names are printed: some of the values are secrets.
    let detail =
        if set.is_empty() { "no PLAYHOUSE_*".to_owned() } else { format!("{} set", list(set)) };
    Check::ok("environment", detail)
}

fn log_filter(filter: Option<&str>) -> Check {
    match filter {
        None => Check::ok("RUST_LOG", "not set"),
        Some(filter) if filter.contains("trace") || filter.contains("debug") => Check::warn(
            "RUST_LOG",
            filter,
            "debug and trace write on every request or step; use info to serve",
        ),
        Some(filter) => Check::ok("RUST_LOG", filter),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::Status;
    use super::*;
    use crate::Cli;

    #[test]
    fn the_matmul_path_is_the_one_the_kernels_chose() {
        for (flags, isa, status, end) in [
            (
                "fpu avx2 fma avx512f",
                Isa::Avx512,
                Status::Ok,
                "AVX2, AVX-512F; matmul path: avx512",
            ),
            ("fpu", Isa::Portable, Status::Warn, "no vector extensions; matmul path: portable"),
        ] {
            let cpuinfo = format!("processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: {flags}\n");
            let check = cpu(&cpuinfo, 2, isa);
            assert_eq!(check.status, status, "{flags}");
            assert!(check.detail.starts_with("Some CPU, 2 threads, "), "{}", check.detail);
            assert!(check.detail.ends_with(end), "{}", check.detail);
        }
    }

    #[test]
    fn memory_is_what_is_available_and_allowed() {
        let meminfo = "MemTotal:  16777216 kB\nMemFree: 1 kB\nMemAvailable: 8388608 kB\n";
        let check = memory(meminfo, None);
        assert_eq!(
            (check.status, check.detail.as_str()),
            (Status::Ok, "8.0 GiB of 16.0 GiB available")
        );
        assert_eq!(memory(meminfo, Some(1 << 30)).status, Status::Warn);
        assert_eq!(memory(meminfo, Some(1 << 20)).status, Status::Fail);
        assert_eq!(memory(meminfo, Some(u64::MAX)).status, Status::Ok);
        assert_eq!(memory("", None).status, Status::Warn);
    }

    #[test]
    fn the_limit_on_open_files_is_the_soft_one() {
        let limits = "Limit  Soft Limit Hard Limit Units\nMax open files  1024  524288  files\n";
        assert_eq!(soft_limit(limits), Some(1024));
        assert_eq!(soft_limit("Max open files  unlimited unlimited files"), Some(u64::MAX));
        assert_eq!(soft_limit(""), None);
        for (max, status) in [
            (Some(64), Status::Fail),
            (Some(1024), Status::Warn),
            (Some(65_536), Status::Ok),
            (Some(u64::MAX), Status::Ok),
            (None, Status::Warn),
        ] {
            assert_eq!(open_files(max).status, status, "{max:?}");
        }
    }

    #[test]
    fn a_clock_from_1970_is_noticed() {
        assert_eq!(clock(SystemTime::UNIX_EPOCH).status, Status::Warn);
        assert_eq!(clock(SystemTime::UNIX_EPOCH + CLOCK_FLOOR).status, Status::Ok);
    }

    #[test]
    fn misspelt_variables_are_noticed_and_values_are_not_shown() {
        let command = Cli::command();
        let names =
            |names: &[&str]| environment(names.iter().map(|&name| name.to_owned()), &command);
        assert_eq!(names(&["HOME", "PLAYHOUSE_API_KEY"]).detail, "PLAYHOUSE_API_KEY set");
        assert_eq!(names(&["HOME"]).detail, "no PLAYHOUSE_*");
        let misspelt = names(&["PLAYHOUSE_APIKEY"]);
        assert_eq!(misspelt.status, Status::Warn);
        assert!(misspelt.hint.is_some_and(|hint| hint.contains("PLAYHOUSE_API_KEY")));
    }

    #[test]
    fn loud_logs_are_noticed() {
        assert_eq!(log_filter(None).status, Status::Ok);
        assert_eq!(log_filter(Some("info")).status, Status::Ok);
        assert_eq!(log_filter(Some("playhouse=debug")).status, Status::Warn);
    }
}
