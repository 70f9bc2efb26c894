//! The numbered codes. Numbers and names are fixed: reports, CSVs and docs/diagnosis.md quote them.

use serde::{Deserialize, Serialize};

/// A binding constraint, or why none can be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// D01: requests wait for a connection of the pool.
    PoolWait,
    /// D02: more connections work in the database than it has CPUs for.
    PoolTooLarge,
    /// D03: transactions wait for each other's rows.
    DatabaseLocks,
    /// D04: the database refuses more connections.
    MaxConnections,
    /// D05: the container's CPU quota.
    CpuQuota,
    /// D06: one event loop or interpreter lock is full, CPUs are to spare.
    OneCore,
    /// D07: the container's memory limit.
    Memory,
    /// D08: some requests of the mix always fail.
    BrokenMix,
    /// D09: somebody limits the rate.
    RateLimiter,
    /// D10: the listen queue or the number of open files.
    AcceptQueue,
    /// D11: the load generator, not the service.
    Generator,
    /// D12: requests wait for a connection of the Redis pool, or Redis refuses them.
    RedisPool,
    /// D13: the machine itself is full.
    HostCpu,
    /// D14: the database's CPU or disk.
    Database,
    /// D15: two constraints at once.
    Several,
    /// D16: no limit was reached.
    NotReached,
    /// D17: not known.
    Unknown,
    /// D18: the service answers with server errors at every rate: something behind it is away.
    FailingService,
}

impl Code {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 18] = [
        Self::PoolWait,
        Self::PoolTooLarge,
        Self::DatabaseLocks,
        Self::MaxConnections,
        Self::CpuQuota,
        Self::OneCore,
        Self::Memory,
        Self::BrokenMix,
        Self::RateLimiter,
        Self::AcceptQueue,
        Self::Generator,
        Self::RedisPool,
        Self::HostCpu,
        Self::Database,
        Self::Several,
        Self::NotReached,
        Self::Unknown,
        Self::FailingService,
    ];

    /// The code with this name in files.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.name() == name)
    }

    /// "D01" ... "D18".
    #[must_use]
    pub fn id(self) -> &'static str {
        self.row().0
    }

    /// The name in files: `pool_wait`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The words for people: "pool wait".
    #[must_use]
    pub fn title(self) -> &'static str {
        self.row().2
    }

    /// What not to do about it.
    #[must_use]
    pub fn futile(self) -> &'static str {
        self.row().3
    }

    /// About the test rather than the service.
    #[must_use]
    pub fn is_of_the_test(self) -> bool {
        matches!(self, Self::BrokenMix | Self::Generator | Self::FailingService)
    }

    #[allow(clippy::too_many_lines)] // a table
    fn row(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::PoolWait => ("D01", "pool_wait", "pool wait", "more CPU will not help"),
            Self::PoolTooLarge => (
                "D02",
                "pool_too_large",
                "a pool too large for the database",
                "more pool makes it worse",
            ),
            Self::DatabaseLocks => (
                "D03",
                "database_locks",
                "database locks",
                "no pool or limit will help: the application holds locks too long",
            ),
            Self::MaxConnections => (
                "D04",
                "max_connections",
                "max_connections of the database",
                "more pool makes it worse",
            ),
            Self::CpuQuota => ("D05", "cpu_quota", "CPU quota", "more pool will not help"),
            Self::OneCore => (
                "D06",
                "one_core",
                "one busy event loop",
                "neither more pool nor more cpus will help one worker",
            ),
            Self::Memory => (
                "D07",
                "memory",
                "memory limit",
                "more pool or workers make it worse",
            ),
            Self::BrokenMix => (
                "D08",
                "broken_mix",
                "broken request mix",
                "mend the test first: nothing is known about the service's capacity",
            ),
            Self::RateLimiter => (
                "D09",
                "rate_limiter",
                "rate limiter",
                "nothing tuned here will help",
            ),
            Self::AcceptQueue => (
                "D10",
                "accept_queue",
                "accept queue or open files",
                "pool and CPU will not help",
            ),
            Self::Generator => (
                "D11",
                "generator_limited",
                "generator-limited",
                "this is not the service's limit",
            ),
            Self::RedisPool => (
                "D12",
                "redis_pool",
                "Redis connections",
                "the database pool will not help",
            ),
            Self::HostCpu => (
                "D13",
                "host_cpu",
                "the machine's CPU",
                "no limit or pool will help on this machine",
            ),
            Self::Database => (
                "D14",
                "database",
                "the database itself",
                "more pool will not help",
            ),
            Self::Several => (
                "D15",
                "several",
                "several at once",
                "moving one alone will not help",
            ),
            Self::NotReached => ("D16", "not_reached", "limit not reached", "nothing bound"),
            Self::Unknown => ("D17", "unknown", "not known", "more evidence is needed"),
            Self::FailingService => (
                "D18",
                "failing_service",
                "failing service",
                "mend the service or what is behind it first",
            ),
        }
    }
}
