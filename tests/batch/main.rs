//! Batches with an engine that only pretends, in this process and in others: every line once, whatever happens.
//!
//! `CHASKI_BATCH_LINES=1000000 cargo test --release --test batch` sets the size of the largest input.

mod fake;
mod place;

mod crashes;
mod forms;
mod memory;
mod resume;
mod shards;

/// What other tests run in processes of their own.
#[test]
#[ignore = "a process for other tests"]
fn child() {
    if let Ok(setup) = std::env::var(place::CHILD) {
        let setup: place::Setup = serde_json::from_str(&setup).unwrap();
        place::be_child(&setup);
    }
}
