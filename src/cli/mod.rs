//! The command line: one short module a command.

pub mod check;
pub mod completions;
pub mod schema;
