//! Gives the user's container back when the tool itself was killed.
