//! One test binary.

mod load_basics;
mod load_server;
mod report;
mod store;
mod synthetic;
