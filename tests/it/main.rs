//! One test binary.

mod report;
mod store;
mod synthetic;
