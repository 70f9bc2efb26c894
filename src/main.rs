//! The binary: parse, tracing, signals, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(autotune::cli::main(autotune::cli::parse()))
}
