//! One test binary.

mod load_answers;
mod load_basics;
mod load_schedule;
mod load_server;
mod report;
mod store;
mod synthetic;
