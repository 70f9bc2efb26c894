//! The `autotune` binary.
fn main() {}
