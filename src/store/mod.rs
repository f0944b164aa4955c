//! What Chaski keeps on disk between runs, all of it expendable: a missing, broken or unwritable file costs time, never
//! text.

pub mod vocabulary;

pub mod counter;
pub mod drafter_file;

pub mod align_log;

pub mod curves;
pub mod learned;
