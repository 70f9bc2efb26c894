//! Executes the capacity search's steps against a running service: the one driver that both the
//! `capacity` command and every trial use.
