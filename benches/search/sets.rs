//! Two sets of synthetic services. The search was tuned on the first; the tables report the second.
//!
//! Every set has seven services without a known constraint and two with a connection budget that leaves
//! about a tenth of the space.

use crate::service::{Service, soft_min, space, usl};

/// The set that the search was tuned on.
pub fn tuning() -> Vec<Service> {
    vec![
        space()
            .int("pool_size", 1, 60, 5)
            .int("max_overflow", 0, 40, 10)
            .int("workers", 1, 8, 1)
            .float("cpus", 0.25, 4.0, Some(0.25), 1.0)
            .cost("cpus + 0.02 * (pool_size + max_overflow) * workers")
            .service("pool knee", |c| {
                let conns = (c.n("pool_size") + 0.8 * c.n("max_overflow")) * c.n("workers");
                let db = usl(conns, 38.0, 0.03, 0.000_12);
                let cpu = 210.0 * c.n("cpus").min(c.n("workers")) / (1.0 + 0.03 * (c.n("workers") - 1.0));
                Some(soft_min(&[db, cpu, 900.0]))
            }),
        space()
            .int("workers", 1, 16, 2)
            .int("pool_size", 1, 40, 5)
            .int("memory_mb", 128, 4_096, 1_024)
            .int("cache_mb", 0, 1_024, 64)
            .cost("memory_mb / 1024")
            .service("memory cliff", |c| {
                let need =
                    60.0 + 75.0 * c.n("workers") + 2.5 * c.n("pool_size") * c.n("workers") + c.n("cache_mb");
                let room = c.n("memory_mb") - need;
                if room < 0.0 {
                    return None;
                }
                let hit = 0.75 * (1.0 - (-c.n("cache_mb") / 180.0).exp());
                let db = usl(c.n("pool_size") * c.n("workers"), 16.0, 0.01, 0.000_2) / (1.0 - hit);
                let cpu = usl(c.n("workers"), 130.0, 0.06, 0.003);
                Some(soft_min(&[db, cpu]) * (1.0 - 0.25 * (-room / 60.0).exp()))
            }),
        space()
            .choice("mode", &["sync", "async", "threaded"])
            .int("threads", 1, 128, 8)
            .int("pool_size", 1, 64, 8)
            .float("cpus", 0.5, 4.0, None, 1.0)
            .cost("cpus")
            .service("two basins", |c| {
                let (t, p, cpus) = (c.n("threads"), c.n("pool_size"), c.n("cpus"));
                let db = usl(p, 45.0, 0.02, 0.000_7);
                Some(if c.is("mode", "async") {
                    soft_min(&[db, 230.0 * cpus, 14.0 * t, 3_000.0 / (1.0 + t / 60.0)])
                } else if c.is("mode", "sync") {
                    soft_min(&[db, 150.0 * cpus, usl(t, 40.0, 0.05, 0.004)])
                } else {
                    soft_min(&[db, 175.0 * cpus, usl(t, 22.0, 0.02, 0.000_3)])
                })
            }),
        space()
            .choice("cache", &["off", "local", "redis"])
            .int("ttl_s", 1, 600, 30)
            .only_if("cache != \"off\"")
            .int("redis_pool", 1, 64, 4)
            .only_if("cache == \"redis\"")
            .int("pool_size", 1, 64, 5)
            .int("workers", 1, 8, 2)
            .service("cache choice", |c| {
                let fresh = (c.n("ttl_s") / 60.0) / (1.0 + c.n("ttl_s") / 60.0);
                let (hit, limit) = if c.is("cache", "redis") {
                    (
                        0.7 * fresh,
                        55.0 * c.n("redis_pool") / (1.0 + 0.01 * c.n("redis_pool")),
                    )
                } else if c.is("cache", "local") {
                    (0.5 * fresh / (0.6 + 0.2 * c.n("workers")), 1e5)
                } else {
                    (0.0, 1e5)
                };
                let db = usl(c.n("pool_size") * c.n("workers"), 22.0, 0.02, 0.000_3) / (1.0 - hit);
                let stale = 1.0 - 0.1 * (c.n("ttl_s") / 600.0).powi(2);
                Some(soft_min(&[db, usl(c.n("workers"), 190.0, 0.04, 0.004), limit]) * stale)
            }),
        space()
            .int("pool_size", 1, 80, 10)
            .int("max_overflow", 0, 40, 5)
            .int("workers", 1, 12, 2)
            .float("cpus", 0.5, 6.0, Some(0.5), 2.0)
            .int("memory_mb", 256, 4_096, 1_024)
            .int("pool_timeout_s", 1, 60, 30)
            .int("pool_recycle_s", 60, 3_600, 1_800)
            .int("keepalive_s", 1, 120, 5)
            .int("backlog", 16, 4_096, 128)
            .choice("log", &["info", "debug", "warning"])
            .service("ten parameters", |c| {
                let need = 90.0 + 60.0 * c.n("workers") + 1.2 * c.n("pool_size") * c.n("workers");
                if need > c.n("memory_mb") {
                    return None;
                }
                let conns = (c.n("pool_size") + c.n("max_overflow")) * c.n("workers");
                let db = usl(conns, 25.0, 0.02, 0.000_08);
                let cpu = 160.0 * c.n("cpus").min(c.n("workers") * 0.9);
                let log = if c.is("log", "debug") { 0.8 } else { 1.0 };
                let alive = 1.0 - 0.15 * (-c.n("keepalive_s") / 8.0).exp();
                let backlog = 1.0 - 0.1 * (-c.n("backlog") / 100.0).exp();
                Some(soft_min(&[db, cpu]) * log * alive * backlog)
            }),
        space()
            .int("pool_size", 1, 64, 20)
            .int("workers", 1, 8, 4)
            .float("cpus", 0.25, 4.0, Some(0.25), 2.0)
            .int("memory_mb", 128, 2_048, 1_024)
            .cost("cpus + memory_mb / 1024")
            .service("rate limiter", |c| {
                if c.n("memory_mb") < 70.0 + 40.0 * c.n("workers") + 1.5 * c.n("pool_size") {
                    return None;
                }
                let free = soft_min(&[
                    30.0 * c.n("pool_size"),
                    400.0 * c.n("cpus"),
                    260.0 * c.n("workers"),
                ]);
                Some(free.min(200.0))
            }),
        space()
            .int("threads", 1, 200, 16)
            .int("db_pool", 1, 100, 10)
            .int("http_pool", 1, 200, 20)
            .float("cpus", 0.5, 8.0, Some(0.25), 2.0)
            .float("gc_share", 0.01, 0.5, None, 0.1)
            .cost("cpus")
            .service("threads and pools", |c| {
                let t = c.n("threads");
                let gc = 1.0 - 0.6 * (c.n("gc_share") - 0.12).abs();
                let cpu = 120.0 * c.n("cpus") / (1.0 + 0.002 * t / c.n("cpus"));
                Some(
                    gc * soft_min(&[
                        t / 0.11,
                        usl(c.n("db_pool"), 60.0, 0.02, 0.000_6),
                        c.n("http_pool") / 0.035,
                        cpu,
                    ]),
                )
            }),
        space()
            .int("pool_size", 1, 64, 5)
            .int("max_overflow", 0, 40, 5)
            .int("workers", 1, 8, 2)
            .int("replicas", 1, 6, 1)
            .float("cpus", 0.25, 2.0, Some(0.25), 1.0)
            .rule("(pool_size + max_overflow) * workers * replicas <= 97")
            .cost("cpus * replicas")
            .service("budget 97", |c| {
                let per = c.n("pool_size") + 0.7 * c.n("max_overflow");
                let conns = per * c.n("workers") * c.n("replicas");
                let cpu = 170.0 * c.n("cpus").min(c.n("workers")) * c.n("replicas");
                let local = usl(per, 60.0, 0.04, 0.001) * c.n("workers") * c.n("replicas");
                Some(soft_min(&[usl(conns, 30.0, 0.01, 0.000_05), cpu, local]))
            }),
        space()
            .int("pool_size", 2, 50, 4)
            .int("workers", 1, 16, 2)
            .int("threads", 1, 32, 4)
            .int("memory_mb", 256, 4_096, 2_048)
            .rule("pool_size * workers <= 60")
            .rule("threads <= 4 * pool_size")
            .rule("memory_mb >= 90 * workers + 6 * threads * workers")
            .cost("memory_mb / 1024")
            .service("three rules", |c| {
                let (w, t) = (c.n("workers"), c.n("threads"));
                let db = usl(c.n("pool_size") * w, 32.0, 0.015, 0.000_3);
                let cpu = usl(w, 110.0, 0.05, 0.002);
                let wait = usl(t * w, 26.0, 0.01, 0.000_1);
                Some(soft_min(&[db, cpu, wait]))
            }),
    ]
}

/// The set that is reported; nothing was tuned to it.
pub fn reported() -> Vec<Service> {
    vec![
        space()
            .int("pool_size", 1, 100, 3)
            .int("max_overflow", 0, 100, 0)
            .int("pool_timeout_s", 1, 60, 30)
            .int("workers", 1, 6, 2)
            .cost("(pool_size + max_overflow) * workers")
            .service("hold time", |c| {
                // Little's law for connections that are held 24 ms, and a database that slows as they grow.
                let conns = (c.n("pool_size") + c.n("max_overflow")) * c.n("workers");
                let hold = 0.024 * (1.0 + (conns / 140.0).powi(2));
                let lazy = 1.0 - 0.25 * c.n("max_overflow") / (c.n("pool_size") + c.n("max_overflow"));
                let cpu = usl(c.n("workers"), 310.0, 0.10, 0.01);
                Some(soft_min(&[conns * lazy / hold, cpu, 1_400.0]))
            }),
        space()
            .float("cpus", 0.25, 4.0, None, 0.5)
            .int("memory_mb", 96, 2_048, 256)
            .int("heap_percent", 20, 95, 50)
            .int("threads", 1, 100, 10)
            .cost("cpus + memory_mb / 2048")
            .service("heap and cliff", |c| {
                let heap = c.n("memory_mb") * c.n("heap_percent") / 100.0;
                let outside = c.n("memory_mb") - heap;
                if outside < 30.0 + 1.1 * c.n("threads") || heap < 40.0 + 1.5 * c.n("threads") {
                    return None;
                }
                let spare = heap - 40.0 - 1.5 * c.n("threads");
                let gc = 1.0 / (1.0 + 0.5 * (-spare / 90.0).exp() + 40.0 / (spare + 60.0));
                let cpu = 240.0 * c.n("cpus") * gc;
                Some(
                    soft_min(&[cpu, c.n("threads") / 0.065, 700.0])
                        / (1.0 + 0.001 * c.n("threads") / c.n("cpus")),
                )
            }),
        space()
            .choice("server", &["one loop", "many processes"])
            .int("processes", 1, 24, 2)
            .only_if("server == \"many processes\"")
            .int("in_flight", 1, 512, 32)
            .int("pool_size", 1, 60, 5)
            .float("cpus", 0.5, 6.0, Some(0.5), 1.0)
            .cost("cpus")
            .service("loop or processes", |c| {
                let (cpus, q, p) = (c.n("cpus"), c.n("in_flight"), c.n("pool_size"));
                Some(if c.is("server", "one loop") {
                    let thrash = 1.0 / (1.0 + (q / 220.0).powi(2));
                    soft_min(&[330.0 * cpus.min(1.0), q / 0.09, usl(p, 70.0, 0.03, 0.001)]) * thrash
                } else {
                    let n = c.n("processes");
                    let switch = 1.0 / (1.0 + 0.03 * (n / cpus - 1.0).max(0.0));
                    soft_min(&[
                        150.0 * cpus.min(n) * switch,
                        q / 0.09,
                        usl(p * n, 26.0, 0.006, 0.000_25),
                    ])
                })
            }),
        space()
            .choice("compression", &["none", "fast", "best"])
            .choice("cache", &["off", "on"])
            .int("cache_mb", 8, 1_024, 64)
            .only_if("cache == \"on\"")
            .int("batch", 1, 128, 8)
            .int("pool_size", 1, 48, 6)
            .int("memory_mb", 128, 2_048, 512)
            .cost("memory_mb / 512")
            .service("switches", |c| {
                if c.n("memory_mb")
                    < 90.0 + 1.2 * c.n("cache_mb") + 3.0 * c.n("pool_size") + 1.5 * c.n("batch")
                {
                    return None;
                }
                let squeeze = if c.is("compression", "best") {
                    0.6
                } else if c.is("compression", "fast") {
                    0.9
                } else {
                    1.0
                };
                let wire = if c.is("compression", "none") { 420.0 } else { 900.0 };
                let hit = if c.is("cache", "on") {
                    0.8 * (1.0 - (-c.n("cache_mb") / 240.0).exp())
                } else {
                    0.0
                };
                let batch = usl(c.n("batch"), 1.0, 0.25, 0.000_8);
                let db = usl(c.n("pool_size"), 30.0, 0.03, 0.000_9) * batch / (1.0 - hit);
                Some(soft_min(&[db, 760.0 * squeeze, wire]))
            }),
        space()
            .int("web_workers", 1, 16, 2)
            .int("web_threads", 1, 32, 4)
            .int("db_pool", 1, 64, 5)
            .int("redis_pool", 1, 64, 5)
            .float("cpus", 0.5, 8.0, Some(0.25), 2.0)
            .int("memory_mb", 256, 8_192, 1_024)
            .int("statement_cache", 0, 1_000, 100)
            .int("read_ahead_kb", 4, 1_024, 128)
            .int("nodelay_ms", 0, 200, 40)
            .cost("cpus + memory_mb / 4096")
            .service("nine parameters", |c| {
                let (w, t) = (c.n("web_workers"), c.n("web_threads"));
                if c.n("memory_mb") < 120.0 + 85.0 * w + 2.2 * w * t + 0.15 * c.n("statement_cache") * w {
                    return None;
                }
                let plan = 0.75 + 0.25 * (1.0 - (-c.n("statement_cache") / 120.0).exp());
                let db = usl(c.n("db_pool") * w, 34.0, 0.012, 0.000_1) * plan;
                let redis = usl(c.n("redis_pool") * w, 50.0, 0.004, 0.000_01);
                let cpu = 140.0 * c.n("cpus").min(1.3 * w) / (1.0 + 0.002 * w * t);
                let nagle = 1.0 - 0.0015 * c.n("nodelay_ms");
                Some(soft_min(&[db, redis, cpu, w * t / 0.06]) * nagle)
            }),
        space()
            .int("pool_size", 1, 80, 30)
            .int("max_overflow", 0, 40, 20)
            .float("cpus", 0.25, 6.0, Some(0.25), 3.0)
            .int("memory_mb", 128, 4_096, 2_048)
            .int("workers", 1, 12, 4)
            .cost("cpus + memory_mb / 1024 + 0.01 * (pool_size + max_overflow)")
            .service("flat limiter", |c| {
                if c.n("memory_mb") < 60.0 + 65.0 * c.n("workers") + 1.1 * c.n("pool_size") {
                    return None;
                }
                let conns = c.n("pool_size") + 0.5 * c.n("max_overflow");
                let free = soft_min(&[24.0 * conns, 330.0 * c.n("cpus"), 210.0 * c.n("workers")]);
                Some(free.min(180.0))
            }),
        space()
            .int("shards", 1, 32, 4)
            .int("pool_per_shard", 1, 32, 4)
            .int("fetch", 10, 5_000, 100)
            .float("cpus", 0.5, 4.0, Some(0.5), 1.0)
            .service("ridge", |c| {
                // The product of two parameters has a narrow best value, and the third moves it.
                let conns = c.n("shards") * c.n("pool_per_shard");
                let best = 48.0 * (c.n("fetch") / 300.0).powf(-0.25);
                let ridge = (-((conns / best).ln() / 0.8).powi(2)).exp();
                let fetch = (-((c.n("fetch") / 400.0).ln() / 1.6).powi(2)).exp();
                let even = 1.0 / (1.0 + 0.04 * (c.n("shards") / c.n("pool_per_shard")).ln().powi(2));
                Some(soft_min(&[
                    620.0 * (0.25 + 0.75 * ridge) * (0.4 + 0.6 * fetch) * even,
                    210.0 * c.n("cpus"),
                ]))
            }),
        space()
            .int("pool_size", 1, 50, 4)
            .int("max_overflow", 0, 50, 4)
            .int("workers", 1, 10, 2)
            .int("replicas", 1, 8, 1)
            .float("cpus", 0.25, 4.0, Some(0.25), 1.0)
            .int("memory_mb", 128, 2_048, 512)
            .rule("(pool_size + max_overflow) * workers * replicas <= 180")
            .cost("replicas * (cpus + memory_mb / 2048)")
            .service("budget 180", |c| {
                if c.n("memory_mb") < 60.0 + 55.0 * c.n("workers") {
                    return None;
                }
                let n = c.n("replicas");
                let conns = (c.n("pool_size") + 0.85 * c.n("max_overflow")) * c.n("workers") * n;
                let cpu = 130.0 * c.n("cpus").min(c.n("workers")) * n / (1.0 + 0.04 * (n - 1.0));
                Some(soft_min(&[usl(conns, 24.0, 0.004, 0.000_02), cpu, 2_600.0]))
            }),
        space()
            .int("api_pool", 1, 60, 5)
            .int("job_pool", 1, 60, 5)
            .int("api_workers", 1, 8, 1)
            .int("job_workers", 1, 8, 1)
            .float("job_share", 0.05, 0.6, None, 0.3)
            .rule("api_pool * api_workers + job_pool * job_workers <= 90")
            .cost("api_workers + job_workers")
            .service("shared budget", |c| {
                let api = c.n("api_pool") * c.n("api_workers");
                let job = c.n("job_pool") * c.n("job_workers");
                let answers = soft_min(&[usl(api, 26.0, 0.01, 0.000_2), 210.0 * c.n("api_workers")]);
                let jobs = soft_min(&[usl(job, 20.0, 0.015, 0.000_4), 160.0 * c.n("job_workers")]);
                let share = c.n("job_share");
                Some(soft_min(&[answers * (1.15 - 0.5 * share), jobs / (0.9 - share)]))
            }),
    ]
}
