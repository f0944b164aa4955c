//! A simulated file system that several simulated machines share, with a simulated time.
//!
//! Every operation on a file is a step, and the seed decides which machine does the next one. A machine may crash at any
//! step, so that a part of what it has not synced and no other machine has seen is lost, or stop for a long time, or see an
//! earlier state of what other machines write. Each machine has a clock of its own, with a wrong time and a wrong speed. There
//! are no locks.

use std::collections::BTreeMap;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::{Appended, Disk, Readable};

/// Steps after which a run is considered stuck.
const MAX_STEPS: u64 = 300_000;

/// How a world treats its machines; each number is of 10,000 steps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fates {
    pub(crate) seed: u64,
    pub(crate) n_crashes: u64,
    pub(crate) n_stops: u64,
    /// Longest stop, in milliseconds.
    pub(crate) max_stop: u64,
    /// Reads that see an earlier state.
    pub(crate) n_late: u64,
}

/// The file server and its machines.
pub(crate) struct World {
    state: Mutex<State>,
    turn: Condvar,
}

struct State {
    files: BTreeMap<PathBuf, Stored>,
    machines: Vec<Machine>,
    active: Option<usize>,
    fates: Fates,
    now: u64,
    n_steps: u64,
    n_crashes: u64,
    /// What must never happen, and did.
    violation: Option<String>,
}

#[derive(Default)]
struct Stored {
    bytes: Vec<u8>,
    n_synced: usize,
    /// The machine that wrote to it.
    writer: Option<usize>,
    created: u64,
    /// Nobody sees a part of it.
    is_published: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not at a step yet.
    Busy,
    /// Wants to do a step from this time on.
    Ready(u64),
    Crashed,
    Over,
}

struct Machine {
    phase: Phase,
    offset: u64,
    percent: u64,
    /// The last living machine does not crash.
    is_safe: bool,
}

impl State {
    fn random(&mut self, n: u64) -> u64 {
        let seed = &mut self.fates.seed;
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 33) % n
    }

    fn happens(&mut self, n_of_10000: u64) -> bool {
        self.random(10_000) < n_of_10000
    }

    fn violate(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// Chooses the machine that does the next step.
    fn choose(&mut self) {
        // Wait for crashed ones as well, until they are restarted or over: then a seed always gives the same run.
        let is_undecided = |machine: &Machine| matches!(machine.phase, Phase::Busy | Phase::Crashed);
        if self.active.is_some() || self.machines.iter().any(is_undecided) {
            return;
        }
        self.n_steps += 1;
        if self.n_steps == MAX_STEPS {
            self.violate("no progress".to_owned());
        }
        self.now += self.random(20);
        loop {
            let ready = |machine: &Machine| if let Phase::Ready(from) = machine.phase { Some(from) } else { None };
            let Some(first) = self.machines.iter().filter_map(ready).min() else { return };
            self.now = self.now.max(first);
            let now = self.now;
            let able = |(_, machine): &(usize, &Machine)| ready(machine).is_some_and(|from| from <= now);
            let able: Vec<usize> = self.machines.iter().enumerate().filter(able).map(|(index, _)| index).collect();
            let index = able[self.random(able.len() as u64) as usize];
            if self.violation.is_some() || !self.machines[index].is_safe && self.happens(self.fates.n_crashes) {
                return self.crash(index);
            }
            if self.happens(self.fates.n_stops) {
                let stop = self.random(self.fates.max_stop);
                self.machines[index].phase = Phase::Ready(now + 1 + stop);
                continue;
            }
            self.active = Some(index);
            return;
        }
    }

    fn crash(&mut self, index: usize) {
        self.machines[index].phase = Phase::Crashed;
        self.n_crashes += 1;
        let mut files = std::mem::take(&mut self.files);
        for file in files.values_mut().filter(|file| file.writer == Some(index)) {
            let n_unsynced = file.bytes.len() - file.n_synced;
            let n_kept = file.n_synced + self.random(n_unsynced as u64 + 1) as usize;
            file.bytes.truncate(n_kept);
        }
        self.files = files;
    }
}

fn crashed() -> io::Error {
    io::Error::other("the machine has crashed")
}

impl World {
    /// `n_machines` machines; the first never crashes.
    pub(crate) fn new(n_machines: usize, fates: Fates) -> Arc<World> {
        let mut state = State {
            files: BTreeMap::new(),
            machines: Vec::new(),
            active: None,
            fates,
            now: 0,
            n_steps: 0,
            n_crashes: 0,
            violation: None,
        };
        for index in 0..n_machines {
            let (offset, percent) = (state.random(1 << 40), 50 + state.random(150));
            state.machines.push(Machine { phase: Phase::Busy, offset, percent, is_safe: index == 0 });
        }
        Arc::new(World { state: Mutex::new(state), turn: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// What must never happen, and did; and the number of crashes.
    pub(crate) fn verdict(&self) -> (Option<String>, u64) {
        let state = self.lock();
        (state.violation.clone(), state.n_crashes)
    }

    /// The disk as one machine sees it; `None`: as an observer sees it after all is over.
    pub(crate) fn disk(self: &Arc<World>, machine: Option<usize>) -> SharedDisk {
        SharedDisk { world: self.clone(), machine }
    }

    /// The machine's clock.
    pub(crate) fn clock(&self, machine: usize) -> Duration {
        let state = self.lock();
        let Machine { offset, percent, .. } = state.machines[machine];
        Duration::from_millis(offset + state.now * percent / 100)
    }

    /// Waits for the machine's next turn, at least this long.
    pub(crate) fn sleep(&self, machine: usize, ms: u64) -> io::Result<()> {
        let mut state = self.lock();
        if state.active == Some(machine) {
            state.active = None;
        }
        if matches!(state.machines[machine].phase, Phase::Crashed | Phase::Over) {
            return Err(crashed());
        }
        state.machines[machine].phase = Phase::Ready(state.now + ms);
        state.choose();
        self.turn.notify_all();
        while state.active != Some(machine) {
            if state.machines[machine].phase == Phase::Crashed {
                return Err(crashed());
            }
            state = self.turn.wait(state).unwrap();
        }
        Ok(())
    }

    /// Starts a crashed machine again, or its process: its files are as the crash left them. The process of the last living
    /// machine is always started again: it ends with an error if it sees too late that there is a plan.
    pub(crate) fn restart(&self, machine: usize) -> bool {
        let mut state = self.lock();
        let is_restarted = state.violation.is_none() && (state.machines[machine].is_safe || state.happens(5000));
        if is_restarted {
            state.machines[machine].phase = Phase::Busy;
        }
        is_restarted
    }

    /// The machine does nothing more.
    pub(crate) fn leave(&self, machine: usize) {
        let mut state = self.lock();
        if state.active == Some(machine) {
            state.active = None;
        }
        state.machines[machine].phase = Phase::Over;
        state.choose();
        self.turn.notify_all();
    }
}

/// The file system as one machine sees it.
pub(crate) struct SharedDisk {
    world: Arc<World>,
    machine: Option<usize>,
}

impl SharedDisk {
    fn step(&self) -> io::Result<MutexGuard<'_, State>> {
        if let Some(machine) = self.machine {
            self.world.sleep(machine, 0)?;
        }
        Ok(self.world.lock())
    }

    fn file(&self, path: &Path) -> Box<dyn Appended> {
        let disk = SharedDisk { world: self.world.clone(), machine: self.machine };
        Box::new(SharedFile { disk, path: path.to_owned() })
    }

    fn no_locks(&self) {
        if self.machine.is_some() {
            self.world.lock().violate("a lock is asked for".to_owned());
        }
    }
}

struct SharedFile {
    disk: SharedDisk,
    path: PathBuf,
}

impl SharedFile {
    fn change<T>(&self, change: impl FnOnce(&mut Stored) -> T) -> io::Result<T> {
        let mut state = self.disk.step()?;
        let file = state.files.get_mut(&self.path).expect("files of workers are not removed");
        let writer = *file.writer.get_or_insert(self.disk.machine.unwrap_or(usize::MAX));
        let changed = change(file);
        if Some(writer) != self.disk.machine && self.disk.machine.is_some() {
            state.violate(format!("{}: written by {writer} and {:?}", self.path.display(), self.disk.machine));
        }
        Ok(changed)
    }
}

impl Appended for SharedFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.change(|file| file.bytes.extend_from_slice(bytes))
    }

    fn n_bytes(&self) -> io::Result<u64> {
        Ok(self.disk.step()?.files[&self.path].bytes.len() as u64)
    }

    fn cut(&mut self, n_bytes: u64) -> io::Result<()> {
        self.change(|file| {
            file.bytes.truncate(n_bytes as usize);
            file.n_synced = file.n_synced.min(n_bytes as usize);
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.change(|file| file.n_synced = file.bytes.len())
    }
}

impl Disk for SharedDisk {
    fn append(&self, path: &Path) -> io::Result<Box<dyn Appended>> {
        let mut state = self.step()?;
        let created = state.now;
        state.files.entry(path.to_owned()).or_insert(Stored { created, ..Stored::default() });
        drop(state);
        Ok(self.file(path))
    }

    fn append_alone(&self, path: &Path) -> io::Result<Option<Box<dyn Appended>>> {
        self.no_locks();
        self.append(path).map(Some)
    }

    fn hold(&self, _path: &Path) -> io::Result<Option<Box<dyn Send>>> {
        self.no_locks();
        Ok(Some(Box::new(())))
    }

    fn read(&self, path: &Path) -> io::Result<Option<Box<dyn Readable>>> {
        let mut state = self.step()?;
        let n_late = state.fates.n_late;
        let is_late = self.machine.is_some() && state.happens(n_late);
        let (n, now) = (state.random(1 << 20) as usize, state.now);
        let Some(file) = state.files.get_mut(path) else { return Ok(None) };
        let mut bytes = file.bytes.clone();
        if is_late && file.writer.is_some() && file.writer != self.machine {
            if now < file.created + 500 {
                return Ok(None);
            }
            if !file.is_published {
                bytes.truncate(n % (bytes.len() + 1));
            }
        }
        if file.writer != self.machine {
            // What another machine sees is on the server, and the writer's crash does not undo it.
            file.n_synced = file.n_synced.max(bytes.len());
        }
        Ok(Some(Box::new(Cursor::new(bytes))))
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.step()?;
        let file = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.step()?;
        if let Some(file) = state.files.remove(path)
            && self.machine.is_some()
        {
            state.violate(format!("{}, by {:?}, is removed", path.display(), file.writer));
        }
        Ok(())
    }

    fn create_new(&self, path: &Path) -> io::Result<Option<Box<dyn Appended>>> {
        let mut state = self.step()?;
        if state.files.contains_key(path) {
            return Ok(None);
        }
        let (created, writer) = (state.now, self.machine);
        state.files.insert(path.to_owned(), Stored { created, writer, ..Stored::default() });
        drop(state);
        Ok(Some(self.file(path)))
    }

    fn publish(&self, path: &Path, bytes: &[u8]) -> io::Result<bool> {
        let mut state = self.step()?;
        if state.files.contains_key(path) {
            return Ok(false);
        }
        let (created, writer) = (state.now, self.machine);
        let file = Stored { bytes: bytes.to_owned(), n_synced: bytes.len(), writer, created, is_published: true };
        state.files.insert(path.to_owned(), file);
        Ok(true)
    }
}
