//! One test binary.
// A test says what it expects and stops where that fails; lints on unwrap are for the product.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::too_many_lines,
    clippy::needless_pass_by_value,
    clippy::zombie_processes
)]
#![allow(unreachable_pub, clippy::float_cmp)]

mod browser;
mod capacity_bad_input;
mod capacity_service;
mod capacity_truth;
mod diagnosis_cost;
mod diagnosis_knob;
mod diagnosis_recorded;
mod diagnosis_report;
mod diagnosis_stack;
mod docker_faults;
mod docker_kit;
mod docker_real;
mod exports;
mod fake_engine;
mod fake_swarm;
mod faults_docs;
mod faults_load;
mod faults_study;
mod live;
mod load_agents;
mod load_answers;
mod load_basics;
mod load_schedule;
mod load_server;
mod load_tls;
mod page;
mod process_study;
mod process_sut;
mod report;
mod scale_docker;
mod scale_ladder;
mod scale_objective;
mod scale_stack;
mod search_ask;
mod search_confirm;
mod shared_kit;
mod shared_store;
mod shared_swarm;
mod shared_workers;
mod stack_study;
mod stack_swarm;
mod store;
mod support;
mod swarm_fake;
mod synthetic;
mod tidy;
