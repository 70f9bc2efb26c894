//! The load engine: open loop on an absolute schedule, latency from the scheduled time.
