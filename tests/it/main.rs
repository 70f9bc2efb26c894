//! One test binary.
mod docker_kit;
mod docker_real;
