//! Figures sampled beside the load: container, Postgres, Redis, the API's own pool, the host.
