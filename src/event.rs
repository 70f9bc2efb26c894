//! One event enum; console and live page only consume it.
