//! Starts the engine of a batch.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::batch::engine::Engine;
use crate::cli::batch::args::BatchArgs;
use crate::cli::failure::Failure;
use crate::cli::memory::given_n_ctx;
use crate::cli::output::{Bars, stderr_line};
use crate::llama::batching::{self, BatchEngineConfig, Startup};
use crate::llama::worker::{Loaded, WorkerConfig};

/// Starts the engine and waits until its model is loaded.
pub(super) fn start(
    args: &BatchArgs,
    engine: WorkerConfig,
    interrupt: Arc<AtomicBool>,
    bars: &mut Bars,
) -> Result<(Box<dyn Engine>, Loaded), Failure> {
    let (n_parallel, n_ctx) = (args.parallel(), given_n_ctx(&args.engine.0)?);
    let config = BatchEngineConfig {
        engine,
        n_parallel,
        n_ctx,
        drafts: !args.no_drafts,
        prompt_cache: args.prompt_cache.config(),
    };
    let started = batching::start(config, interrupt, &mut |startup| match startup {
        Startup::Loading(share) => bars.loading(share),
        Startup::Measuring => bars.measuring(),
        Startup::Notice(notice) => bars.suspend(|| stderr_line(&format!("notice: {notice}"))),
    });
    bars.clear();
    let (engine, loaded) = started?;
    Ok((Box::new(engine), loaded))
}
