//! autotune finds the pool and resource settings with which an API sustains the most load.
//!
//! Reading order: words and quantities, the two pure loops, the effects, the driver.
//!
//! 1. [`units`], [`space`], [`expr`], [`spec`]: what is asked.
//! 2. [`measurement`], [`slo`], [`trial`]: what was measured.
//! 3. [`capacity`], [`optimizer`], [`finals`], [`smoke`], [`diagnosis`], [`noise`], [`report`]: decisions and renderings, pure functions of it.
//! 4. [`sut`], [`load`], [`telemetry`], [`store`], [`results`], [`lock`], [`guardian`], [`agent`]: effects, each owning one outside thing.
//! 5. [`agenda`], [`probing`], [`study`], [`event`], [`console`], [`serve`], [`cli`]: the drivers that call them.

pub mod agenda;
pub mod agent;
pub mod capacity;
pub mod cli;
pub mod console;
pub mod demo_api;
pub mod diagnosis;
pub mod event;
pub mod exit;
pub mod expr;
pub mod finals;
pub mod guardian;
pub mod load;
pub mod lock;
pub mod measurement;
pub mod noise;
pub mod optimizer;
pub mod probing;
pub mod report;
pub mod results;
pub mod serve;
pub mod slo;
pub mod smoke;
pub mod space;
pub mod spec;
pub mod store;
pub mod study;
pub mod sut;
pub mod telemetry;
pub mod trial;
pub mod units;
