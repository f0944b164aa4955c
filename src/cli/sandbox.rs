//! Sandbox for the engine, on Linux (seccomp and Landlock): it may read, compute, and write into a few folders. It
//! cannot open sockets, start programs, or write anywhere else. `--no-sandbox` turns it off.
//!
//! llama.cpp parses untrusted files; the sandbox is the second line of defense, after the checks of [`crate::gguf`]. It
//! is best effort: if the kernel lacks a feature, chaski runs without it, and `-v` says so. Reading is not restricted,
//! because models, adapters and drivers can be anywhere. Files that are already open stay usable.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args as ClapArgs;

use crate::cli::folders;
use crate::cli::output::stderr_line;
use crate::store::private;

/// The environment variable for a driver's folder of compiled shaders, and the folders below it that the driver writes to: Mesa,
/// NVIDIA (Vulkan), NVIDIA (CUDA), AMD.
const SHADER_CACHES: [(&str, &[&str]); 4] = [
    ("MESA_SHADER_CACHE_DIR", &["mesa_shader_cache", "mesa_shader_cache_db", "mesa_shader_cache_sf"]),
    ("__GL_SHADER_DISK_CACHE_PATH", &["GLCache"]),
    ("CUDA_CACHE_PATH", &[""]),
    ("AMD_SHADER_DISK_CACHE_PATH", &["AMD"]),
];

/// Whether this build has a back end whose drivers compile shaders.
const HAS_DRIVER: bool = cfg!(any(feature = "vulkan", feature = "cuda"));

/// The flag `--no-sandbox`.
#[derive(Clone, Copy, Debug, ClapArgs)]
pub struct SandboxArgs {
    /// Run the engine without its sandbox
    ///
    /// On Linux, the sandbox stops the engine from opening sockets, starting programs, and writing outside a few
    /// folders.
    #[arg(hide_short_help = true, long)]
    pub no_sandbox: bool,
}

/// The folder of a file that does not exist yet.
#[must_use]
pub fn folder_of(file: &Path) -> PathBuf {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

/// In a build for a GPU, makes the driver in `worker` keep compiled shaders in chaski's cache, unless a variable names another
/// folder. The usual folders stay closed to the engine: other programs load code from them.
pub fn keep_shaders(worker: &mut Command) {
    let Some(folder) = folders::shaders().filter(|_| HAS_DRIVER) else { return };
    for (name, _) in SHADER_CACHES {
        if env::var_os(name).is_none_or(|value| value.is_empty()) {
            worker.env(name, &folder);
        }
    }
}

/// The folders of compiled shaders, if a GPU computes any layers.
#[must_use]
pub fn shader_caches(n_gpu_layers: Option<u32>) -> Vec<PathBuf> {
    if HAS_DRIVER && n_gpu_layers != Some(0) { named_caches(|name| env::var_os(name)) } else { Vec::new() }
}

/// The drivers' own folders below those that the variables name. The folder above can be one with much else in it, such as `~/.cache`.
fn named_caches(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let named = |name| variable(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let caches = SHADER_CACHES.into_iter().filter_map(|(name, below)| Some((named(name)?, below)));
    caches.flat_map(|(folder, below)| below.iter().map(move |below| folder.join(below))).collect()
}

/// Confines this thread and every thread it starts from now on. `writable` are folders that stay writable; missing ones
/// are created. With `is_verbose`, prints what the kernel does not support.
pub fn confine(args: SandboxArgs, writable: impl IntoIterator<Item = Option<PathBuf>>, is_verbose: bool) {
    if args.no_sandbox {
        return;
    }
    let writable: Vec<PathBuf> = writable.into_iter().flatten().collect();
    for folder in &writable {
        // If this fails, writing there fails later, with an error.
        let _ = private::make_folder(folder);
    }
    // A folder below a writable one needs no rule. An earlier engine could have put a link in its place, and a rule follows links.
    let is_below = |folder: &&PathBuf| writable.iter().any(|above| *folder != above && folder.starts_with(above));
    let writable: Vec<PathBuf> = writable.iter().filter(|folder| !is_below(folder)).cloned().collect();
    for lack in imp::confine(&writable) {
        if is_verbose {
            stderr_line(&format!("notice: the sandbox is incomplete: {lack}"));
        }
    }
}

#[cfg(target_os = "linux")]
mod imp {
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};

    use landlock::{
        ABI, Access as _, AccessFs, PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr as _,
        RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
    };
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    };

    use crate::llama::has_gpu;

    /// Newest Landlock version to use; an older kernel enforces what it knows.
    const NEWEST: ABI = ABI::V6;

    /// Sockets, other programs, other processes, and io_uring, which could open sockets.
    const DENIED: [i64; 7] = [
        libc::SYS_socket,
        libc::SYS_io_uring_setup,
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
    ];

    /// Applies the sandbox and returns what is missing.
    pub(super) fn confine(writable: &[PathBuf]) -> Vec<String> {
        let mut lacks = Vec::new();
        match restrict_writes(writable) {
            Ok(RestrictionStatus { ruleset: RulesetStatus::FullyEnforced, .. }) => {}
            Ok(RestrictionStatus { ruleset: RulesetStatus::PartiallyEnforced, .. }) => {
                lacks
                    .push("this kernel has an early version of Landlock, which limits writing only in part".to_owned());
            }
            Ok(_) => lacks.push("this kernel has no Landlock, so the engine can write anywhere".to_owned()),
            Err(error) => lacks.push(error.to_string()),
        }
        lacks.extend(deny_calls().err().map(|error| error.to_string()));
        lacks
    }

    fn restrict_writes(writable: &[PathBuf]) -> Result<RestrictionStatus, RulesetError> {
        // Writable devices: only /dev/null and terminals, or all of /dev if a GPU driver needs them.
        let own = ["/dev/null", "/dev/tty", "/dev/pts"].map(Path::new);
        let gpus = has_gpu().then_some(Path::new("/dev"));
        let writes = AccessFs::from_write(NEWEST) & !AccessFs::IoctlDev;
        let mut rules = Ruleset::default().handle_access(writes)?.scope(Scope::from_all(NEWEST))?.create()?;
        let devices = AccessFs::WriteFile | AccessFs::Truncate;
        let all = writable.iter().map(|folder| (folder.as_path(), writes));
        for (folder, access) in all.chain(own.into_iter().chain(gpus).map(|device| (device, devices))) {
            // A missing path cannot be written to.
            if let Ok(folder) = PathFd::new(folder) {
                rules = rules.add_rule(PathBeneath::new(folder, access))?;
            }
        }
        rules.restrict_self()
    }

    fn deny_calls() -> Result<(), Box<dyn std::error::Error>> {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = DENIED.into_iter().map(|call| (call, Vec::new())).collect();
        // TIOCSTI types into the terminal as if the user did.
        let types = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, libc::TIOCSTI)?;
        rules.insert(libc::SYS_ioctl, vec![SeccompRule::new(vec![types])?]);
        let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
        let machine = std::env::consts::ARCH.try_into()?;
        let program: BpfProgram = SeccompFilter::new(rules, SeccompAction::Allow, denied, machine)?.try_into()?;
        Ok(seccompiler::apply_filter(&program)?)
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    use std::path::PathBuf;

    pub(super) fn confine(_writable: &[PathBuf]) -> Vec<String> {
        vec!["it is available on Linux only".to_owned()]
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::process::Command;
    use std::thread;

    use super::*;
    use crate::llama::has_gpu;

    const ON: SandboxArgs = SandboxArgs { no_sandbox: false };

    /// Runs `look` in a confined thread of its own, because a sandbox cannot be left.
    fn confined<T: Send>(args: SandboxArgs, writable: &[PathBuf], look: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = || {
                confine(args, writable.iter().cloned().map(Some), false);
                // A thread started by a confined thread is confined too.
                thread::scope(|scope| scope.spawn(look).join().unwrap())
            };
            scope.spawn(inside).join().unwrap()
        })
    }

    fn is_whole() -> bool {
        let lacks = thread::scope(|scope| scope.spawn(|| imp::confine(&[])).join().unwrap());
        if !lacks.is_empty() {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "skipped: {lacks:?}");
        }
        lacks.is_empty()
    }

    #[test]
    fn writes_go_where_they_may() {
        if !is_whole() {
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let (inside, outside) = (place.path().join("a").join("inside"), place.path().join("b"));
        fs::create_dir(&outside).unwrap();
        let there = outside.join("there");
        fs::write(&there, "as it was").unwrap();
        let denied = |result: std::io::Result<()>| result.unwrap_err().kind() == ErrorKind::PermissionDenied;
        confined(ON, std::slice::from_ref(&inside), || {
            fs::write(inside.join("x"), "y").unwrap();
            fs::rename(inside.join("x"), inside.join("z")).unwrap();
            fs::remove_file(inside.join("z")).unwrap();
            fs::write("/dev/null", "y").unwrap();
            assert!(has_gpu() || denied(fs::write("/dev/shm/chaski-sandbox-test", "")));
            assert_eq!(fs::read_to_string(&there).unwrap(), "as it was");
            assert!(denied(fs::write(&there, "")));
            assert!(denied(fs::write(outside.join("new"), "")));
            assert!(denied(fs::remove_file(&there)));
            assert!(denied(fs::create_dir(outside.join("new"))));
        });
        assert_eq!(fs::read_to_string(&there).unwrap(), "as it was");
    }

    #[test]
    fn a_link_in_a_writable_folder_opens_nothing() {
        if !is_whole() {
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let (inside, outside) = (place.path().join("inside"), place.path().join("outside"));
        fs::create_dir(&inside).unwrap();
        fs::create_dir(&outside).unwrap();
        let link = inside.join("shaders");
        std::os::unix::fs::symlink(&outside, &link).unwrap();
        confined(ON, &[inside.clone(), link.clone()], || {
            fs::write(inside.join("x"), "y").unwrap();
            assert_eq!(fs::write(link.join("x"), "y").unwrap_err().kind(), ErrorKind::PermissionDenied);
        });
    }

    #[test]
    fn compiled_shaders_go_where_the_driver_writes() {
        let set = |name: &str| match name {
            "MESA_SHADER_CACHE_DIR" => Some("/home/a/.cache".into()),
            "__GL_SHADER_DISK_CACHE_PATH" => Some("relative".into()),
            "CUDA_CACHE_PATH" => Some("/c".into()),
            _ => None,
        };
        let mesa = ["", "_db", "_sf"].map(|end| format!("/home/a/.cache/mesa_shader_cache{end}"));
        let expected: Vec<PathBuf> = mesa.iter().map(PathBuf::from).chain(["/c".into()]).collect();
        assert_eq!(named_caches(set), expected);
        assert!(shader_caches(Some(0)).is_empty());
    }

    #[test]
    fn nothing_is_connected_or_started() {
        if !is_whole() {
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let attempts = || {
            [
                TcpStream::connect(address).map(drop).map_err(|error| error.kind()),
                TcpListener::bind("127.0.0.1:0").map(drop).map_err(|error| error.kind()),
                UnixStream::connect("/nowhere").map(drop).map_err(|error| error.kind()),
                Command::new("true").status().map(drop).map_err(|error| error.kind()),
            ]
        };
        assert_eq!(confined(ON, &[], attempts), [Err(ErrorKind::PermissionDenied); 4]);
        let off = confined(SandboxArgs { no_sandbox: true }, &[], attempts);
        assert_eq!(off, [Ok(()), Ok(()), Err(ErrorKind::NotFound), Ok(())]);
    }
}
