//! A temporary folder with a job in it, and ways to run the job.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use chaski::batch::claims::Owner;
use chaski::batch::disk::Files;
use chaski::batch::input::parameters::Defaults;
use chaski::batch::input::shard::Shard;
use chaski::batch::job::{Job, Output, Prepared};
use chaski::batch::journal::Journal;
use chaski::batch::ledger::{journal_path, read_journal};
use chaski::batch::pipeline::{BatchError, Ended, OutputShape, Watcher};
use chaski::batch::progress::Progress;
use chaski::batch::refuse::Refusal;
use chaski::batch::render::Renderer;
use chaski::batch::supervise::stop_with_parent;
use chaski::batch::work::{Done, Facts, Lender, Shards, work};
use chaski::chat::template::SpecialGuard;
use chaski::engine::Engine;
use chaski::sampling::Sampling;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tempfile::TempDir;

use crate::fake::Fake;

/// The environment variable that passes a `Setup` to a child.
pub(crate) const CHILD: &str = "CHASKI_BATCH_CHILD";

/// A job and its fake engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) input: PathBuf,
    pub(crate) output: PathBuf,
    pub(crate) n_lanes: usize,
    pub(crate) step_us: u64,
    pub(crate) is_ordered: bool,
    pub(crate) is_text: bool,
    pub(crate) retry_failed: bool,
    pub(crate) after_crash: bool,
    pub(crate) shard: (u64, u64),
    pub(crate) seed: Option<u32>,
    pub(crate) template: Option<String>,
    /// Number of shards, and the lease in milliseconds, of a process that claims shards.
    pub(crate) claim: Option<(u64, u64)>,
}

impl Setup {
    pub(crate) fn job(&self) -> Job {
        let sampling = Sampling { seed: self.seed.unwrap_or(99), ..Sampling::default() };
        Job {
            input: self.input.clone(),
            format: None,
            template: self.template.clone(),
            shard: self.shard(),
            form: OutputShape { is_text: self.is_text, is_ordered: self.is_ordered },
            defaults: Defaults { sampling, max_tokens: None, stop: Vec::new() },
            has_seed: self.seed.is_some(),
            model: "fake.gguf 00".to_owned().into(),
            model_name: "fake".to_owned(),
            parameters: BTreeMap::new(),
            retry_failed: self.retry_failed,
            after_crash: self.after_crash,
            created_ms: None,
        }
    }

    pub(crate) fn shard(&self) -> Shard {
        Shard { number: self.shard.0, n_shards: self.shard.1 }
    }

    /// Runs the job in this process.
    pub(crate) fn run(&self) -> Result<Ended, BatchError> {
        self.run_with(Box::new(self.engine()), &AtomicBool::new(false), &mut Silent)
    }

    pub(crate) fn engine(&self) -> Fake {
        Fake::new(self.n_lanes, Duration::from_micros(self.step_us))
    }

    pub(crate) fn run_with(
        &self,
        engine: Box<dyn Engine + '_>,
        interrupt: &AtomicBool,
        watcher: &mut dyn Watcher,
    ) -> Result<Ended, BatchError> {
        let prepared = self.job().prepare(Output::File(&Files, &self.output))?;
        prepared.run(engine, renderer(), interrupt, watcher)
    }

    /// Claims shards in this process until all are finished.
    pub(crate) fn claim_shards(&self, interrupt: &AtomicBool) -> Result<Done, BatchError> {
        let (n_shards, lease_ms) = self.claim.unwrap();
        let owner = Owner::this_process(Owner::random_id(), Duration::from_millis(lease_ms));
        let mut one = OneEngine { engine: Lender::new(self.engine()), interrupt };
        work(&Files, &self.output, &self.job(), Some(n_shards), owner, interrupt, &mut one)
    }

    /// Runs the job in a child process.
    pub(crate) fn spawn(&self) -> std::io::Result<Child> {
        Command::new(std::env::current_exe()?)
            .args(["child", "--exact", "--ignored", "--nocapture", "--quiet"])
            // One heap for all threads: separate heaps make memory use vary, and some tests measure it.
            .env("MALLOC_ARENA_MAX", "1")
            .env(CHILD, serde_json::to_string(self).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
    }

    /// The state of the job, from its journal.
    pub(crate) fn journal(&self) -> Journal {
        self.journal_if_any().expect("a journal")
    }

    pub(crate) fn journal_if_any(&self) -> Option<Journal> {
        Some(read_journal(&Files, &journal_path(&self.output)).unwrap()?.0)
    }

    /// The output's records by id and line, without the members that differ between runs.
    pub(crate) fn records(&self) -> BTreeMap<String, Value> {
        let mut records = BTreeMap::new();
        for mut record in self.record_list() {
            record["id"] = Value::Null;
            if record["response"].is_object() {
                record["response"]["request_id"] = Value::Null;
                record["response"]["body"]["id"] = Value::Null;
                record["response"]["body"]["created"] = Value::Null;
            }
            let name = match &record["custom_id"] {
                Value::Null => format!("at {}", record["error"]["line"]),
                name => format!("{} {}", name.as_str().unwrap(), record["error"]["line"]),
            };
            assert!(records.insert(name, record).is_none(), "a line twice");
        }
        records
    }

    /// The output's records in their order.
    pub(crate) fn record_list(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.output).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The ids of the output's records, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        self.record_list().iter().map(|record| record["custom_id"].as_str().unwrap_or("?").to_owned()).collect()
    }
}

/// Does all claimed shards with one engine.
struct OneEngine<'i> {
    engine: Lender<Fake>,
    interrupt: &'i AtomicBool,
}

impl Shards for OneEngine<'_> {
    type Error = BatchError;

    fn run(&mut self, prepared: Prepared<'_>, _claim: &Facts) -> Result<Ended, BatchError> {
        match prepared.n_left() {
            0 => prepared.finish(),
            _ => prepared.run(self.engine.lend(), renderer(), self.interrupt, &mut Silent),
        }
    }

    fn lost(&mut self, _claim: &Facts) {}

    fn waiting(&mut self, _n_shards: u64) {}
}

pub(crate) fn renderer() -> Renderer {
    let now = Default::default();
    Renderer {
        template: None,
        guard: SpecialGuard::new([]),
        system: None,
        is_raw: false,
        now,
        variables: std::collections::BTreeMap::new(),
        drops_oldest: false,
        is_thinking_unwanted: false,
    }
}

/// Runs a job in a child.
pub(crate) fn be_child(setup: &Setup) {
    let interrupt = Arc::new(AtomicBool::new(false));
    stop_with_parent(interrupt.clone()).unwrap();
    if setup.claim.is_some() {
        assert_eq!(setup.claim_shards(&interrupt).unwrap().n_lost, None);
        return;
    }
    let ended = setup.run_with(Box::new(setup.engine()), &interrupt, &mut Silent).unwrap();
    assert!(!ended.is_interrupted);
}

/// A folder that is deleted after the test.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    pub(crate) fn new() -> Place {
        Place { folder: TempDir::new().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A job with this input.
    pub(crate) fn setup(&self, input: &str, bytes: impl AsRef<[u8]>) -> Setup {
        fs::write(self.path(input), bytes).unwrap();
        Setup {
            input: self.path(input),
            output: self.path("results.jsonl"),
            n_lanes: 4,
            step_us: 0,
            is_ordered: false,
            is_text: false,
            retry_failed: false,
            after_crash: false,
            shard: (1, 1),
            seed: Some(7),
            template: None,
            claim: None,
        }
    }
}

/// Input lines of several kinds: malformed, refused, without id, and regular.
pub(crate) fn lines(n: usize) -> String {
    let line = |n: usize| match n % 10 {
        3 => "{broken\n".to_owned(),
        6 => format!("{{\"custom_id\": \"q{n}\", \"prompt\": \"REFUSE {n}\"}}\n"),
        8 => format!("{{\"prompt\": \"nameless {n}\", \"temperature\": 0}}\n"),
        _ => format!("{{\"custom_id\": \"q{n}\", \"prompt\": \"question {} {n}\"}}\n", "x".repeat(n % 7)),
    };
    (0..n).map(line).collect()
}

/// A watcher that ignores everything.
pub(crate) struct Silent;

impl Watcher for Silent {
    fn progress(&mut self, _progress: &Progress) {}

    fn failed(&mut self, _number: u64, _refusal: &Refusal) {}

    fn notice(&mut self, _text: &str) {}
}
