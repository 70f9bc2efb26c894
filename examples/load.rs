//! TEMPORARY until the command line is wired.
use clap::Parser;
#[derive(Parser)]
struct Line {
    #[command(flatten)]
    load: autotune::cli_load::LoadArgs,
    #[arg(long)]
    json: bool,
    #[arg(long, short)]
    quiet: bool,
}
fn main() -> anyhow::Result<()> {
    let l = Line::parse();
    let rt = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let r = rt.block_on(autotune::cli_load::run(&l.load, l.json, l.quiet));
    rt.shutdown_timeout(std::time::Duration::from_secs(1));
    match r {
        Ok(0) => Ok(()),
        Ok(n) => anyhow::bail!("exit {n}"),
        Err(e) => Err(e),
    }
}
