//! `autotune schema`: the JSON Schema of the space file for editors, or its reference page.

use std::io::Write;

use crate::spec;

/// Prints the JSON Schema of the space file.
///
/// Example: `autotune schema > autotune.schema.json`, then write `#:schema ./autotune.schema.json` as the space
/// file's first line, for editors with a TOML language server.
#[derive(Debug, Clone, clap::Args)]
pub struct SchemaArgs {
    /// Print docs/space-file.md, the reference page, instead
    #[arg(long, env = "AUTOTUNE_REFERENCE")]
    pub reference: bool,
}

/// Writes to `out` and gives the exit code.
pub fn run(args: &SchemaArgs, json: bool, out: &mut dyn Write) -> std::io::Result<u8> {
    if args.reference {
        super::completions::put("reference", spec::reference().as_bytes(), json, out)?;
    } else {
        writeln!(out, "{:#}", spec::schema())?;
    }
    out.flush()?;
    Ok(0)
}
