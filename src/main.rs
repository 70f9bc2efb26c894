//! The binary: parse, tracing, signals, exit code.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    ExitCode::from(autotune::cli::main(autotune::cli::Cli::parse()))
}
