//! Evidence -> the binding constraint. Pure.
