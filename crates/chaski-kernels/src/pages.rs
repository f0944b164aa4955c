//! Releases pages of a mapped model file that are no longer needed.

/// Releases the pages of `bytes` after their contents were packed. llama.cpp leaves the file mapped, so the model would
/// be in memory twice. A later access reads the page from the file again. Leaves memory alone that is not a read-only
/// mapping of a file.
#[cfg(target_os = "linux")]
pub(crate) fn release(bytes: &[u8]) {
    // SAFETY: only queries a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let start = (bytes.as_ptr() as usize).next_multiple_of(page);
    let end = (bytes.as_ptr() as usize + bytes.len()) / page * page;
    if start < end && is_mapped_file(start, end) {
        // SAFETY: the pages are read-only and backed by the file, so dropping them loses nothing.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn release(_: &[u8]) {}

/// Whether the addresses lie in one read-only mapping of a file.
#[cfg(target_os = "linux")]
fn is_mapped_file(start: usize, end: usize) -> bool {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return false };
    maps.lines().any(|line| {
        // 7f0000000000-7f0001000000 r--s 00000000 fe:01 1234  /models/a.gguf
        let mut fields = line.split_ascii_whitespace();
        let range = fields.next().and_then(|range| range.split_once('-'));
        let Some((from, to)) =
            range.and_then(|(a, b)| Some((usize::from_str_radix(a, 16).ok()?, usize::from_str_radix(b, 16).ok()?)))
        else {
            return false;
        };
        let is_read_only = fields.next().is_some_and(|permissions| permissions.starts_with("r--"));
        let inode = fields.nth(2);
        from <= start && end <= to && is_read_only && inode.is_some_and(|inode| inode != "0")
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn memory_of_the_program_is_left_alone() {
        let mut heap = vec![7u8; 1 << 20];
        release(&heap);
        heap[0] = 8;
        assert!(heap[1..].iter().all(|byte| *byte == 7));
    }

    #[test]
    fn a_mapped_file_reads_the_same_afterwards() {
        use std::os::fd::AsRawFd as _;
        let path = std::env::temp_dir().join(format!("chaski-pages-{}", std::process::id()));
        std::fs::write(&path, vec![5u8; 1 << 20]).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        // SAFETY: a private mapping of a file that nobody else changes.
        let mapped = unsafe {
            let p = libc::mmap(std::ptr::null_mut(), 1 << 20, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0);
            assert_ne!(p, libc::MAP_FAILED);
            std::slice::from_raw_parts(p.cast::<u8>(), 1 << 20)
        };
        assert!(mapped.iter().all(|byte| *byte == 5));
        let start = mapped.as_ptr() as usize;
        assert!(is_mapped_file(start, start + (1 << 20)));
        release(mapped);
        let mut resident = vec![0u8; 256];
        // SAFETY: `resident` has one byte per page.
        assert_eq!(unsafe { libc::mincore(start as *mut libc::c_void, 1 << 20, resident.as_mut_ptr()) }, 0);
        assert!(mapped.iter().all(|byte| *byte == 5));
        std::fs::remove_file(path).unwrap();
    }
}
