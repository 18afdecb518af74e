//! Ratios kept from an earlier run, and the comparison with them.
//!
//! Only ratios of things measured side by side are kept: absolute numbers belong to one machine and
//! one day.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::report::{Kind, Metric, Report, RunFacts};
use crate::stats::Spread;

/// How much worse than the worst kept ratio is still no regression.
const TOLERANCE: f64 = 0.15;
/// Version of the file's format.
const FORMAT: u32 = 1;

/// The file's content.
#[derive(Debug, Serialize, Deserialize)]
pub struct Baseline {
    format: u32,
    run: RunFacts,
    /// The machine of the last run that was kept.
    machine: Machine,
    /// By `scenario: metric`.
    ratios: BTreeMap<String, Kept>,
}

/// A kept ratio.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Kept {
    /// Over the rounds of the run.
    #[serde(flatten)]
    spread: Spread,
    /// The commit measured.
    commit: String,
}

/// A ratio that got worse.
#[derive(Debug, PartialEq)]
pub struct Regression {
    /// `scenario: metric`.
    pub metric: String,
    /// The worst round of the run that was kept.
    pub was: f64,
    /// The median found.
    pub is: f64,
}

/// Writes the ratios of `report` to `path`; ratios of scenarios that did not run stay as they are.
///
/// # Errors
/// When the file cannot be written, or holds ratios of runs of another kind.
pub fn save(path: &Path, report: &Report) -> Result<()> {
    let mut ratios = if path.exists() {
        load(path, &report.run)?.ratios
    } else {
        BTreeMap::new()
    };
    let kept = |metric: &Metric| Kept {
        spread: metric.spread,
        commit: report.machine.commit.clone(),
    };
    ratios.extend(comparable(&report.metrics).map(|metric| (key(metric), kept(metric))));
    let baseline = Baseline {
        format: FORMAT,
        run: report.run.clone(),
        machine: report.machine.clone(),
        ratios,
    };
    let text = serde_json::to_string_pretty(&baseline)? + "\n";
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Compares `report` with the ratios kept in `path`; returns how many were compared and which got
/// worse.
///
/// # Errors
/// When there is no such file, or it holds ratios of runs of another kind.
pub fn check(path: &Path, report: &Report) -> Result<(usize, Vec<Regression>)> {
    Ok(compare(&load(path, &report.run)?.ratios, &report.metrics))
}

fn load(path: &Path, run: &RunFacts) -> Result<Baseline> {
    let text = fs::read_to_string(path).with_context(|| {
        format!(
            "cannot read {}; make it with --save-baseline",
            path.display()
        )
    })?;
    let baseline: Baseline =
        serde_json::from_str(&text).with_context(|| format!("in {}", path.display()))?;
    ensure!(
        baseline.format == FORMAT,
        "{} has format {}, this program reads {FORMAT}; make it anew with --save-baseline",
        path.display(),
        baseline.format
    );
    ensure!(
        baseline.run == *run,
        "{} was made with {:?}, this run with {run:?}: their ratios say nothing about each other",
        path.display(),
        baseline.run
    );
    Ok(baseline)
}

/// The rounds of one run differ by what else the machine does, so what counts is that the median
/// leaves their range.
fn compare(kept: &BTreeMap<String, Kept>, metrics: &[Metric]) -> (usize, Vec<Regression>) {
    let mut compared = 0;
    let mut worse = Vec::new();
    for metric in comparable(metrics) {
        let Some(kept) = kept.get(&key(metric)) else {
            continue;
        };
        compared += 1;
        let is = metric.spread.median;
        let (was, fell) = match metric.kind {
            Kind::RatioLowerBetter => {
                let was = kept.spread.max;
                (was, is > was / (1.0 - TOLERANCE))
            }
            _ => {
                let was = kept.spread.min;
                (was, is < was * (1.0 - TOLERANCE))
            }
        };
        if fell {
            worse.push(Regression {
                metric: key(metric),
                was,
                is,
            });
        }
    }
    (compared, worse)
}

fn comparable(metrics: &[Metric]) -> impl Iterator<Item = &Metric> {
    metrics.iter().filter(|metric| {
        matches!(
            metric.kind,
            Kind::RatioHigherBetter | Kind::RatioLowerBetter
        )
    })
}

fn key(metric: &Metric) -> String {
    format!("{}: {}", metric.scenario, metric.name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Kept, compare};
    use crate::report::{Kind, Metric};
    use crate::stats::Spread;

    fn metric(name: &str, kind: Kind, value: f64) -> Metric {
        Metric {
            scenario: "s".to_owned(),
            name: name.to_owned(),
            unit: "",
            kind,
            values: vec![value],
            spread: Spread::of(&[value]).unwrap(),
            goal: None,
            met: None,
        }
    }

    fn kept(name: &str, values: &[f64]) -> BTreeMap<String, Kept> {
        let kept = Kept {
            spread: Spread::of(values).unwrap(),
            commit: "c".to_owned(),
        };
        BTreeMap::from([(format!("s: {name}"), kept)])
    }

    #[test]
    fn a_ratio_may_fall_15_percent_below_the_worst_round_and_no_further() {
        let kept = kept("speed", &[2.0, 2.6, 2.4]);
        let within = [metric("speed", Kind::RatioHigherBetter, 1.71)];
        assert_eq!(compare(&kept, &within), (1, vec![]));
        let beyond = [metric("speed", Kind::RatioHigherBetter, 1.69)];
        let (compared, worse) = compare(&kept, &beyond);
        assert_eq!((compared, worse.len()), (1, 1));
        assert_eq!(worse[0].metric, "s: speed");
    }

    #[test]
    fn where_less_is_better_the_ratio_may_not_rise() {
        let more = [metric("cost", Kind::RatioLowerBetter, 1.2)];
        assert_eq!(compare(&kept("cost", &[0.8, 1.0]), &more).1.len(), 1);
        let less = [metric("cost", Kind::RatioLowerBetter, 0.5)];
        assert_eq!(compare(&kept("cost", &[1.0]), &less).1.len(), 0);
    }

    #[test]
    fn absolute_numbers_and_unsteady_ratios_are_never_compared() {
        let metrics = [
            metric("rate", Kind::Absolute, 1.0),
            metric("tail", Kind::UnsteadyRatio, 1.0),
        ];
        let both: BTreeMap<_, _> = kept("rate", &[100.0])
            .into_iter()
            .chain(kept("tail", &[100.0]))
            .collect();
        assert_eq!(compare(&both, &metrics), (0, vec![]));
    }

    #[test]
    fn what_was_not_kept_is_not_compared() {
        let metrics = [metric("new", Kind::RatioHigherBetter, 0.1)];
        assert_eq!(compare(&BTreeMap::new(), &metrics), (0, vec![]));
    }
}
