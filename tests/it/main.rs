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
// A story is told in its order.
#![allow(clippy::too_many_lines, clippy::needless_pass_by_value)]

mod browser;
mod exports;
mod live;
mod page;
mod report;
mod store;
mod synthetic;
