//! Exit codes, and the errors that carry them: what went wrong, in which file or flag, and a hint.

use std::fmt;
use std::io;
use std::path::Path;

use indicatif::HumanBytes;

use crate::cli::variables::Variables;
use crate::encoding::TextError;
use crate::engine::RequestError;
use crate::gguf::GgufError;
use crate::llama::engine;
use crate::store::drafter_file::DrafterFileError;
use crate::store::hidden_file::HiddenFileError;
use crate::target::TargetError;

/// The exit code of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Success.
    Success = 0,
    /// Failure while running.
    Error = 1,
    /// Invalid command line.
    Usage = 2,
    /// The batch is done, but some of its lines failed.
    LinesFailed = 3,
    /// No such model.
    ModelNotFound = 4,
    /// Not enough memory for the model and the context.
    NotEnoughMemory = 5,
    /// The prompt is longer than the context.
    PromptTooLong = 6,
    /// Interrupted by the user (128 + SIGINT).
    Interrupted = 130,
}

impl ExitCode {
    /// The exit code of another chaski process; unknown numbers are errors.
    #[must_use]
    pub fn from_number(number: i32) -> ExitCode {
        let all = [
            ExitCode::Success,
            ExitCode::Usage,
            ExitCode::LinesFailed,
            ExitCode::ModelNotFound,
            ExitCode::NotEnoughMemory,
            ExitCode::PromptTooLong,
            ExitCode::Interrupted,
        ];
        all.into_iter().find(|code| i32::from(*code as u8) == number).unwrap_or(ExitCode::Error)
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> std::process::ExitCode {
        std::process::ExitCode::from(code as u8)
    }
}

/// An error for the user. Displays as `error: ...` and, on a line of its own, `hint: ...`.
#[derive(Debug)]
pub struct Failure {
    /// Exit code of the process.
    pub code: ExitCode,
    message: String,
    hint: Option<String>,
    /// Long names of the flags that caused the failure.
    flags: Vec<&'static str>,
}

impl Failure {
    /// An error while running.
    pub fn new(message: impl Into<String>) -> Failure {
        Failure { code: ExitCode::Error, message: message.into(), hint: None, flags: Vec::new() }
    }

    /// Sets the exit code.
    #[must_use]
    pub fn with_code(self, code: ExitCode) -> Failure {
        Failure { code, ..self }
    }

    /// A mistake in the command line.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(message).with_code(ExitCode::Usage)
    }

    /// A file or stream error.
    #[must_use]
    pub fn io(what: &Path, error: &io::Error) -> Failure {
        let failure = |reason: &dyn fmt::Display| Failure::new(format!("{}: {reason}", what.display()));
        match TextError::of(error) {
            Some(error) => Failure { hint: error.hint().map(str::to_owned), ..failure(&error) },
            None => failure(&plain(error)),
        }
    }

    /// A failed write to stdout. A closed pipe is a silent success: the reader has seen enough.
    #[must_use]
    pub fn stdout(error: &io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::new("").with_code(ExitCode::Success),
            _ => Failure::new(format!("cannot write to stdout: {}", plain(error))),
        }
    }

    /// Interrupted by the user.
    #[must_use]
    pub fn interrupted() -> Failure {
        Failure::new("interrupted").with_code(ExitCode::Interrupted)
    }

    /// The message without the hint.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Adds a hint: what the user can do.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Failure {
        Failure { hint: Some(hint.into()), ..self }
    }

    /// Names a flag that caused the failure, by its long name. If an environment variable gave its value, the message
    /// will name the variable.
    #[must_use]
    pub fn about(mut self, flag: &'static str) -> Failure {
        self.flags.push(flag);
        self
    }

    /// Adds the environment variables that gave the flags their values.
    #[must_use]
    pub fn with_variables(mut self, variables: &Variables) -> Failure {
        for origin in self.flags.iter().filter_map(|flag| variables.origin(flag)) {
            self.message += &format!(" ({origin})");
        }
        self
    }

    /// Adds a hint about the address-space limit, if there is one and the failure is about memory.
    #[must_use]
    pub fn with_limit(mut self, limit: Option<u64>) -> Failure {
        // What llama.cpp, the C++ library and the system say when an allocation or a thread's stack fails.
        const SIGNS: [&str; 7] = [
            "annot allocate memory",
            "insufficient memory",
            "bad_alloc",
            "memory allocation of",
            "failed to allocate",
            "cannot create a context",
            "Resource temporarily unavailable",
        ];
        let is_memory = self.code == ExitCode::NotEnoughMemory || SIGNS.iter().any(|sign| self.message.contains(sign));
        let Some(limit) = limit.filter(|_| is_memory) else { return self };
        let others = self.hint.take().map(|hint| format!("; or {hint}")).unwrap_or_default();
        let limit = format!(
            "the address space is limited to {}; remove the limit with ulimit -v unlimited{others}",
            HumanBytes(limit)
        );
        self.with_code(ExitCode::NotEnoughMemory).with_hint(limit)
    }

    /// Whether there is nothing to print.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.code == ExitCode::Success
    }
}

/// The reason without "(os error N)".
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    text[..end].to_lowercase()
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl From<GgufError> for Failure {
    fn from(error: GgufError) -> Failure {
        let failure = Failure::new(error.to_string());
        match error.hint() {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    }
}

impl From<DrafterFileError> for Failure {
    fn from(error: DrafterFileError) -> Failure {
        let failure = match &error {
            DrafterFileError::Interrupted => return Failure::interrupted(),
            DrafterFileError::Io { path, source } => Failure::io(path, source),
            _ => Failure::new(error.to_string()),
        };
        match error.hint() {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    }
}

impl From<HiddenFileError> for Failure {
    fn from(error: HiddenFileError) -> Failure {
        let failure = match &error {
            HiddenFileError::Io { path, source } => Failure::io(path, source),
            _ => Failure::new(error.to_string()),
        };
        match error.hint() {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    }
}

impl From<engine::Failure> for Failure {
    fn from(failure: engine::Failure) -> Failure {
        match failure {
            _ if failure.is_interrupt() => Failure::interrupted(),
            engine::Failure::Request(error) => error.into(),
            engine::Failure::Load(_) => Failure::new(failure.to_string()).with_hint("see llama.cpp's log with -v"),
            engine::Failure::NothingToTune => {
                Failure::new(failure.to_string()).with_hint("to choose the number of threads yourself, use -t N")
            }
            engine::Failure::Thread(_) | engine::Failure::Ended => Failure::new(failure.to_string()),
        }
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Failure {
        let message = error.to_string();
        match error {
            RequestError::Target(TargetError::Interrupted) => Failure::interrupted(),
            RequestError::PromptTooLong { n_prompt, n_ctx_train, .. } => {
                let hint = match n_prompt + 512 {
                    n_ctx if n_ctx <= n_ctx_train => {
                        format!("use a larger context with room for the answer, as in -c {n_ctx}")
                    }
                    _ => format!("shorten the prompt: the model was trained for {n_ctx_train} tokens"),
                };
                Failure::new(message).with_code(ExitCode::PromptTooLong).about("ctx-size").with_hint(hint)
            }
            RequestError::ContextTooLong { .. } => {
                Failure::usage(message).with_hint("use smaller numbers with --depth, --pp and --tg")
            }
            RequestError::NotEnoughMemory { .. } => {
                Failure::new(message).with_code(ExitCode::NotEnoughMemory).with_hint(
                    "use a smaller -c or -n, or halve the cache with -ctk q8_0 -ctv q8_0 -fa on; see what fits with \
                 chaski models fit",
                )
            }
            RequestError::TextTooLarge(_) => Failure::new(message).with_code(ExitCode::NotEnoughMemory),
            RequestError::EmptyPrompt | RequestError::Structure(_) => Failure::usage(message),
            RequestError::Inexact(exactness) => Failure::new(message).with_hint(exactness.hint()),
            RequestError::Stop(_) => Failure::usage(message).with_hint("give a text, as in -r '###'"),
            RequestError::Target(TargetError::CacheType(_)) => Failure::new(message)
                .about("cache-type-k")
                .about("cache-type-v")
                .with_hint("this model cannot use these cache types; use -ctk f16 -ctv f16"),
            RequestError::Target(TargetError::Context(_)) => Failure::new(message)
                .with_hint("use a smaller -c, which takes less memory; see llama.cpp's log with -v"),
            RequestError::Target(_) => Failure::new(message),
        }
    }
}
