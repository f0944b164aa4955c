//! Bounds the lines between input and output, in number and in bytes.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A limit on lines in flight.
#[derive(Debug)]
pub struct InFlight {
    max_lines: usize,
    max_bytes: usize,
    level: Mutex<Level>,
    falls: Condvar,
}

#[derive(Debug, Default)]
struct Level {
    n_lines: usize,
    n_bytes: usize,
    is_closed: bool,
}

impl InFlight {
    /// Admits at most `max_lines` lines with `max_bytes` bytes in all. A longer line is admitted alone.
    #[must_use]
    pub fn new(max_lines: usize, max_bytes: usize) -> InFlight {
        InFlight { max_lines, max_bytes, level: Mutex::default(), falls: Condvar::new() }
    }

    /// Waits for room for a line and takes it. Returns false after [`InFlight::close`].
    pub fn enter(&self, n_bytes: usize) -> bool {
        let is_full = |level: &mut Level| {
            let has_room = level.n_lines < self.max_lines && level.n_bytes.saturating_add(n_bytes) <= self.max_bytes;
            !(level.is_closed || level.n_lines == 0 || has_room)
        };
        let mut level = self.falls.wait_while(self.level(), is_full).unwrap_or_else(PoisonError::into_inner);
        if level.is_closed {
            return false;
        }
        level.n_lines += 1;
        level.n_bytes += n_bytes;
        true
    }

    /// Frees the room of a line.
    pub fn leave(&self, n_bytes: usize) {
        let mut level = self.level();
        level.n_lines -= 1;
        level.n_bytes -= n_bytes;
        drop(level);
        self.falls.notify_one();
    }

    /// Makes all present and future calls of [`InFlight::enter`] return false.
    pub fn close(&self) {
        self.level().is_closed = true;
        self.falls.notify_all();
    }

    fn level(&self) -> MutexGuard<'_, Level> {
        self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn no_more_is_under_way_than_may_be() {
        let in_flight = InFlight::new(3, 10);
        let (n_bytes, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for worker in 0..8 {
                let (in_flight, n_bytes, most) = (&in_flight, &n_bytes, &most);
                scope.spawn(move || {
                    for n in 0..200 {
                        let size = (n + worker) % 6;
                        assert!(in_flight.enter(size));
                        most.fetch_max(n_bytes.fetch_add(size, Ordering::SeqCst) + size, Ordering::SeqCst);
                        n_bytes.fetch_sub(size, Ordering::SeqCst);
                        in_flight.leave(size);
                    }
                });
            }
        });
        assert!((5..=10).contains(&most.load(Ordering::SeqCst)), "{most:?}");
    }

    #[test]
    fn a_long_line_goes_alone_and_closing_wakes() {
        let in_flight = InFlight::new(3, 10);
        assert!(in_flight.enter(1000));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| in_flight.enter(1));
            in_flight.close();
            assert!(!waiting.join().unwrap());
        });
        assert!(!in_flight.enter(0));
    }
}
