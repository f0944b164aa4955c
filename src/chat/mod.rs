//! Chat: from messages to the text a model was trained to see.

pub mod template;
