//! Chat: from messages to the text a model was trained to see, and what a conversation is made of. Nothing here reads or
//! writes files, or knows of a model.

pub mod template;

pub mod command;
pub mod markdown;
pub mod overflow;
pub mod session;
pub mod thinking;
