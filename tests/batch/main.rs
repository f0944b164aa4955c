//! Tests batches with a fake engine, in this process and in child processes: each line is answered exactly once,
//! whatever happens.
//!
//! `CHASKI_BATCH_LINES=1000000 cargo test --release --test batch` sets the size of the largest input.

mod fake;
mod place;

mod claims;
mod crashes;
mod forms;
mod memory;
mod resume;
mod shards;

/// The body of the child processes that other tests start.
#[test]
#[ignore = "a process for other tests"]
fn child() {
    if let Ok(setup) = std::env::var(place::CHILD) {
        let setup: place::Setup = serde_json::from_str(&setup).unwrap();
        place::be_child(&setup);
    }
}
