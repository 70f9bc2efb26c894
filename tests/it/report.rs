//! The derived files, from a journal to the folder.
