//! How much memory this process may still take.

use sysinfo::System;

/// Bytes that are available, by the system and by the control group (a container's limit); `None` where the system does
/// not tell. Pages that can be dropped, as those of a mapped model, count as available.
#[must_use]
pub fn available() -> Option<u64> {
    let mut system = System::new();
    system.refresh_memory();
    if system.total_memory() == 0 {
        return None;
    }
    // Not `free_memory`: that counts cached files as used.
    let in_group = system.cgroup_limits().map(|limits| limits.total_memory.saturating_sub(limits.rss));
    Some(system.available_memory().min(in_group.unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_machine_that_runs_this_has_memory() {
        assert!(super::available().is_none_or(|n| n > 1 << 20));
    }
}
