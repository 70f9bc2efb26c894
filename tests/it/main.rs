//! One test binary.
// A test says what it expects and stops where that fails; lints on unwrap are for the product.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr
)]
#![allow(unreachable_pub, clippy::float_cmp)]

mod browser;
mod exports;
mod live;
mod page;
mod report;
mod store;
mod synthetic;
