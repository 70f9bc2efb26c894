//! Renderings of a study: CSV, recommendation files, HTML. Returns bytes; never measures, never writes.
