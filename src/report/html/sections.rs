//! The page's sections beside the charts: the verdict, both configurations with the lines to paste, what
//! binds, the table of trials, warnings, how it was measured.

use std::fmt::Write as _;

use super::curves::{highest_offered, thumbnail};
use super::{esc, figure, verdict_class};
use crate::report::text::{maybe, number, percent, rate, signed_percent};
use crate::report::{
    FinalDecision, Row, Summary, compose_override, objective_words, recommended_env,
    warnings::warnings as found,
};
use crate::space::{Binding, Config, Limit, Parameter};
use crate::trial::{Outcome, Trial, TrialPhase};

/// Characters of a reason in the table; the CSV has more.
const REASON: usize = 160;

/// The verdict sentence, the rates side by side, and the finals that decided it.
pub(super) fn verdict(s: &Summary<'_>) -> String {
    let word = match verdict_class(s) {
        "win" => "Change it",
        "keep" => "Keep today's configuration",
        _ => "Not decided",
    };
    let mut cards = String::new();
    if let Some(d) = &s.decision {
        let other = if s.is_win() {
            "recommended"
        } else {
            "best candidate"
        };
        let bound = s.sample(&s.baseline).is_some_and(|x| x.at_least);
        let _ = write!(
            cards,
            "<div class=cards><div class=card><span>today</span>{}</div><div class=\"card {}\"><span>{other}</span>{}</div>\
             <div class=card><span>difference</span>{}</div></div>",
            rate_card(s, d.baseline_rps, bound, Some(&s.baseline)),
            verdict_class(s),
            rate_card(s, d.winner_rps, d.at_least, s.candidate()),
            difference(s, d)
        );
        if !d.words.is_empty() {
            let _ = write!(cards, "<p class=note>{}</p>", esc(&d.words, 600));
        }
    }
    format!(
        "<header class={}><p class=study>autotune · {}</p><h1>{word}</h1><p class=headline id=verdict>{}</p>{cards}{}</header>",
        verdict_class(s),
        esc(&s.meta.name, 120),
        esc(&s.headline(), 1_200),
        first_warnings(s)
    )
}

/// A rate of the decision with the interval of the same config; a bound has no upper end, and none is no zero.
fn rate_card(s: &Summary<'_>, rps: f64, bound: bool, of: Option<&Config>) -> String {
    if rps <= 0.0 {
        return "<b>–</b>".to_owned();
    }
    if bound {
        return format!("<b>≥ {}</b> rps", rate(rps));
    }
    let interval = of
        .and_then(|c| s.sample(c))
        .and_then(|x| x.interval_rps)
        .map_or(String::new(), |[lo, hi]| {
            format!("<small>{} to {}</small>", rate(lo), rate(hi))
        });
    format!("<b>{}</b> rps{interval}", rate(rps))
}

/// The gain and its interval, or that there is none.
fn difference(s: &Summary<'_>, d: &FinalDecision) -> String {
    if s.meta.about.required_rps.is_some() {
        return "<b>–</b><small>the cost decides, see above</small>".to_owned();
    }
    if !d.is_compared() {
        return "<b>–</b><small>too few rounds</small>".to_owned();
    }
    if d.at_least {
        return format!(
            "<b>≥ {} %</b><small>{} % or more ({} pairs)</small>",
            signed_percent(d.gain[1]),
            signed_percent(d.gain[0]),
            d.pairs
        );
    }
    format!(
        "<b>{} %</b><small>{} to {} % ({} pairs)</small>",
        signed_percent(d.gain[1]),
        signed_percent(d.gain[0]),
        signed_percent(d.gain[2]),
        d.pairs
    )
}

/// The weightiest warnings where they cannot be missed, and the way to the others.
fn first_warnings(s: &Summary<'_>) -> String {
    const SHOWN: usize = 2;
    let all = found(s);
    if all.is_empty() {
        return String::new();
    }
    let mut lines: String = all
        .iter()
        .take(SHOWN)
        .map(|w| format!("<li>{}</li>", esc(w, 240)))
        .collect();
    match all.len().saturating_sub(SHOWN) {
        0 => {}
        1 => lines.push_str("<li><a href=#warnings>1 more warning</a></li>"),
        n => {
            let _ = write!(lines, "<li><a href=#warnings>{n} more warnings</a></li>");
        }
    }
    format!("<ul class=first>{lines}</ul>")
}

fn sets(p: &Parameter) -> String {
    match &p.binding {
        Binding::Env(name) => name.clone(),
        Binding::Limit(Limit::Cpus) => "CPU limit".to_owned(),
        Binding::Limit(Limit::Memory) => "memory limit, MiB".to_owned(),
        Binding::Limit(Limit::CpuReservation) => "CPU reservation".to_owned(),
        Binding::Limit(Limit::MemoryReservation) => "memory reservation, MiB".to_owned(),
        Binding::Replicas => "instances".to_owned(),
        Binding::Unbound => String::new(),
    }
}

/// Today's and the recommended configuration side by side, with the lines to paste.
pub(super) fn configs(s: &Summary<'_>) -> String {
    let decided = s.decision.is_some() || s.ended().is_some();
    let (name, other) = match s.other() {
        _ if s.is_win() => ("recommended", s.recommended()),
        Some(c) if s.candidate() == Some(c) => ("best candidate (not recommended)", Some(c)),
        Some(c) if decided => ("best of the search (not recommended)", Some(c)),
        Some(c) => ("best so far (not confirmed)", Some(c)),
        None if decided => ("nothing better", None),
        None => ("best so far", None),
    };
    let mut rows = String::new();
    for p in &s.space.parameters {
        let show = |c: Option<&Config>| {
            c.and_then(|c| c.get(&p.name))
                .map_or("–".to_owned(), |v| esc(&v.to_string(), 120))
        };
        let (a, b) = (show(Some(&s.baseline)), show(other));
        let class = if a == b || other.is_none() {
            "same"
        } else {
            "changed"
        };
        let _ = write!(
            rows,
            "<tr class={class}><th scope=row>{}<small>{}</small><td class=n>{a}<td class=n>{b}</tr>",
            esc(&p.name, 80),
            esc(&sets(p), 120)
        );
    }
    let mut paste = String::new();
    if s.is_win() {
        let mut block = |title: &str, bytes: Vec<u8>| {
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<String> = text
                .lines()
                .filter(|l| !l.starts_with("# ") || l.starts_with("# limit"))
                .map(esc_code)
                .collect();
            let _ = write!(
                paste,
                "<div><h3>{title} <button type=button class=\"js copy\">copy</button></h3><pre>{}</pre></div>",
                lines.join("\n")
            );
        };
        block("recommended.env", recommended_env(s));
        if let Some(bytes) = compose_override(s) {
            block("docker-compose.recommended.yml", bytes);
        }
    }
    format!(
        "<section id=configs><h2>{}</h2><div class=scroll><table class=\"configs {}\"><thead><tr><th>parameter<th class=n>today<th class=n>{name}</tr></thead>\
         <tbody>{rows}</tbody></table></div><div class=paste>{paste}</div></section>",
        if s.is_win() {
            "What to change"
        } else {
            "Configuration"
        },
        verdict_class(s)
    )
}

/// A line of code: indentation stays.
fn esc_code(line: &str) -> String {
    let indent = line.len() - line.trim_start_matches(' ').len();
    format!("{}{}", " ".repeat(indent.min(40)), esc(line, 500))
}

/// What binds.
pub(super) fn binds(s: &Summary<'_>) -> String {
    let mut codes: Vec<(&str, usize)> = Vec::new();
    for b in s.rows.iter().filter_map(|r| r.binding.as_deref()) {
        match codes.iter_mut().find(|c| c.0 == b) {
            Some(c) => c.1 += 1,
            None => codes.push((b, 1)),
        }
    }
    codes.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let sentence = match &s.notes.binds {
        Some(b) => esc(b, 600),
        None => "Not judged yet: that is said at the end of a run.".to_owned(),
    };
    let over: String = codes
        .iter()
        .take(8)
        .map(|(code, n)| {
            format!(
                "<li><code>{}</code> in {n} of {} trials</li>",
                esc(code, 60),
                s.rows.len()
            )
        })
        .collect();
    let list = if over.is_empty() {
        over
    } else {
        format!("<ul class=binds>{over}</ul>")
    };
    format!("<section id=binds><h2>What binds</h2><p>{sentence}</p>{list}</section>")
}

/// The picker that lays one trial's curve over the others; without a script it has nothing to do.
pub(super) fn curve_picker(s: &Summary<'_>) -> String {
    let options: String = s
        .rows
        .iter()
        .zip(s.trials)
        .filter(|(_, t)| !t.probes.is_empty())
        .map(|(r, _)| {
            format!(
                "<option value={}>trial {}: {}</option>",
                r.trial,
                r.trial,
                esc(&r.config.to_string(), 90)
            )
        })
        .collect();
    format!(
        "<p class=note>{} <span class=key-all>every trial</span> <label class=js><span class=key-picked>lay over</span> <select id=over><option value=\"\">none</option>{options}</select></label></p>",
        legend(s)
    )
}

/// What the colours of every chart mean.
pub(super) fn legend(s: &Summary<'_>) -> String {
    let best = if s.is_win() { "recommended" } else { "best" };
    format!("<span class=key-today>today</span> <span class=key-best>{best}</span>")
}

/// The measured trial of `config` that speaks for it: of the finals where there are some, the middle one.
fn typical<'a>(s: &'a Summary<'_>, config: &Config) -> Option<&'a Row> {
    let of = |finals: bool| {
        let mut rows: Vec<&Row> = s
            .rows
            .iter()
            .filter(|r| r.config == *config && r.latency_ms.is_some() && r.rate_rps.is_some())
            .filter(|r| (r.phase == TrialPhase::Final) == finals)
            .collect();
        rows.sort_by(|a, b| a.rate_rps.unwrap_or(0.0).total_cmp(&b.rate_rps.unwrap_or(0.0)));
        rows.get(rows.len() / 2).copied()
    };
    of(true).or_else(|| of(false))
}

/// The figures of both configurations at the highest rate that each of them sustains.
pub(super) fn at_the_rate(s: &Summary<'_>) -> String {
    let title = "At the sustainable rate";
    let today = typical(s, &s.baseline);
    let best = s.other().and_then(|c| typical(s, c));
    if today.is_none() && best.is_none() {
        return String::new();
    }
    let mut lines = String::new();
    let mut line = |name: &str, of: &dyn Fn(&Row) -> Option<String>| {
        let (a, b) = (today.and_then(of), best.and_then(of));
        if a.is_some() || b.is_some() {
            let show = |x: Option<String>| x.unwrap_or_else(|| "–".to_owned());
            let _ = write!(
                lines,
                "<tr><th scope=row>{name}<td class=n>{}<td class=n>{}</tr>",
                show(a),
                show(b)
            );
        }
    };
    line("sustained, rps", &|r| r.rate_rps.map(rate));
    line("good answers/s", &|r| r.goodput_rps.map(rate));
    line("lost, %", &|r| r.error_ratio.map(percent));
    for (i, name) in ["p50, ms", "p95, ms", "p99, ms"].into_iter().enumerate() {
        line(name, &|r| {
            r.latency_ms.and_then(|l| l.get(i).map(|x| number(*x, 1)))
        });
    }
    line("CPU used, cores", &|r| r.cpu_used.map(|x| number(x, 2)));
    line("throttled, %", &|r| r.throttled_ratio.map(percent));
    line("memory peak, MiB", &|r| r.memory_peak_mb.map(|x| number(x, 0)));
    line("database connections, peak", &|r| {
        r.db_connections_peak.map(|x| number(x, 0))
    });
    line("cost", &|r| r.cost.map(|x| number(x, 3)));
    let name = if s.is_win() { "recommended" } else { "best" };
    let body = format!(
        "<div class=scroll><table class=rates><thead><tr><th><th class=n>today<th class=n>{name}</tr></thead><tbody>{lines}</tbody></table></div>"
    );
    let note = "Each at its own highest sustainable rate: the latency is that of a service at its limit, not of a usual day.";
    figure(title, note, &body, "rates")
}

/// All trials, sortable and filtered by the page's script.
pub(super) fn trial_table(s: &Summary<'_>) -> String {
    let mut columns: Vec<(&str, &str)> = vec![("trial", "n"), ("phase", ""), ("outcome", ""), ("rps", "n")];
    columns.extend(s.space.parameters.iter().map(|p| (p.name.as_str(), "n")));
    columns.extend(["lost %", "p50 ms", "p99 ms", "cost"].map(|name| (name, "n")));
    columns.extend([("curve", "curve"), ("binds", ""), ("remarks", "")]);
    let mut head = String::new();
    for (name, class) in columns {
        let name = esc(name, 60);
        let _ = match class {
            "curve" => write!(head, "<th>{name}</th>"),
            _ => write!(
                head,
                "<th class=\"{class}\" aria-sort=none><button type=button>{name}</button></th>"
            ),
        };
    }
    let top = highest_offered(s);
    let mut body = String::new();
    for (r, t) in s.rows.iter().zip(s.trials) {
        let thumb = if r.phase == TrialPhase::Final {
            String::new()
        } else {
            thumbnail(t, top)
        };
        row(&mut body, s, r, t, &thumb);
    }
    format!(
        "<section id=trials><h2>All trials</h2><p class=\"js controls\"><label>Filter <input id=filter type=search placeholder=\"text, or outcome\"></label> \
         <label>Outcome <select id=outcome><option value=\"\">all</option><option>measured<option>failed<option>infrastructure<option>interrupted<option>open</select></label> \
         <span id=count role=status></span></p><div class=\"scroll tall\"><table id=table class=trials><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>"
    )
}

/// How a trial ended, and the reason where nothing was measured, as HTML; and the remarks where something was.
fn outcome(r: &Row, t: &Trial) -> (String, String) {
    let reason = esc(&r.reason, REASON);
    let (word, reason, remarks) = match &t.outcome {
        Some(Outcome::Measured { .. }) | None => (r.outcome.to_owned(), String::new(), reason),
        Some(Outcome::Failed { failure, .. }) => {
            let kind = failure.name();
            let why = reason
                .strip_prefix(&format!("{kind}: "))
                .map_or(reason.clone(), str::to_owned);
            (format!("failed: {kind}"), why, String::new())
        }
        Some(_) => (r.outcome.to_owned(), reason, String::new()),
    };
    if reason.is_empty() {
        (word, remarks)
    } else {
        (format!("{word}<small>{reason}</small>"), remarks)
    }
}

fn row(out: &mut String, s: &Summary<'_>, r: &Row, t: &Trial, thumb: &str) {
    let mark = match () {
        () if r.config == s.baseline => " class=today",
        () if s.is_win() && s.recommended() == Some(&r.config) => " class=best",
        () => "",
    };
    let round = r.round.map_or(String::new(), |n| format!(" {n}"));
    let bound = match r.verdict {
        "at_most" => "≤ ",
        "at_least" | "generator_limited" => "≥ ",
        _ => "",
    };
    let rps = r.rate_rps.map_or(String::new(), |x| {
        let interval = r.interval_rps.map_or(String::new(), |[lo, hi]| {
            format!(" title=\"{} to {}\"", rate(lo), rate(hi))
        });
        format!("<span{interval}>{bound}{}</span>", rate(x))
    });
    let (outcome, remarks) = outcome(r, t);
    let _ = write!(
        out,
        "<tr data-o={}{mark}><td class=n>{}<td>{}{round}<td>{}<td class=n data-v=\"{}\">{rps}",
        r.outcome,
        r.trial,
        r.phase.name(),
        outcome,
        maybe(r.rate_rps, 3)
    );
    for p in &s.space.parameters {
        let v = r
            .config
            .get(&p.name)
            .map_or(String::new(), |v| esc(&v.to_string(), 60));
        let _ = write!(out, "<td class=n>{v}");
    }
    let _ = write!(
        out,
        "<td class=n>{}<td class=n>{}<td class=n>{}<td class=n>{}<td>{thumb}<td>{}<td>{}",
        r.error_ratio.map_or(String::new(), percent),
        maybe(r.latency_ms.map(|l| l[0]), 1),
        maybe(r.latency_ms.map(|l| l[2]), 1),
        maybe(r.cost, 3),
        r.binding.as_deref().map_or(String::new(), |b| esc(b, 40)),
        remarks
    );
    out.push_str("</tr>\n");
}

/// What a reader must know.
pub(super) fn warnings(s: &Summary<'_>) -> String {
    let all: String = found(s)
        .iter()
        .map(|w| format!("<li>{}</li>", esc(w, 500)))
        .collect();
    let body = if all.is_empty() {
        "<p>None.</p>".to_owned()
    } else {
        format!("<ul>{all}</ul>")
    };
    format!("<section id=warnings><h2>Warnings</h2>{body}</section>")
}

/// How it was measured.
pub(super) fn about(s: &Summary<'_>) -> String {
    let mut lines = String::new();
    let mut line = |k: &str, v: &str| {
        if !v.is_empty() {
            let _ = write!(lines, "<tr><th scope=row>{}<td>{}</tr>", esc(k, 60), esc(v, 600));
        }
    };
    let about = &s.meta.about;
    line("objective", &objective_words(&about.slo));
    if let Some(x) = about.required_rps {
        line("required rate", &format!("{} rps, at the lowest cost", rate(x)));
    }
    line("requests", &about.requests.join(", "));
    line(
        "service",
        about
            .service
            .as_deref()
            .or(about.container.as_deref())
            .unwrap_or(&about.kind),
    );
    if about.confirm_s > 0.0 {
        line(
            "confirmation window",
            &format!("{} s", number(about.confirm_s, 0)),
        );
    }
    let rules: Vec<String> = s
        .space
        .constraints
        .iter()
        .map(|c| c.that.text().to_owned())
        .collect();
    line("constraints", &rules.join("; "));
    line("cost", s.space.cost.as_ref().map_or("", |c| c.text()));
    line("trials", &s.rows.len().to_string());
    line(
        "probes",
        &s.trials.iter().map(|t| t.probes.len()).sum::<usize>().to_string(),
    );
    line("begun", &s.meta.created_at);
    line("image", &s.meta.identity);
    line("hosts", &s.hosts().join(", "));
    line("seed", &s.meta.seed.to_string());
    line("space hash", &s.meta.spec_hash);
    for (k, v) in s.notes.environment.iter().take(60) {
        line(k, v);
    }
    line("tool", &format!("autotune {}", s.meta.version));
    format!(
        "<section id=about><h2>How it was measured</h2><p class=note>Open loop: requests are sent on a schedule, whatever the service answers, and \
         latency counts from the scheduled time. A rate is sustainable when a confirmation window of full length kept the objective; what was still in \
         flight at its end counts as lost, beyond what a service without a queue has in flight.</p><div class=scroll><table class=about><tbody>{lines}</tbody></table></div></section>"
    )
}
