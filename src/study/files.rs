//! The results folder of a study under way: tables after every trial, everything at the end, and the summary that is
//! printed.

use std::collections::BTreeMap;

use super::Study;
use crate::event::Event;
use crate::exit::ExitError;
use crate::report::{self, FinalVerdict, Sample, Summary};
use crate::results;
use crate::store::{Journal, kinds};

impl Study<'_> {
    /// Writes every derived file from the journal.
    pub(crate) async fn write_results(&mut self) -> Result<(), ExitError> {
        match &self.share {
            None => results::write(&self.store, &self.options.folder).await?,
            Some(_) => self.copy_results().await?,
        }
        Ok(())
    }

    /// What the end of the run prints: the verdict, the evidence, and what to do with it.
    pub(crate) async fn summary(&self) -> Result<(String, serde_json::Value), ExitError> {
        let study = results::Study::read(self.book()).await?;
        let summary = study.summary();
        let mut lines = vec![String::new(), summary.headline()];
        let folder = self.options.folder.display();
        lines.extend(summary.finals.iter().map(|s| final_line(&summary, s)));
        if let Some(d) = summary
            .decision
            .as_ref()
            .filter(|d| d.minimum_detectable_gain > 0.0 && d.verdict != FinalVerdict::NoGain)
        {
            lines.push(format!(
                "  {} {} would have shown a gain of {:.1} % or more (with 80 % probability)",
                d.pairs,
                if d.pairs == 1 { "pair" } else { "pairs" },
                100.0 * d.minimum_detectable_gain
            ));
        }
        // A confirmation searches nothing: how an earlier run's search ended is no news.
        let ended = match self.confirming {
            Some(_) => None,
            None => self.book().events(kinds::SEARCH_ENDED).await?.pop(),
        };
        if let Some(why) = ended {
            lines.push(format!(
                "  the search ended: {}",
                why.as_str().unwrap_or_default()
            ));
        }
        if let Some(binds) = &summary.notes.binds {
            lines.push(format!("  what binds now: {binds}"));
        }
        lines.push(String::new());
        for (what, names) in [
            (
                "To use it",
                &["recommended.env", "docker-compose.recommended.yml"][..],
            ),
            ("Evidence", &["recommended.toml", "report.html", "trials.csv"]),
        ] {
            let written = names.iter().filter(|n| self.options.folder.join(n).is_file());
            let paths: Vec<String> = written.map(|n| format!("{folder}/{n}")).collect();
            if !paths.is_empty() {
                lines.push(format!("{what}: {}", paths.join(", ")));
            }
        }
        let json = serde_json::json!({
            "folder": self.options.folder,
            "headline": summary.headline(),
            "verdict": summary.verdict_name(),
            "decision": summary.decision,
            "recommended": summary.recommended(),
            "trials": summary.rows.len(),
        });
        Ok((lines.join("\n"), json))
    }

    /// Warnings go to the terminal and into the report, each once.
    pub(crate) async fn warn_once(&mut self, warnings: Vec<String>) {
        for w in warnings {
            if !self.warned.insert(w.clone()) {
                continue;
            }
            self.sink.event(&Event::Warning(w.clone()));
            if let Err(e) = self
                .store
                .log(kinds::WARNING, &serde_json::Value::String(w))
                .await
            {
                tracing::debug!("a warning was not journalled: {e}");
            }
        }
    }

    /// The machine and what ran on it, for environment.toml.
    pub(crate) async fn record_environment(&self) -> Result<(), ExitError> {
        let mut all: BTreeMap<String, String> = machine();
        all.extend(self.facts.environment.clone());
        if let Some(share) = &self.share {
            all.insert(report::WORKER.to_owned(), share.host.clone());
        }
        // As they were typed: the paths of the commands that the results suggest.
        if let Some(space) = &self.options.space_file {
            all.insert(report::SPACE_FILE.to_owned(), space.display().to_string());
            all.insert(
                report::STUDY_FOLDER.to_owned(),
                self.options.folder.display().to_string(),
            );
        }
        let detail = serde_json::to_value(&all).unwrap_or_default();
        self.store.log(kinds::ENVIRONMENT, &detail).await?;
        Ok(())
    }
}

/// One configuration of the finals: its rate, and how well that is known.
fn final_line(summary: &Summary<'_>, s: &Sample) -> String {
    let who = if s.config == summary.baseline {
        "today      "
    } else {
        "candidate  "
    };
    let range = s
        .interval_rps
        .filter(|_| !s.at_least)
        .map_or(String::new(), |[lo, hi]| format!("  (95 % {lo:.1} to {hi:.1})"));
    format!(
        "  {who}{}  {}{:.1} rps{range}, {} measurement{}",
        s.config,
        if s.at_least { "at least " } else { "" },
        s.mean_rps,
        s.rates.len(),
        if s.rates.len() == 1 { "" } else { "s" }
    )
}

/// This machine's name.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Limits of this machine that so many connections would run into, with what mends them.
pub(crate) fn generator_limits(connections: u32) -> Vec<String> {
    use rustix::process::{Resource, getrlimit};
    let mut found = Vec::new();
    let wanted = u64::from(connections) + 256;
    if let Some(most) = getrlimit(Resource::Nofile).maximum.filter(|m| *m < wanted) {
        found.push(format!(
            "at most {most} files may be open here, {connections} connections may need {wanted}: raise `ulimit -Hn` or \
             lower [load] connections"
        ));
    }
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let ends: Vec<u32> = range.split_whitespace().filter_map(|w| w.parse().ok()).collect();
    if let [low, high] = ends.as_slice() {
        let ports = high.saturating_sub(*low) + 1;
        if ports < connections {
            found.push(format!(
                "there are {ports} local ports for {connections} connections: widen net.ipv4.ip_local_port_range or lower \
                 [load] connections"
            ));
        }
    }
    found
}

/// Host name, kernel, cores and memory.
fn machine() -> BTreeMap<String, String> {
    let uname = rustix::system::uname();
    let text = |c: &std::ffi::CStr| c.to_string_lossy().into_owned();
    let mut all = BTreeMap::from([
        ("host".to_owned(), text(uname.nodename())),
        (
            "kernel".to_owned(),
            format!("{} {}", text(uname.sysname()), text(uname.release())),
        ),
        ("architecture".to_owned(), text(uname.machine())),
        ("autotune".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
    ]);
    if let Ok(n) = std::thread::available_parallelism() {
        all.insert("cores".to_owned(), n.to_string());
    }
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    if let Some(kb) = info
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:"))
        .and_then(|l| l.trim().trim_end_matches(" kB").trim().parse::<u64>().ok())
    {
        all.insert("memory_mb".to_owned(), (kb / 1024).to_string());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_connections_than_files_or_ports_are_warned_of() {
        let found = generator_limits(u32::MAX);
        assert!(
            found.iter().any(|w| w.contains("ip_local_port_range")),
            "{found:?}"
        );
        assert_eq!(generator_limits(1), Vec::<String>::new());
    }
}
