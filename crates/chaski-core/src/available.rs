//! Finds out how much memory this process may still take, for the memory check and `-c auto`.
//!
//! The answer is the least of three limits: the memory the system has available, the limits of the control groups (a
//! container's limit), and the limit on the address space (`ulimit -v`), less what is already mapped. Pages that the
//! kernel can drop, such as those of a mapped model, count as available.

use std::fs;
use std::path::{Path, PathBuf};

/// Available memory in bytes; `None` if the system does not report it.
#[must_use]
pub fn available() -> Option<u64> {
    #[cfg(target_os = "linux")]
    return available_in(Path::new("/"));
    #[cfg(not(target_os = "linux"))]
    return of_system();
}

#[cfg(not(target_os = "linux"))]
fn of_system() -> Option<u64> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    (system.total_memory() > 0).then(|| system.available_memory())
}

/// Like [`available`], with `proc` and `sys` below `root`.
fn available_in(root: &Path) -> Option<u64> {
    let meminfo = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let of_system = field(&meminfo, "MemAvailable:")?.saturating_mul(1024);
    let limits = [left_in_groups(root), left_of_address_space(root)];
    Some(limits.into_iter().flatten().fold(of_system, u64::min))
}

/// The limit on this process's address space in bytes; `None` if there is no limit or the system does not report it.
#[must_use]
pub fn address_space_limit() -> Option<u64> {
    address_space_limit_in(Path::new("/"))
}

fn address_space_limit_in(root: &Path) -> Option<u64> {
    // "unlimited" does not parse as a number.
    field(&fs::read_to_string(root.join("proc/self/limits")).ok()?, "Max address space")
}

fn left_of_address_space(root: &Path) -> Option<u64> {
    let limit = address_space_limit_in(root)?;
    let status = fs::read_to_string(root.join("proc/self/status")).unwrap_or_default();
    Some(limit.saturating_sub(field(&status, "VmSize:").unwrap_or(0).saturating_mul(1024)))
}

/// The number after `name`, on the line that starts with `name`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

/// The bytes left in the tightest control group of this process; `None` if no group has a limit.
fn left_in_groups(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounted = root.join("sys/fs/cgroup");
    let left = groups.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        match controllers {
            "" => left_along(&mounted, path, &V2),
            _ if controllers.split(',').any(|one| one == "memory") => left_along(&mounted.join("memory"), path, &V1),
            _ => None,
        }
    });
    left.min()
}

/// File and field names of one version of control groups.
struct Version {
    limit: &'static str,
    current: &'static str,
    /// Fields of `memory.stat` that count file pages, which the kernel can drop.
    file_pages: [&'static str; 2],
}

const V2: Version =
    Version { limit: "memory.max", current: "memory.current", file_pages: ["inactive_file ", "active_file "] };
const V1: Version = Version {
    limit: "memory.limit_in_bytes",
    current: "memory.usage_in_bytes",
    file_pages: ["total_inactive_file ", "total_active_file "],
};

/// The bytes left in the tightest group from `path` up to the mounted root. In a container, `path` may be the host's
/// path, and only the root is visible.
fn left_along(mounted: &Path, path: &str, version: &Version) -> Option<u64> {
    let below: PathBuf =
        Path::new(path).components().filter(|part| matches!(part, std::path::Component::Normal(_))).collect();
    below.ancestors().filter_map(|group| left_in(&mounted.join(group), version)).min()
}

/// The bytes left in one group; `None` if it has no limit.
fn left_in(group: &Path, version: &Version) -> Option<u64> {
    let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    // Version 2 writes "max" for no limit; version 1 writes a number near 2^63.
    let limit = number(version.limit).filter(|limit| *limit < 1 << 62)?;
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let droppable = version.file_pages.iter().filter_map(|name| field(&stat, name)).fold(0, u64::saturating_add);
    let used = number(version.current)?.saturating_sub(droppable);
    Some(limit.saturating_sub(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let meminfo = ("proc/meminfo", "MemTotal:       16000 kB\nMemFree: 10 kB\nMemAvailable:    8000 kB\n");
        for (path, text) in [&[meminfo], files].concat() {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn found(files: &[(&str, &str)]) -> Option<u64> {
        available_in(machine(files).path())
    }

    const SYSTEM: u64 = 8000 * 1024;

    #[test]
    fn without_groups_the_system_tells() {
        assert_eq!(found(&[]), Some(SYSTEM));
        assert_eq!(available_in(tempfile::tempdir().unwrap().path()), None);
    }

    #[test]
    fn version_2_counts_along_the_path_and_gives_file_pages_back() {
        let path = ("proc/self/cgroup", "0::/a/b\n");
        let free = ("sys/fs/cgroup/a/b/memory.max", "max\n");
        assert_eq!(found(&[path, free]), Some(SYSTEM));
        let limit = ("sys/fs/cgroup/a/memory.max", "1000000\n");
        let current = ("sys/fs/cgroup/a/memory.current", "900000\n");
        assert_eq!(found(&[path, free, limit, current]), Some(100_000));
        let stat = ("sys/fs/cgroup/a/memory.stat", "anon 5\nfile 9\ninactive_file 200000\nactive_file 50000\n");
        assert_eq!(found(&[path, free, limit, current, stat]), Some(350_000));
        let over = ("sys/fs/cgroup/a/memory.current", "2000000\n");
        assert_eq!(found(&[path, limit, over]), Some(0));
    }

    #[test]
    fn version_1_has_a_tree_of_its_own_for_memory() {
        let path = ("proc/self/cgroup", "5:cpu,cpuacct:/other\n4:memory:/a\n0::/\n");
        let limit = ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "4000000\n");
        let usage = ("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "3000000\n");
        let stat =
            ("sys/fs/cgroup/memory/a/memory.stat", "inactive_file 7\ntotal_inactive_file 1000\ntotal_active_file 0\n");
        assert_eq!(found(&[path, limit, usage, stat]), Some(1_001_000));
        let none = ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(found(&[path, none, usage]), Some(SYSTEM));
        let host = ("proc/self/cgroup", "4:memory:/docker/0123\n");
        let own = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "5000000\n");
        let used = ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1000000\n");
        assert_eq!(found(&[host, own, used]), Some(4_000_000), "in a container the root is the container's");
    }

    #[test]
    fn issue_13_11_a_limit_on_the_address_space_counts() {
        let limits = |soft: &str| {
            format!("Limit   Soft Limit  Hard Limit  Units\nMax address space  {soft}  unlimited  bytes\n")
        };
        let status = ("proc/self/status", "Name: chaski\nVmPeak: 900 kB\nVmSize:\t     500 kB\n");
        assert_eq!(found(&[("proc/self/limits", &limits("unlimited")), status]), Some(SYSTEM));
        assert_eq!(found(&[("proc/self/limits", &limits("1024000")), status]), Some(500 * 1024));
        assert_eq!(found(&[("proc/self/limits", &limits("1024")), status]), Some(0));
    }

    #[test]
    fn a_path_does_not_lead_out() {
        let path = ("proc/self/cgroup", "0::/../../etc\n");
        let outside = ("sys/fs/etc/memory.max", "1\n");
        assert_eq!(found(&[path, outside, ("sys/fs/etc/memory.current", "1\n")]), Some(SYSTEM));
    }

    #[test]
    fn a_machine_that_runs_this_has_memory() {
        assert!(available().is_none_or(|n| n > 1 << 20));
    }
}
