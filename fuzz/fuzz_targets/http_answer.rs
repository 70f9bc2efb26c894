//! What the load engine reads from a service, as any bytes in any pieces: no panic, no waiting for what is there, every
//! bound kept, every end named. The invariants are in `src/load/link/replay.rs`, whose tests are the bounded form.
//!
//!     cargo +nightly fuzz run http_answer -- -dict=fuzz/http_answer.dict -max_len=4096
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| autotune::load::check_answer(data));
