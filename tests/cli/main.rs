//! Tests of the `chaski` command as users see it: exit code, stdout and stderr of whole runs, on models of about a
//! megabyte that the tests write. They never look inside the crate.
//!
//! Tests that interrupt a loading model need a slow one: the file that `CHASKI_TEST_MODEL` names (`scripts/test.sh`
//! sets it). Without it they print that they are skipped.

#![cfg(feature = "llama")]

#[path = "../support/mod.rs"]
mod support;

mod harness;

mod align;
mod answers;
mod batch;
mod bench;
mod cache;
mod chat;
#[cfg(unix)]
mod chat_terminal;
mod config;
mod data;
mod devices;
mod draft_model;
mod drafter;
mod encodings;
mod errors;
mod exact;
mod help;
mod hidden;
mod hostile;
mod learn;
mod limits;
mod lora;
mod memory;
mod models;
mod mutants;
mod prompt_cache;
mod prompts;
mod replay;
mod same_seed;
mod scripting;
mod signals;
mod streams;
mod structured;
mod supervisor;
mod tune;
mod variables;
