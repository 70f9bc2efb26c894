//! One test binary.

mod load_basics;
mod load_server;
mod process_study;
mod report;
mod stack_study;
mod store;
mod support;
mod synthetic;
mod tidy;
