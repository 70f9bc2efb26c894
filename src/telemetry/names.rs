//! The figures of a probe: their names in the journal, the CSVs and the report, with unit and meaning. Fixed; adding is
//! free. Ratios are 0..=1, CPU is in cores, memory in MiB, `_mean` and `_peak` are over the samples of the probe.
//!
//! Beside them every source leaves `SOURCE_samples_missed`.

/// CPU that the service used, cores, mean; all containers or processes together.
pub const CPU_USED: &str = "cpu_used";
/// CPU quota of the service, cores; missing where there is none.
pub const CPU_LIMIT: &str = "cpu_limit";
/// Share of cgroup periods in which the service was throttled.
pub const THROTTLED_RATIO: &str = "throttled_ratio";
/// Throttled time a second, seconds (cgroup v1 adds up CPUs, v2 too: it may exceed 1).
pub const THROTTLED_S_PER_S: &str = "throttled_s_per_s";
/// Memory without page cache, peak of the fullest container or of all processes together, MiB.
pub const MEMORY_PEAK_MB: &str = "memory_peak_mb";
/// Smallest memory limit of a container, MiB; missing where there is none.
pub const MEMORY_LIMIT_MB: &str = "memory_limit_mb";
/// Kills by the kernel for the memory limit, the main process or a child (`oom` events).
pub const OOM_KILLS: &str = "oom_kills";
/// Deaths of a container's main process.
pub const RESTARTS: &str = "restarts";
/// Containers that were sampled.
pub const CONTAINERS: &str = "containers";
/// CPU of the busiest of several instances, cores.
pub const INSTANCE_CPU_MAX: &str = "instance_cpu_max";
/// CPU of the idlest, cores.
pub const INSTANCE_CPU_MIN: &str = "instance_cpu_min";
/// What the instance with most traffic received over the mean of all; 1 is even. Missing with one instance.
pub const INSTANCE_TRAFFIC_RATIO: &str = "instance_traffic_ratio";
/// CPU of the busiest process, cores.
pub const PROCESS_CPU_MAX: &str = "process_cpu_max";
/// CPU of the busiest thread, cores: 1.0 is a full event loop.
pub const THREAD_CPU_MAX: &str = "thread_cpu_max";
/// Longest that a thread was ready to run and had no CPU, seconds a second: others, or the quota, keep it waiting.
pub const THREAD_CPU_WAIT_MAX: &str = "thread_cpu_wait_max";
/// Processes of the service, peak.
pub const PROCESSES: &str = "processes";
/// Connections that the kernel dropped because the listen queue was full.
pub const LISTEN_OVERFLOWS: &str = "listen_overflows";

/// CPUs of the host.
pub const HOST_CORES: &str = "host_cores";
/// Share of the host's CPU that was busy or stolen.
pub const HOST_CPU_RATIO: &str = "host_cpu_ratio";
/// Share that the hypervisor took.
pub const HOST_STEAL_RATIO: &str = "host_steal_ratio";

/// Backends of the service's database without our own, peak.
pub const DB_CONNECTIONS_PEAK: &str = "db_connections_peak";
/// Client backends of the whole server, ours included, peak.
pub const DB_SERVER_CONNECTIONS_PEAK: &str = "db_server_connections_peak";
/// `max_connections`.
pub const DB_MAX_CONNECTIONS: &str = "db_max_connections";
/// `max_connections` less what is kept for superusers.
pub const DB_USABLE_CONNECTIONS: &str = "db_usable_connections";
/// Backends in a query, mean.
pub const DB_ACTIVE_MEAN: &str = "db_active_mean";
/// Of these, on a CPU or waiting for one (no wait event), mean.
pub const DB_RUNNING_MEAN: &str = "db_running_mean";
/// Backends idle inside a transaction: the service holds the connection and does something else, mean.
pub const DB_IDLE_IN_TRANSACTION_MEAN: &str = "db_idle_in_transaction_mean";
/// Lock requests not granted, mean.
pub const DB_WAITING_LOCKS_MEAN: &str = "db_waiting_locks_mean";
/// Share of active backends that wait for a lock.
pub const DB_WAIT_LOCK_RATIO: &str = "db_wait_lock_ratio";
/// Share that waits for a disk.
pub const DB_WAIT_IO_RATIO: &str = "db_wait_io_ratio";
/// Share that waits for an internal lock.
pub const DB_WAIT_LWLOCK_RATIO: &str = "db_wait_lwlock_ratio";
/// Share that waits for the client.
pub const DB_WAIT_CLIENT_RATIO: &str = "db_wait_client_ratio";
/// Share that sleeps (`pg_sleep` and the like).
pub const DB_WAIT_TIMEOUT_RATIO: &str = "db_wait_timeout_ratio";
/// Deadlocks.
pub const DB_DEADLOCKS: &str = "db_deadlocks";
/// Commits a second.
pub const DB_COMMITS_PER_S: &str = "db_commits_per_s";
/// Rollbacks a second.
pub const DB_ROLLBACKS_PER_S: &str = "db_rollbacks_per_s";
/// Written to temporary files, bytes.
pub const DB_TEMP_BYTES: &str = "db_temp_bytes";

/// Connections checked out of the pool of the answering process, peak.
pub const POOL_CHECKED_OUT_PEAK: &str = "pool_checked_out_peak";
/// The same, mean.
pub const POOL_CHECKED_OUT_MEAN: &str = "pool_checked_out_mean";
/// Most connections that this pool may have; 0: no limit.
pub const POOL_CAPACITY: &str = "pool_capacity";
/// Requests that wait for a connection, peak.
pub const POOL_WAITING_PEAK: &str = "pool_waiting_peak";
/// The same, mean.
pub const POOL_WAITING_MEAN: &str = "pool_waiting_mean";
/// Overflow connections open, peak.
pub const POOL_OVERFLOW_PEAK: &str = "pool_overflow_peak";
/// Requests that gave up waiting for a connection.
pub const POOL_TIMEOUTS: &str = "pool_timeouts";
/// How long the pool endpoint took to answer, milliseconds, mean: lag of the service's event loop.
pub const POOL_ANSWER_MS_MEAN: &str = "pool_answer_ms_mean";

/// Clients connected to Redis, peak.
pub const REDIS_CLIENTS: &str = "redis_clients";
/// `maxclients`.
pub const REDIS_MAX_CLIENTS: &str = "redis_max_clients";
/// Connections that Redis refused.
pub const REDIS_REJECTED: &str = "redis_rejected";
/// Clients in a blocking command, mean.
pub const REDIS_BLOCKED_MEAN: &str = "redis_blocked_mean";
/// Commands a second.
pub const REDIS_COMMANDS_PER_S: &str = "redis_commands_per_s";
/// Requests that use or wait for a connection of the API's Redis pool, peak.
pub const REDIS_POOL_IN_USE_PEAK: &str = "redis_pool_in_use_peak";
/// The same, mean.
pub const REDIS_POOL_IN_USE_MEAN: &str = "redis_pool_in_use_mean";
/// Connections that this pool may have.
pub const REDIS_POOL_CAPACITY: &str = "redis_pool_capacity";
/// Errors of Redis that the API counted.
pub const REDIS_POOL_ERRORS: &str = "redis_pool_errors";

/// All of them.
pub const ALL: &[&str] = &[
    CPU_USED,
    CPU_LIMIT,
    THROTTLED_RATIO,
    THROTTLED_S_PER_S,
    MEMORY_PEAK_MB,
    MEMORY_LIMIT_MB,
    OOM_KILLS,
    RESTARTS,
    CONTAINERS,
    INSTANCE_CPU_MAX,
    INSTANCE_CPU_MIN,
    INSTANCE_TRAFFIC_RATIO,
    PROCESS_CPU_MAX,
    THREAD_CPU_MAX,
    THREAD_CPU_WAIT_MAX,
    PROCESSES,
    LISTEN_OVERFLOWS,
    HOST_CORES,
    HOST_CPU_RATIO,
    HOST_STEAL_RATIO,
    DB_CONNECTIONS_PEAK,
    DB_SERVER_CONNECTIONS_PEAK,
    DB_MAX_CONNECTIONS,
    DB_USABLE_CONNECTIONS,
    DB_ACTIVE_MEAN,
    DB_RUNNING_MEAN,
    DB_IDLE_IN_TRANSACTION_MEAN,
    DB_WAITING_LOCKS_MEAN,
    DB_WAIT_LOCK_RATIO,
    DB_WAIT_IO_RATIO,
    DB_WAIT_LWLOCK_RATIO,
    DB_WAIT_CLIENT_RATIO,
    DB_WAIT_TIMEOUT_RATIO,
    DB_DEADLOCKS,
    DB_COMMITS_PER_S,
    DB_ROLLBACKS_PER_S,
    DB_TEMP_BYTES,
    POOL_CHECKED_OUT_PEAK,
    POOL_CHECKED_OUT_MEAN,
    POOL_CAPACITY,
    POOL_WAITING_PEAK,
    POOL_WAITING_MEAN,
    POOL_OVERFLOW_PEAK,
    POOL_TIMEOUTS,
    POOL_ANSWER_MS_MEAN,
    REDIS_CLIENTS,
    REDIS_MAX_CLIENTS,
    REDIS_REJECTED,
    REDIS_BLOCKED_MEAN,
    REDIS_COMMANDS_PER_S,
    REDIS_POOL_IN_USE_PEAK,
    REDIS_POOL_IN_USE_MEAN,
    REDIS_POOL_CAPACITY,
    REDIS_POOL_ERRORS,
];
