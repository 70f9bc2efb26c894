//! Which configs are measured again, in which order, and the decision between them. Pure.
