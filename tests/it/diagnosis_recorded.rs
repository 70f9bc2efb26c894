//! What was measured on the real stack (tests/fixtures/diagnosis, made by `diagnosis_stack` with AUTOTUNE_RECORD set),
//! judged again: no stack, no time. `busy_machine_` was made on two cores that others kept full: it staged a pool too large,
//! but got too little CPU to reach it, so it must be said that others use the machine, as a guess. The rest are of a quiet
//! machine. There the same scene met the database's two CPUs at two active backends, long before the size of the pool
//! mattered, and is not recorded: `make diagnosis` names the database, of medium confidence.

use std::fs;

use autotune::diagnosis::{Code, Confidence, Evidence, Facts, diagnose};
use autotune::trial::Probe;

#[derive(serde::Deserialize)]
struct Recorded {
    code: Code,
    facts: Facts,
    probes: Vec<Probe>,
}

fn recorded() -> Vec<(String, Recorded)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/diagnosis");
    let mut all: Vec<(String, Recorded)> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (
                name,
                serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap(),
            )
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

#[test]
fn every_recorded_constraint_is_named_and_none_wrongly_with_certainty() {
    let all = recorded();
    assert!(all.len() >= 11, "only {} recordings", all.len());
    let (mut wrong, mut certain) = (Vec::new(), Vec::new());
    for (name, r) in &all {
        let d = diagnose(&Evidence {
            probes: &r.probes,
            facts: &r.facts,
        });
        println!("{name}: {} {} ({})", d.code.id(), d.sentence, d.confidence.name());
        if d.code != r.code {
            wrong.push(format!("{name}: {} instead of {}", d.code.name(), r.code.name()));
            if d.confidence == Confidence::High {
                certain.push(format!("{name}: {d:#?}"));
            }
        }
    }
    assert!(certain.is_empty(), "wrong with certainty: {certain:?}");
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn part_of_the_evidence_never_makes_a_wrong_code_certain() {
    for (name, r) in recorded() {
        // Without any one kind of telemetry, and with only the first probes of the search.
        for gone in [
            "cpu",
            "process_",
            "pool_",
            "db_",
            "redis_",
            "host_",
            "throttled",
            "oom",
            "",
        ] {
            let mut probes = r.probes.clone();
            for p in &mut probes {
                p.telemetry.retain(|k, _| gone.is_empty() || !k.starts_with(gone));
            }
            for n in 0..=probes.len() {
                let d = diagnose(&Evidence {
                    probes: &probes[..n],
                    facts: &r.facts,
                });
                let right = d.code == r.code || d.code == Code::NotReached;
                assert!(
                    right || d.confidence < Confidence::High,
                    "{name} without `{gone}*`, {n} probes: {d:#?}"
                );
            }
        }
    }
}
