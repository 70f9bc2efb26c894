//! One probe driven by several machines: the controller's side, and what both sides speak.
//!
//! A [`Fleet`] hands every agent (`autotune agent`) its part of one schedule: of n agents, agent i sends the requests k with
//! k mod n = i of the very sequence that one generator would send, from one instant on. Reading order: `wire` (the protocol),
//! `offset` (what another machine's clock shows), `merge` (parts to one measurement, pure), `client` (one agent's connection),
//! `fleet` (a probe on all of them). The agent's side is the room `agent`.
//!
//! Deliberately not here: starting agents, choosing how many, rates (`capacity`), and trying again after a failure: a probe that
//! lost a generator is void, and the search asks anew.

mod client;
mod fleet;
mod merge;
mod offset;
pub(crate) mod wire;

pub use client::AgentFault;
pub use fleet::Fleet;
