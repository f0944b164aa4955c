//! Chat: templates, sessions, commands and Markdown. Nothing here reads or writes files, or knows a model.

pub mod template;

pub mod command;
pub mod markdown;
pub mod overflow;
pub mod session;
pub mod thinking;
