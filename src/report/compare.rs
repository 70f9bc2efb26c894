//! Two studies side by side: whether the recommended config of one carries more than that of the other.

use statrs::distribution::{ContinuousCDF, StudentsT};

use super::text::{rate, signed_percent};
use super::{Sample, Summary};

/// What a comparison says.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Comparison {
    /// better, worse, same, unknown: the second study against the first.
    pub verdict: &'static str,
    /// Ratio of the rates less one, with its 95 % interval: lower end, point, upper end; None without finals.
    pub difference: Option<[f64; 3]>,
    /// The first study's rate, requests per second.
    pub first_rps: Option<f64>,
    /// The second's.
    pub second_rps: Option<f64>,
    /// What makes the two hard to compare.
    pub remarks: Vec<String>,
    /// All of it in a sentence.
    pub words: String,
}

/// Compares the recommended configs of two studies by their finals (Welch's t on the logarithms of the
/// rates: Welch 1947, degrees of freedom after Satterthwaite).
#[must_use]
pub fn compare(first: &Summary<'_>, second: &Summary<'_>) -> Comparison {
    let (a, b) = (rates(first), rates(second));
    let mean = |r: &[f64]| (!r.is_empty()).then(|| logs(r).0.exp());
    let difference = welch(&a, &b);
    let (verdict, words) = match difference {
        None => (
            "unknown",
            format!(
                "a comparison needs two rounds of finals of each recommendation; the first study has {}, the second {}. `autotune \
                 confirm` measures more.",
                a.len(),
                b.len()
            ),
        ),
        Some([lo, point, hi]) => {
            let verdict = if lo > 0.0 {
                "better"
            } else if hi < 0.0 {
                "worse"
            } else {
                "same"
            };
            let tail = if verdict == "same" {
                ": no difference beyond the noise"
            } else {
                ""
            };
            (
                verdict,
                format!(
                    "The second carries {}{} rps, the first {}{} rps: {} % (95 % interval {} to {} %){tail}.",
                    bound(second),
                    rate(mean(&b).unwrap_or(0.0)),
                    bound(first),
                    rate(mean(&a).unwrap_or(0.0)),
                    signed_percent(point),
                    signed_percent(lo),
                    signed_percent(hi)
                ),
            )
        }
    };
    Comparison {
        verdict,
        difference,
        first_rps: mean(&a),
        second_rps: mean(&b),
        remarks: remarks(first, second),
        words,
    }
}

/// The finals of what a study recommends.
fn recommended<'s>(s: &'s Summary<'_>) -> Option<&'s Sample> {
    s.sample(s.recommended()?)
}

fn rates(s: &Summary<'_>) -> Vec<f64> {
    recommended(s).map(|x| x.rates.clone()).unwrap_or_default()
}

/// The word before a rate that is only a lower bound.
fn bound(s: &Summary<'_>) -> &'static str {
    match recommended(s) {
        Some(x) if x.at_least => "at least ",
        _ => "",
    }
}

/// What makes the two hard to compare.
fn remarks(first: &Summary<'_>, second: &Summary<'_>) -> Vec<String> {
    let mut remarks = Vec::new();
    for section in ["sut", "load", "slo", "capacity"] {
        let of = |s: &Summary<'_>| s.meta.section_hashes.get(section).cloned();
        if of(first) != of(second) {
            remarks.push(format!("[{section}] differs: the rates may not mean the same"));
        }
    }
    // A study in which nothing was measured ran nowhere.
    if first.hosts() != second.hosts() && !first.hosts().is_empty() && !second.hosts().is_empty() {
        remarks.push("the studies ran on different hosts".to_owned());
    }
    if first.meta.identity != second.meta.identity {
        remarks.push("the image differs".to_owned());
    }
    for (name, s) in [("first", first), ("second", second)] {
        if !bound(s).is_empty() {
            remarks.push(format!(
                "the {name} study's recommendation reached the highest rate that could be offered: its rate is a lower bound"
            ));
        }
    }
    remarks
}

/// Mean and variance of the mean of the logarithms.
#[allow(clippy::cast_precision_loss)]
fn logs(rates: &[f64]) -> (f64, f64) {
    let n = rates.len() as f64;
    let mean = rates.iter().map(|r| r.ln()).sum::<f64>() / n;
    let var = rates.iter().map(|r| (r.ln() - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, var / n)
}

#[allow(clippy::cast_precision_loss)]
fn welch(a: &[f64], b: &[f64]) -> Option<[f64; 3]> {
    if a.len() < 2 || b.len() < 2 {
        return None;
    }
    let ((ma, va), (mb, vb)) = (logs(a), logs(b));
    let (na, nb) = (a.len() as f64, b.len() as f64);
    let d = mb - ma;
    let sum = va + vb;
    if sum <= 0.0 {
        return Some([d.exp_m1(); 3]);
    }
    let freedom = sum * sum / (va * va / (na - 1.0) + vb * vb / (nb - 1.0));
    let t = StudentsT::new(0.0, 1.0, freedom).ok()?.inverse_cdf(0.975);
    let half = t * sum.sqrt();
    Some([(d - half).exp_m1(), d.exp_m1(), (d + half).exp_m1()])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks when the degrees of freedom or the standard error are wrong.
    #[test]
    fn welch_agrees_with_the_textbook() {
        let a = [100.0, 102.0, 98.0, 101.0, 99.5];
        let b = [122.0, 121.0, 124.0, 123.0];
        let [lo, point, hi] = welch(&a, &b).unwrap();
        assert!(lo < point && point < hi);
        assert!((point.ln_1p() - (logs(&b).0 - logs(&a).0)).abs() < 1e-12);
        let half = (hi.ln_1p() - lo.ln_1p()) / 2.0;
        // Student's quantile at about 7 degrees of freedom is 2.37.
        let se = (logs(&a).1 + logs(&b).1).sqrt();
        assert!((half / se - 2.37).abs() < 0.03, "{}", half / se);
        assert_eq!(welch(&a, &b[..1]), None);
    }
}
