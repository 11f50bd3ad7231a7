//! The memory that the control groups of this process leave it.
//!
//! - **CG-1** a limit counts in the group of the process and in any group that contains it, in version 2
//!   and version 1. The smallest of them is the answer.
//! - **CG-2** groups are found below the mount point of their file system, whatever part of the hierarchy
//!   that mount shows: in a container often the container's own group alone.
//!
//! Not here: the memory of the machine (see [`crate::sizing`]).

use std::fs;
use std::path::{Component, Path, PathBuf};

/// A mount of a hierarchy of groups, from `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    version: Version,
    /// The group that the mount shows as its root.
    root: PathBuf,
    /// The path at which that group is mounted.
    point: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Returns the smallest limit on the memory of this process, in bytes; `None` if there is none.
pub(crate) fn memory_limit() -> Option<u64> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let groups = read(Path::new("/proc/self/cgroup"))?;
    let mounts = read(Path::new("/proc/self/mountinfo"))?;
    least_limit(&groups, &mounts, read)
}

/// Returns the same, from the text of both files and a reader of other files.
fn least_limit(groups: &str, mounts: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let mounts: Vec<Mount> = mounts.lines().filter_map(Mount::parse).collect();
    let own = groups.lines().filter_map(own_group);
    let folders = own.flat_map(|(version, group)| {
        let mounts = mounts.iter().filter(move |mount| mount.version == version);
        mounts.flat_map(move |mount| mount.folders(group))
    });
    // For no limit, version 2 has a word, and version 1 a number that no machine has.
    let limit = |folder: (Version, PathBuf)| {
        let (version, folder) = folder;
        read(&folder.join(version.file()))?.trim().parse::<u64>().ok()
    };
    folders.filter_map(limit).min()
}

/// Returns the version of the hierarchy that limits memory, and the group of the process in it, from a
/// line of `/proc/self/cgroup`: `NUMBER:CONTROLLERS:GROUP`.
fn own_group(line: &str) -> Option<(Version, &Path)> {
    let mut parts = line.splitn(3, ':');
    let (number, controllers, group) = (parts.next()?, parts.next()?, parts.next()?);
    let version = match (number, controllers) {
        ("0", "") => Version::Two,
        (_, controllers) if controllers.split(',').any(|one| one == "memory") => Version::One,
        _ => return None,
    };
    // The group of a process may have been deleted.
    Some((version, Path::new(group.strip_suffix(" (deleted)").unwrap_or(group))))
}

// === impl Version ===

impl Version {
    /// Returns the file with the limit of a group.
    fn file(self) -> &'static str {
        match self {
            Self::One => "memory.limit_in_bytes",
            Self::Two => "memory.max",
        }
    }
}

// === impl Mount ===

impl Mount {
    /// Parses a line of `/proc/self/mountinfo`, if it mounts a hierarchy that limits memory.
    fn parse(line: &str) -> Option<Self> {
        let (mount, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        let version = match kind.next()? {
            "cgroup2" => Version::Two,
            "cgroup" => {
                let options = kind.nth(1)?;
                options.split(',').any(|one| one == "memory").then_some(Version::One)?
            }
            _ => return None,
        };
        let mut mount = mount.split(' ').skip(3);
        let mut path = || mount.next().map(|text| PathBuf::from(plain(text)));
        Some(Self { version, root: path()?, point: path()? })
    }

    /// Returns the folders of the group and of every group around it, up to the root of the mount.
    fn folders(&self, group: &Path) -> Vec<(Version, PathBuf)> {
        let goes_up = |path: &Path| path.components().any(|part| part == Component::ParentDir);
        let below = group.strip_prefix(&self.root).ok().filter(|_| !goes_up(group));
        // For a group outside of the mount, the root of the mount is all that is known.
        let below = below.unwrap_or(Path::new(""));
        let around = below.ancestors().map(|part| (self.version, self.point.join(part)));
        around.collect()
    }
}

/// Decodes a path of `/proc/self/mountinfo`, where white space and backslashes are octal numbers.
fn plain(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let letter = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match letter {
            Some(letter) => {
                plain.push(char::from(letter));
                plain += &part[3..];
            }
            None => {
                plain.push('\\');
                plain += part;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn limit(groups: &str, mounts: &str, files: &[(&str, &str)]) -> Option<u64> {
        let files: HashMap<&Path, &str> =
            files.iter().map(|(path, text)| (Path::new(*path), *text)).collect();
        least_limit(groups, mounts, |path| files.get(path).map(|text| (*text).to_owned()))
    }

    #[test]
    fn cg1_the_least_limit_of_a_group_and_those_around_it_counts() {
        let mounts =
            "34 24 0:29 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        let groups = "0::/system.slice/playhouse.service/ranks";
        let file = |at: &str| format!("/sys/fs/cgroup{at}/memory.max");
        let [own, service, slice] = [
            "/system.slice/playhouse.service/ranks",
            "/system.slice/playhouse.service",
            "/system.slice",
        ]
        .map(file);
        for (limits, expected) in [
            (["max\n", "max\n", "max\n"], None),
            (["3221225472\n", "max\n", "max\n"], Some(3 * GIB)),
            (["max\n", "max\n", "2147483648\n"], Some(2 * GIB)),
            (["3221225472\n", "1073741824\n", "2147483648\n"], Some(GIB)),
        ] {
            let files = [(&*own, limits[0]), (&*service, limits[1]), (&*slice, limits[2])];
            assert_eq!(limit(groups, mounts, &files), expected, "{limits:?}");
        }
    }

    #[test]
    fn cg1_both_versions_count_where_both_are_mounted() {
        let mounts = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu";
        let groups = "4:memory:/jobs/7\n1:cpu:/jobs/7\n0::/";
        let none = "9223372036854771712\n";
        let outer = "/sys/fs/cgroup/memory/jobs/memory.limit_in_bytes";
        let files = [
            ("/sys/fs/cgroup/memory/jobs/7/memory.limit_in_bytes", none),
            (outer, "536870912\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", none),
        ];
        assert_eq!(limit(groups, mounts, &files), Some(GIB / 2));
        assert_eq!(limit(groups, mounts, &files[2..]), Some(9_223_372_036_854_771_712));
        let unified = [("/sys/fs/cgroup/unified/memory.max", "268435456")];
        assert_eq!(limit(groups, mounts, &unified), Some(GIB / 4));
    }

    #[test]
    fn cg2_a_mount_that_shows_the_group_of_a_container_is_its_root() {
        let container = "/docker/0123abcd";
        let v1 =
            format!("50 45 0:32 {container} /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory");
        let files = [("/sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824")];
        assert_eq!(limit(&format!("4:memory:{container}"), &v1, &files), Some(GIB));
        let inner = [files[0], ("/sys/fs/cgroup/memory/inner/memory.limit_in_bytes", "536870912")];
        assert_eq!(limit(&format!("4:memory:{container}/inner"), &v1, &inner), Some(GIB / 2));

        // A namespace of its own calls its group the root; a process that was moved out of it, or a
        // mount from around it, is seen by a path upwards.
        let files = [("/sys/fs/cgroup/memory.max", "1073741824")];
        for (group, root) in [("/", "/"), ("/../other", "/"), ("/", "/.."), ("/a/../../b", "/")] {
            let v2 = format!("50 45 0:29 {root} /sys/fs/cgroup ro - cgroup2 cgroup rw");
            assert_eq!(limit(&format!("0::{group}"), &v2, &files), Some(GIB), "{group} {root}");
        }
    }

    #[test]
    fn what_cannot_be_read_limits_nothing() {
        for (groups, mounts) in [
            ("", ""),
            ("0::", "x - cgroup2"),
            ("no colons", "1 2 3 - cgroup2 x rw"),
            ("0::/", "1 2 0:1 / - - - -"),
            ("4:memory:/", "1 2 0:1 / /m rw - cgroup cgroup"),
        ] {
            assert_eq!(limit(groups, mounts, &[]), None, "{groups} {mounts}");
        }
        assert_eq!(plain("/mnt/a\\040b\\134c\\x"), "/mnt/a b\\c\\x");
    }
}
