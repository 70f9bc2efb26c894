//! One test binary.

mod diagnosis_recorded;
mod diagnosis_stack;
mod load_basics;
mod load_server;
mod report;
mod store;
mod support;
mod synthetic;
