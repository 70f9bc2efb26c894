//! A table of evidence for every code, with the figures seen on a real stack (docs/diagnosis.md), and properties that
//! hold for any evidence.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::capacity::ProbePhase;
use crate::measurement::{Measurement, OutcomeClass as C};
use crate::slo::Verdict;
use crate::trial::{Failure, Probe};
use crate::units::Rps;

/// A probe of ten seconds: rate, good answers, errors, medians of good and bad answers in ms.
struct P {
    rate: f64,
    good: u64,
    errors: Vec<(C, u64)>,
    p50: f64,
    error_p50: f64,
}

fn p(rate: f64, good: u64, errors: &[(C, u64)], p50: f64, error_p50: f64) -> P {
    P {
        rate,
        good,
        errors: errors.to_vec(),
        p50,
        error_p50,
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss
)]
fn probe(number: u32, given: &P, telemetry: &[(&str, f64)]) -> Probe {
    let mut m = Measurement::empty(Rps::new(given.rate).unwrap(), Duration::from_secs(10));
    m.scheduled = (given.rate * 10.0) as u64;
    m.good = given.good;
    m.errors = given.errors.iter().copied().collect();
    let bad: u64 = m.errors.values().sum();
    let local: u64 = m
        .errors
        .iter()
        .filter(|(c, _)| c.is_local())
        .map(|(_, n)| n)
        .sum();
    m.sent = m.scheduled - local.min(m.scheduled);
    m.in_flight_end = m.scheduled.saturating_sub(m.good + bad);
    m.latency_ms.p50 = given.p50;
    m.latency_ms.p95 = given.p50 * 2.0;
    m.service_ms = m.latency_ms;
    m.error_latency_ms.p50 = given.error_p50;
    m.generator.timeout_s = 10.0;
    let loss = m.loss();
    Probe {
        number,
        phase: ProbePhase::Growth,
        verdict: if loss > 0.05 || given.p50 > 500.0 {
            Verdict::Violates
        } else {
            Verdict::Meets
        },
        measurement: m,
        reason: String::new(),
        loss_upper: loss,
        recovered: None,
        telemetry: telemetry.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect(),
    }
}

/// An idle probe at 5 rps and the given ones, all with the same figures.
fn trial(probes: &[P], telemetry: &[(&str, f64)]) -> Vec<Probe> {
    let mut all = vec![probe(1, &p(5.0, 50, &[], 55.0, 0.0), &[])];
    all.extend(probes.iter().zip(2..).map(|(g, n)| probe(n, g, telemetry)));
    all
}

fn facts() -> Facts {
    Facts {
        slo_errors: 0.05,
        knobs: vec![
            Knob {
                name: "pool_size".to_owned(),
                kind: KnobKind::Pool,
                value: Some("10".to_owned()),
                no_room_up: None,
                no_room_down: None,
            },
            Knob {
                name: "cpus".to_owned(),
                kind: KnobKind::Cpus,
                value: Some("1".to_owned()),
                no_room_up: None,
                no_room_down: None,
            },
        ],
        ..Facts::default()
    }
}

fn told(probes: &[Probe], facts: &Facts) -> Diagnosis {
    diagnose(&Evidence { probes, facts })
}

/// CPU of an idle service on two cores.
const CALM: [(&str, f64); 8] = [
    ("cpu_used", 0.25),
    ("cpu_limit", 1.0),
    ("throttled_ratio", 0.0),
    ("process_cpu_max", 0.24),
    ("thread_cpu_max", 0.24),
    ("host_cores", 2.0),
    ("host_cpu_ratio", 0.4),
    ("memory_limit_mb", 512.0),
];

fn with(more: &[(&'static str, f64)]) -> Vec<(&'static str, f64)> {
    let mut all: BTreeMap<&str, f64> = CALM.into_iter().collect();
    all.extend(more.iter().copied());
    all.into_iter().collect()
}

#[track_caller]
fn expect(probes: &[Probe], facts: &Facts, code: Code, confidence: Confidence) -> Diagnosis {
    let d = told(probes, facts);
    assert_eq!((d.code, d.confidence), (code, confidence), "{d:#?}");
    assert!(!d.sentence.is_empty() && !d.figures.is_empty(), "{d:#?}");
    d
}

#[test]
fn a_pool_that_is_too_small() {
    let figures = with(&[
        ("pool_checked_out_peak", 2.0),
        ("pool_capacity", 2.0),
        ("pool_waiting_mean", 31.0),
        ("db_connections_peak", 2.0),
        ("db_usable_connections", 97.0),
        ("db_server_connections_peak", 4.0),
        ("db_active_mean", 1.9),
        ("db_running_mean", 0.05),
        ("db_wait_timeout_ratio", 0.95),
    ]);
    // Twice the load, pool_timeout 1 s: 49 % 503, answers after 1045 ms, errors after 1003 ms.
    let probes = trial(
        &[
            p(20.0, 200, &[], 60.0, 0.0),
            p(80.0, 400, &[(C::PoolTimeout, 390)], 1045.0, 1003.0),
        ],
        &figures,
    );
    let d = expect(&probes, &facts(), Code::PoolWait, Confidence::High);
    assert_eq!(d.next_knob.as_deref(), Some("raise pool_size (10 now)"));
    assert!(
        d.sentence.contains("2 of 2 connections") && d.sentence.contains("more CPU will not help"),
        "{}",
        d.sentence
    );
    // pool_timeout 30 s: no errors at all within the step, a queue only.
    let silent = trial(
        &[p(20.0, 200, &[], 60.0, 0.0), p(80.0, 400, &[], 3200.0, 0.0)],
        &figures,
    );
    expect(&silent, &facts(), Code::PoolWait, Confidence::High);
    // The same without any telemetry of the CPU: nobody can know.
    let blind: Vec<(&str, f64)> = figures
        .iter()
        .filter(|(k, _)| !k.contains("cpu"))
        .copied()
        .collect();
    let d = told(
        &trial(&[p(80.0, 400, &[(C::PoolTimeout, 390)], 1045.0, 1003.0)], &blind),
        &facts(),
    );
    assert_eq!(
        (d.code, d.confidence),
        (Code::PoolWait, Confidence::Medium),
        "{d:#?}"
    );
}

#[test]
fn errors_at_pool_timeout_name_the_pool_without_an_endpoint() {
    let f = Facts {
        pool_timeout_s: Some(30.0),
        pool_total: Some(15.0),
        ..facts()
    };
    let figures = with(&[
        ("db_connections_peak", 15.0),
        ("db_active_mean", 14.0),
        ("db_running_mean", 0.1),
    ]);
    let probes = trial(
        &[p(60.0, 396, &[(C::Unavailable, 204)], 25_000.0, 30_000.0)],
        &figures,
    );
    expect(&probes, &f, Code::PoolWait, Confidence::High);
}

#[test]
fn the_report_is_not_a_full_pool() {
    // 72.9 % errors at 25 rps, 74.2 % at 200 rps; p95 4 and 29 ms; pool_timeout 30 s.
    let f = Facts {
        pool_timeout_s: Some(30.0),
        pool_total: Some(30.0),
        ..facts()
    };
    let probes = [
        probe(1, &p(25.0, 68, &[(C::ClientError, 182)], 3.0, 2.0), &CALM),
        probe(2, &p(200.0, 516, &[(C::ClientError, 1484)], 9.0, 8.0), &CALM),
    ];
    let d = expect(&probes, &f, Code::BrokenMix, Confidence::High);
    assert!(d.sentence.contains("73 % to 74 %"), "{}", d.sentence);
}

#[test]
fn a_pool_too_large_for_the_database_is_never_sure_before_a_knob_says_so() {
    let figures = with(&[
        ("db_connections_peak", 90.0),
        ("db_usable_connections", 197.0),
        ("db_active_mean", 60.0),
        ("db_running_mean", 24.0),
        ("db_wait_lwlock_ratio", 0.3),
        ("host_cpu_ratio", 0.97),
        ("pool_checked_out_peak", 80.0),
        ("pool_capacity", 90.0),
    ]);
    let probes = trial(
        &[p(50.0, 500, &[], 90.0, 0.0), p(100.0, 700, &[], 2400.0, 0.0)],
        &figures,
    );
    let d = expect(&probes, &facts(), Code::PoolTooLarge, Confidence::Medium);
    assert_eq!(d.next_knob.as_deref(), Some("lower pool_size (10 now)"));
    let sure = confirmed_by(d.clone(), "pool_size", &Effect::Live { ratio: 1.3 });
    assert_eq!(sure.confidence, Confidence::High);
    let not = confirmed_by(
        d,
        "pool_size",
        &Effect::None {
            ratio: 1.0,
            detectable: 0.1,
        },
    );
    assert_eq!(not.confidence, Confidence::Low);
}

#[test]
fn database_locks_explain_a_full_pool() {
    let figures = with(&[
        ("pool_checked_out_peak", 20.0),
        ("pool_capacity", 20.0),
        ("pool_waiting_mean", 40.0),
        ("db_connections_peak", 20.0),
        ("db_usable_connections", 97.0),
        ("db_active_mean", 20.0),
        ("db_running_mean", 0.2),
        ("db_wait_lock_ratio", 0.93),
    ]);
    let probes = trial(
        &[p(40.0, 190, &[(C::PoolTimeout, 150)], 1500.0, 1003.0)],
        &figures,
    );
    let d = expect(&probes, &facts(), Code::DatabaseLocks, Confidence::High);
    assert_eq!(d.runner_up, Some(Code::PoolWait));
}

#[test]
fn max_connections_by_its_own_words_and_by_the_count() {
    let figures = with(&[
        ("db_server_connections_peak", 17.0),
        ("db_usable_connections", 17.0),
        ("db_connections_peak", 16.0),
        ("pool_checked_out_peak", 16.0),
        ("pool_capacity", 50.0),
    ]);
    let probes = trial(
        &[p(300.0, 2400, &[(C::TooManyClients, 600)], 60.0, 8.0)],
        &figures,
    );
    expect(&probes, &facts(), Code::MaxConnections, Confidence::High);
    let mute = trial(&[p(300.0, 2400, &[(C::ServerError, 600)], 60.0, 8.0)], &figures);
    expect(&mute, &facts(), Code::MaxConnections, Confidence::Medium);
}

#[test]
fn a_throttled_service_also_exhausts_its_pool() {
    // Quota 0.25, 1.8 times the load: 42 % errors, p50 1.7 s, 85 of 89 periods throttled.
    let figures = with(&[
        ("cpu_used", 0.25),
        ("cpu_limit", 0.25),
        ("throttled_ratio", 85.0 / 89.0),
        ("process_cpu_max", 0.25),
        ("pool_checked_out_peak", 10.0),
        ("pool_capacity", 10.0),
        ("pool_waiting_mean", 60.0),
        ("db_active_mean", 2.0),
        ("db_running_mean", 0.1),
    ]);
    let probes = trial(
        &[p(130.0, 750, &[(C::PoolTimeout, 550)], 1700.0, 1100.0)],
        &figures,
    );
    let d = expect(&probes, &facts(), Code::CpuQuota, Confidence::High);
    assert_eq!(d.runner_up, Some(Code::PoolWait));
    assert_eq!(d.next_knob.as_deref(), Some("raise cpus (1 now)"));
    assert!(
        d.sentence.contains("0.25 of 0.25 cores") && d.sentence.contains("96 % of periods"),
        "{}",
        d.sentence
    );
}

#[test]
fn one_event_loop_with_cpu_to_spare() {
    let figures = with(&[
        ("cpu_used", 0.99),
        ("cpu_limit", 2.0),
        ("process_cpu_max", 0.98),
        ("thread_cpu_max", 0.97),
        ("host_cpu_ratio", 0.62),
        ("pool_checked_out_peak", 8.0),
        ("pool_capacity", 40.0),
        ("db_active_mean", 1.0),
        ("db_running_mean", 0.1),
    ]);
    let probes = trial(&[p(60.0, 470, &[], 1900.0, 0.0)], &figures);
    expect(&probes, &facts(), Code::OneCore, Confidence::High);
    // With a quota of one core both bind, and moving one alone does nothing.
    let both: Vec<(&str, f64)> = figures
        .iter()
        .map(|(k, v)| if *k == "cpu_limit" { (*k, 1.0) } else { (*k, *v) })
        .collect();
    let d = expect(
        &trial(&[p(60.0, 470, &[], 1900.0, 0.0)], &both),
        &facts(),
        Code::Several,
        Confidence::Medium,
    );
    assert!(
        d.sentence.contains("CPU quota") && d.sentence.contains("event loop"),
        "{}",
        d.sentence
    );
}

#[test]
fn an_oom_kill_of_a_child_that_docker_does_not_show() {
    // Two workers: a few resets, then 200 again; only the oom event tells.
    let killed = [
        ("oom_kills", 1.0),
        ("memory_peak_mb", 190.0),
        ("memory_limit_mb", 192.0),
    ];
    let resets = [(C::ResetBeforeFirstByte, 60), (C::ConnectRefused, 60)];
    let under = |figures: &[(&'static str, f64)]| trial(&[p(100.0, 880, &resets, 40.0, 3.0)], &with(figures));
    expect(&under(&killed), &facts(), Code::Memory, Confidence::High);
    // Workers that start again fill the CPU quota: a kill that was seen is still what probably binds.
    let full = [("cpu_used", 0.5), ("cpu_limit", 0.5), ("throttled_ratio", 0.6)];
    let both: Vec<_> = killed.into_iter().chain(full).collect();
    let d = expect(&under(&both), &facts(), Code::Memory, Confidence::Medium);
    assert_eq!(d.runner_up, Some(Code::CpuQuota), "{d:#?}");
    // A trial that failed before its first probe.
    let f = Facts {
        failure: Some(Failure::Oom),
        ..facts()
    };
    expect(&[], &f, Code::Memory, Confidence::High);
    // Killed with most of the memory free, and no kill for memory seen: anybody may have done it.
    let room = [("memory_peak_mb", 63.0), ("memory_limit_mb", 512.0)];
    let d = told(&trial(&[p(100.0, 880, &resets, 40.0, 3.0)], &with(&room)), &f);
    assert!(d.confidence == Confidence::Low, "{d:#?}");
}

#[test]
fn a_limiter_with_and_without_its_own_status() {
    // 100 rps, load 200: 45 % 429 in 1 ms, goodput constant.
    let probes = trial(
        &[
            p(80.0, 800, &[], 55.0, 0.0),
            p(130.0, 1000, &[(C::TooManyRequests, 300)], 55.0, 1.0),
            p(200.0, 1010, &[(C::TooManyRequests, 990)], 56.0, 1.0),
        ],
        &CALM,
    );
    let d = expect(&probes, &facts(), Code::RateLimiter, Confidence::High);
    assert!(d.sentence.contains("goodput stays"), "{}", d.sentence);
    let by_503: Vec<Probe> = trial(
        &[
            p(130.0, 1000, &[(C::Unavailable, 300)], 55.0, 1.0),
            p(200.0, 1010, &[(C::Unavailable, 990)], 56.0, 1.0),
        ],
        &CALM,
    );
    expect(&by_503, &facts(), Code::RateLimiter, Confidence::High);
    // One that lets bursts through: the goodput is not constant. A pool that was seen with room makes it probable.
    let bursts = |figures: &[(&'static str, f64)]| {
        trial(
            &[
                p(130.0, 700, &[(C::Unavailable, 600)], 55.0, 1.0),
                p(200.0, 1300, &[(C::Unavailable, 700)], 56.0, 1.0),
            ],
            &with(figures),
        )
    };
    let room = [("pool_capacity", 20.0), ("pool_checked_out_peak", 3.0)];
    expect(&bursts(&room), &facts(), Code::RateLimiter, Confidence::Medium);
    let full = [("pool_capacity", 20.0), ("pool_checked_out_peak", 20.0)];
    let d = told(&bursts(&full), &facts());
    assert!(
        d.code != Code::RateLimiter || d.confidence == Confidence::Low,
        "{d:#?}"
    );
}

#[test]
fn a_full_listen_queue_and_a_full_machine() {
    let queue = with(&[
        ("listen_overflows", 240.0),
        ("pool_checked_out_peak", 3.0),
        ("pool_capacity", 20.0),
    ]);
    let probes = trial(
        &[p(
            400.0,
            3200,
            &[(C::ConnectTimeout, 500), (C::ConnectRefused, 300)],
            20.0,
            1000.0,
        )],
        &queue,
    );
    expect(&probes, &facts(), Code::AcceptQueue, Confidence::High);
    let full = with(&[
        ("host_cpu_ratio", 0.99),
        ("cpu_used", 1.1),
        ("cpu_limit", 2.0),
        ("process_cpu_max", 0.6),
        ("thread_cpu_max", 0.6),
        ("db_active_mean", 3.0),
        ("db_running_mean", 0.4),
        ("db_connections_peak", 20.0),
        ("pool_checked_out_peak", 20.0),
        ("pool_capacity", 20.0),
        ("pool_waiting_mean", 30.0),
    ]);
    let d = expect(
        &trial(&[p(320.0, 2600, &[], 900.0, 0.0)], &full),
        &facts(),
        Code::HostCpu,
        Confidence::High,
    );
    assert_eq!(d.runner_up, Some(Code::PoolWait));
}

#[test]
fn redis_connections_that_are_too_few_or_refused() {
    let pool = with(&[
        ("redis_pool_in_use_mean", 90.0),
        ("redis_pool_capacity", 2.0),
        ("redis_pool_errors", 300.0),
        ("pool_checked_out_peak", 0.0),
        ("pool_capacity", 20.0),
        ("redis_clients", 3.0),
        ("redis_max_clients", 1000.0),
    ]);
    let probes = trial(&[p(80.0, 390, &[(C::ServerError, 380)], 1010.0, 1003.0)], &pool);
    expect(&probes, &facts(), Code::RedisPool, Confidence::High);
    let refused = with(&[
        ("redis_rejected", 41.0),
        ("redis_clients", 10.0),
        ("redis_max_clients", 10.0),
    ]);
    let probes = trial(&[p(80.0, 500, &[(C::ServerError, 300)], 60.0, 3.0)], &refused);
    expect(&probes, &facts(), Code::RedisPool, Confidence::High);
}

#[test]
fn a_database_that_works_as_hard_as_it_can_with_few_connections() {
    let figures = with(&[
        ("db_connections_peak", 4.0),
        ("db_active_mean", 3.6),
        ("db_running_mean", 2.6),
        ("host_cpu_ratio", 0.97),
        ("pool_checked_out_peak", 4.0),
        ("pool_capacity", 4.0),
        ("pool_waiting_mean", 12.0),
    ]);
    let d = expect(
        &trial(&[p(40.0, 300, &[], 900.0, 0.0)], &figures),
        &facts(),
        Code::Database,
        Confidence::Medium,
    );
    assert_eq!(d.runner_up, Some(Code::PoolWait));
}

#[test]
fn a_generator_held_to_25_rps_by_one_connection() {
    // One connection, 40 ms a request: 25 rps; asked 60. The service is as fast as ever.
    let mut held = probe(2, &p(60.0, 250, &[], 2900.0, 0.0), &CALM);
    held.measurement.sent = 252;
    held.measurement.service_ms.p50 = 40.0;
    held.measurement.generator.cap_reached = true;
    let idle = probe(1, &p(5.0, 50, &[], 40.0, 0.0), &CALM);
    let not_noticed = told(&[idle.clone(), held.clone()], &facts());
    assert_eq!(not_noticed.code, Code::Generator, "{not_noticed:#?}");
    held.verdict = Verdict::Void;
    held.reason = "all connections in use while the service is idle".to_owned();
    let d = expect(&[idle, held], &facts(), Code::Generator, Confidence::High);
    assert!(d.sentence.contains("25 of 60 rps"), "{}", d.sentence);
}

#[test]
fn a_database_that_is_away_is_a_failing_service() {
    let probes = [
        probe(1, &p(5.0, 0, &[(C::ServerError, 50)], 0.0, 5.0), &CALM),
        probe(2, &p(20.0, 0, &[(C::ServerError, 200)], 0.0, 5.0), &CALM),
    ];
    expect(&probes, &facts(), Code::FailingService, Confidence::High);
}

#[test]
fn no_limit_and_no_evidence_are_said_so() {
    let probes = trial(&[p(100.0, 1000, &[], 20.0, 0.0)], &CALM);
    expect(&probes, &facts(), Code::NotReached, Confidence::High);
    expect(&[], &facts(), Code::Unknown, Confidence::Low);
    // Slow, and nothing sampled says why.
    let figures = with(&[
        ("pool_checked_out_peak", 3.0),
        ("pool_capacity", 20.0),
        ("db_connections_peak", 5.0),
    ]);
    expect(
        &trial(&[p(100.0, 500, &[], 900.0, 0.0)], &figures),
        &facts(),
        Code::Unknown,
        Confidence::Low,
    );
}

#[test]
fn knobs_are_known_by_their_names() {
    for (name, kind) in [
        ("POOL_SIZE", KnobKind::Pool),
        ("SQLALCHEMY_MAX_OVERFLOW", KnobKind::Overflow),
        ("DB_POOL_TIMEOUT", KnobKind::PoolTimeout),
        ("REDIS_MAX_CONNECTIONS", KnobKind::RedisPool),
        ("REDIS_TIMEOUT", KnobKind::Other),
        ("WEB_CONCURRENCY", KnobKind::Workers),
        ("SPRING_DATASOURCE_HIKARI_MAXIMUM_POOL_SIZE", KnobKind::Pool),
        ("CACHE_TTL", KnobKind::Other),
    ] {
        assert_eq!(KnobKind::of_name(name), kind, "{name}");
    }
}

#[test]
fn a_knob_without_effect_is_named_and_noise_is_not_called_an_effect() {
    let side = |value: &str, rates: &[f64]| Side {
        value: value.to_owned(),
        rates: rates.to_vec(),
    };
    let noise = crate::noise::Noise::of(&[vec![100.0, 102.0], vec![98.0, 101.0]]);
    let (low, high) = (side("2", &[30.1, 29.8]), side("50", &[30.0, 30.3]));
    let e = compare_knob(&low, &high, &noise);
    assert!(matches!(e, Effect::None { .. }), "{e:?}");
    let text = e.sentence("pool_size", Some("POOL_SIZE"), &low, &high);
    assert!(
        text.starts_with("pool_size changes nothing between 2 and 50")
            && text.ends_with("is POOL_SIZE read?"),
        "{text}"
    );
    let live = compare_knob(&side("2", &[40.0]), &side("20", &[300.0]), &noise);
    assert!(
        matches!(live, Effect::Live { ratio } if (ratio - 7.5).abs() < 1e-9),
        "{live:?}"
    );
    assert!(matches!(
        compare_knob(&side("2", &[40.0]), &side("500", &[]), &noise),
        Effect::Live { .. }
    ));
    let loud = crate::noise::Noise::of(&[vec![60.0, 140.0], vec![70.0, 150.0]]);
    assert!(matches!(compare_knob(&low, &high, &loud), Effect::Unclear { .. }));
}

#[test]
fn codes_are_numbered_without_gaps_and_documented() {
    let doc = include_str!("../../docs/diagnosis.md");
    for (code, n) in Code::ALL.iter().zip(1..) {
        assert_eq!(code.id(), format!("D{n:02}"));
        let heading = format!("## {} {}", code.id(), code.name());
        assert!(doc.contains(&heading), "docs/diagnosis.md lacks `{heading}`");
    }
    for name in crate::telemetry::names::ALL {
        assert!(
            doc.contains(&format!("`{name}`")),
            "docs/diagnosis.md lacks `{name}`"
        );
    }
}

#[test]
fn every_figure_that_is_asked_for_is_one_that_is_sampled() {
    let sources = [
        include_str!("causes/answers.rs"),
        include_str!("causes/machine.rs"),
        include_str!("causes/pools.rs"),
        include_str!("evidence.rs"),
    ];
    let mut asked = 0;
    for text in sources {
        for call in ["figure(\"", "any(\""] {
            for name in text.split(call).skip(1).filter_map(|rest| rest.split('"').next()) {
                assert!(
                    crate::telemetry::names::ALL.contains(&name),
                    "no source gives `{name}`"
                );
                asked += 1;
            }
        }
    }
    assert!(asked > 30, "only {asked} found: has the way of asking changed?");
}

/// Any figures, any counts.
fn anything() -> impl Strategy<Value = Vec<Probe>> {
    let figure = (
        0..crate::telemetry::names::ALL.len(),
        prop_oneof![-1.0f64..200.0, 0.0f64..1.0, Just(f64::NAN)],
    );
    let errors = prop::collection::vec((0usize..19, 0u64..3000), 0..4);
    let one = (
        0.5f64..2000.0,
        0u64..3000,
        errors,
        0.0f64..5000.0,
        0.0f64..5000.0,
        0usize..3,
        prop::collection::vec(figure, 0..24),
    );
    prop::collection::vec(one, 0..6).prop_map(|all| {
        all.into_iter()
            .zip(1..)
            .map(|((rate, good, errors, p50, e50, verdict, figures), n)| {
                let errors: Vec<(C, u64)> = errors.into_iter().map(|(c, k)| (C::ALL[c], k)).collect();
                let figures: Vec<(&str, f64)> = figures
                    .into_iter()
                    .map(|(i, v)| (crate::telemetry::names::ALL[i], v))
                    .collect();
                let mut probe = probe(n, &p(rate, good, &errors, p50, e50), &figures);
                probe.verdict = [Verdict::Meets, Verdict::Violates, Verdict::Void][verdict];
                probe
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn it_never_panics_and_is_never_sure_beside_a_rival(probes in anything(), timeout in proptest::option::of(0.0f64..60.0)) {
        let f = Facts { pool_timeout_s: timeout, ..facts() };
        let e = Evidence { probes: &probes, facts: &f };
        let d = diagnose(&e);
        prop_assert_eq!(&d, &diagnose(&e), "the same evidence, the same answer");
        prop_assert!(!d.sentence.contains("NaN"), "{}", d.sentence);
        if d.confidence == Confidence::High {
            prop_assert!(!matches!(d.code, Code::PoolTooLarge | Code::Database | Code::Unknown | Code::Several));
            let mut rivals = causes::all(&Reading::of(&e));
            discount_consequences(&mut rivals);
            for r in rivals.iter().filter(|r| r.code != d.code) {
                prop_assert!(r.strength <= RIVAL, "sure of {:?} beside {:?}", d.code, r);
            }
        }
    }

    #[test]
    fn contradicting_evidence_takes_the_certainty_away(used in 0.9f64..1.0, throttled in 0.35f64..1.0) {
        // A full pool beside a full quota: never "the pool, for sure".
        let figures = with(&[
            ("pool_checked_out_peak", 2.0), ("pool_capacity", 2.0), ("pool_waiting_mean", 20.0),
            ("cpu_used", used), ("cpu_limit", 1.0), ("throttled_ratio", throttled),
        ]);
        let d = told(&trial(&[p(80.0, 400, &[(C::PoolTimeout, 390)], 1045.0, 1003.0)], &figures), &facts());
        prop_assert!(d.code != Code::PoolWait || d.confidence == Confidence::Low, "{d:#?}");
    }
}

/// Whoever has not looked at the database can't exclude that a lock or a slow query fills the pool.
#[test]
fn a_full_pool_is_never_sure_where_the_database_was_not_looked_at() {
    let figures = with(&[
        ("pool_checked_out_peak", 2.0),
        ("pool_capacity", 2.0),
        ("pool_waiting_mean", 31.0),
    ]);
    let probes = trial(
        &[p(20.0, 200, &[], 60.0, 0.0), p(80.0, 400, &[], 3200.0, 0.0)],
        &figures,
    );
    expect(&probes, &facts(), Code::PoolWait, Confidence::Medium);
    // The database is full, on another machine; this one is calm.
    let mut figures = figures;
    figures.extend([("db_active_mean", 8.0), ("db_running_mean", 8.0)]);
    let probes = trial(
        &[p(20.0, 200, &[], 60.0, 0.0), p(80.0, 400, &[], 3200.0, 0.0)],
        &figures,
    );
    let elsewhere = Facts {
        database_elsewhere: true,
        ..facts()
    };
    let d = told(&probes, &elsewhere);
    assert_ne!(d.confidence, Confidence::High, "{d:#?}");
    assert!(
        d.code == Code::Database || d.runner_up == Some(Code::Database),
        "{d:#?}"
    );
}

#[test]
fn a_full_machine_is_not_one_busy_core() {
    let figures = with(&[
        ("cpu_used", 3.9),
        ("cpu_limit", f64::NAN),
        ("process_cpu_max", 0.97),
        ("thread_cpu_max", 0.97),
        ("host_cores", 4.0),
        ("host_cpu_ratio", 0.99),
    ]);
    let probes = trial(&[p(60.0, 470, &[], 1900.0, 0.0)], &figures);
    let d = told(&probes, &facts());
    assert_eq!(d.code, Code::HostCpu, "{d:#?}");
}

#[test]
fn the_next_knob_says_where_the_space_ends() {
    let text = "[parameters.pool_size]\ntype = \"int\"\nlow = 1\nhigh = 40\nbaseline = 2\nenv = \"POOL_SIZE\"\n\
                [[constraints]]\nthat = \"pool_size <= 35\"\nwhy = \"half of the connections\"\n";
    let spec = crate::spec::parse(text, "x.toml", &|_| None, &|_| Err(String::new())).unwrap();
    let next = |pool: i64| {
        let mut config = spec.space.baseline();
        config.set("pool_size", crate::space::Value::Int(pool));
        super::knob::next(Code::PoolWait, &Facts::of(&spec, &config)).unwrap()
    };
    assert_eq!(next(10), "raise pool_size (10 now)");
    let full = next(35);
    assert!(
        full.contains("no room") && full.contains("half of the connections"),
        "{full}"
    );
}

#[test]
fn a_database_elsewhere_is_told_from_its_url() {
    let at = |url: &str| {
        let text = format!(
            "[parameters.a]\ntype = \"int\"\nlow = 1\nhigh = 9\nbaseline = 2\n[telemetry]\npostgres = \"{url}\"\n"
        );
        let spec = crate::spec::parse(&text, "x.toml", &|_| None, &|_| Err(String::new())).unwrap();
        Facts::of(&spec, &spec.space.baseline()).database_elsewhere
    };
    for here in [
        "postgres://u:p@127.0.0.1:5432/d",
        "postgres://u@localhost/d",
        "postgres://u@172.18.0.3/d",
        "postgres://u@postgres:5432/d",
    ] {
        assert!(!at(here), "{here}");
    }
    for far in [
        "postgres://u:p@10.1.2.3/d",
        "postgres://u:p@db.example.com:5432/d",
    ] {
        assert!(at(far), "{far}");
    }
}
