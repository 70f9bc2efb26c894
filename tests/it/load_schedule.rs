//! What the server sees of the schedule, what a stall looks like from the scheduled time, and what a generator says that was
//! not given its CPU.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use autotune::load::{Generator, NullOptions, NullServer};
use autotune::measurement::{Measurement, generator_verdict};

use crate::load_basics::{drive, plan};
use crate::load_server;

/// A generator that closes its loop, or counts from the actual send, shows the stall in a handful of requests; this one must
/// show it in every request that was due meanwhile.
#[tokio::test]
async fn a_stall_is_seen_by_every_request_that_was_due() {
    let stall = Some((Duration::from_secs(2), Duration::from_millis(200)));
    let server = NullServer::start(NullOptions {
        stall,
        ..NullOptions::default()
    })
    .unwrap();
    let mut spec = load_server::spec();
    spec.connections = 5;
    let mut p = plan(500.0, Duration::from_secs(4));
    p.lead_in = Duration::from_millis(500);
    let m = drive(&spec, &server.url(), &p).await;
    assert_eq!((m.scheduled, m.in_flight_after_drain), (2_000, 0));
    assert_eq!(
        m.good + m.in_flight_end,
        2_000,
        "no request is lost: {:?}",
        m.errors
    );
    let h = m.histograms.as_ref().unwrap();
    assert_eq!(h.latency.len(), 2_000);
    // Two stalls of 200 ms at 500 rps: 200 requests wait, evenly from 0 to 200 ms. Truth: p99 180 ms, p99.9 198 ms.
    let waited = |h: &hdrhistogram::Histogram<u64>, ms: u64| h.len() - h.count_between(0, ms * 1_000 - 1);
    assert!(waited(&h.latency, 100) >= 98, "{}", waited(&h.latency, 100));
    assert!(
        m.latency_ms.p99 >= 178.0 && m.latency_ms.p999 >= 196.0,
        "{:?}",
        m.latency_ms
    );
    // From the send only the five connections saw each stall: what a closed loop would have reported.
    assert!(waited(&h.service, 100) < 90, "{}", waited(&h.service, 100));
}

/// Evenly spaced arrivals come evenly spaced: most gaps are within a quarter of 1/rate. Of Poisson arrivals a fifth would be, of
/// those on a timer that ticks in milliseconds none (1 or 2 ms instead of 1.43), of batches none. What else the machine does spoils some gaps and some tries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arrivals_leave_evenly() {
    let mut best = 0.0_f64;
    for _ in 0..30 {
        let server = load_server::Server::start(load_server::Script::ok()).await;
        let m = drive(
            &load_server::spec(),
            &server.url(),
            &plan(700.0, Duration::from_millis(500)),
        )
        .await;
        assert_eq!((m.scheduled, server.requests()), (350, 350), "{m:?}");
        let gaps = server.gaps();
        let near = gaps.iter().filter(|g| (*g * 700.0 - 1.0).abs() < 0.25).count();
        best = best.max(near as f64 / gaps.len() as f64);
        if best > 0.5 {
            return;
        }
    }
    panic!("in the best of 30 tries {best:.2} of the gaps were near 1/rate");
}

/// The same seed sends the same requests, and Poisson arrivals are as many as the rate says, give or take their own spread.
#[tokio::test]
async fn poisson_arrivals_keep_the_rate() {
    let server = NullServer::start(NullOptions::default()).unwrap();
    let mut spec = load_server::spec();
    spec.arrivals = autotune::spec::Arrivals::Poisson;
    let one = drive(&spec, &server.url(), &plan(400.0, Duration::from_secs(1))).await;
    let two = drive(&spec, &server.url(), &plan(400.0, Duration::from_secs(1))).await;
    assert_eq!(one.scheduled, two.scheduled, "the same seed");
    assert!(
        (300..500).contains(&one.scheduled),
        "five standard deviations: {}",
        one.scheduled
    );
}

/// With the CPU taken away, every probe is the generator's limit, in 20 of 20.
#[cfg(target_os = "linux")]
#[test]
fn a_starved_generator_says_so() {
    let cpu = last_cpu();
    let stop = Arc::new(AtomicBool::new(false));
    let hogs: Vec<_> = (0..2)
        .map(|_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                pin(cpu);
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    // The engine's thread inherits this thread's priority: against the hogs it has a twentieth of the CPU, and it needs a tenth.
    let limited = std::thread::spawn(move || {
        rustix::process::nice(10).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(starved_runs(cpu))
    })
    .join();
    stop.store(true, Ordering::Relaxed);
    hogs.into_iter().for_each(|h| h.join().unwrap());
    let measured = limited.unwrap();
    let healthy: Vec<_> = measured
        .iter()
        .filter(|m| generator_verdict(m, None).is_empty())
        .map(|m| &m.generator)
        .collect();
    assert!(
        healthy.is_empty(),
        "{} of {} starved probes were taken as valid: {healthy:?}",
        healthy.len(),
        measured.len()
    );
}

#[cfg(target_os = "linux")]
async fn starved_runs(cpu: usize) -> Vec<Measurement> {
    let server = NullServer::start(NullOptions::default()).unwrap();
    let mut spec = load_server::spec();
    spec.cpu = Some(cpu);
    spec.timeout = Duration::from_secs(1);
    let generator = Generator::prepare(&spec, &[server.url()], 1).unwrap();
    let mut all = Vec::new();
    for _ in 0..20 {
        let mut p = plan(4_000.0, Duration::from_millis(150));
        p.drain = Duration::from_millis(100);
        all.push(
            generator
                .drive(&p, &mut |_| ControlFlow::Continue(()))
                .await
                .unwrap(),
        );
    }
    all
}

#[cfg(target_os = "linux")]
fn last_cpu() -> usize {
    let set = rustix::thread::sched_getaffinity(None).unwrap();
    (0..rustix::thread::CpuSet::MAX_CPU)
        .rev()
        .find(|c| set.is_set(*c))
        .unwrap()
}

#[cfg(target_os = "linux")]
fn pin(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).unwrap();
}
