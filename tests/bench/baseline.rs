//! Ratios kept from an earlier run, and the comparison with them.
//!
//! Only ratios of things measured side by side are kept: absolute numbers belong to one machine and
//! one day.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::report::{Kind, Metric, Report, RunFacts};

/// How much worse than the kept ratio is still no regression.
const TOLERANCE: f64 = 0.15;

/// The file's content.
#[derive(Debug, Serialize, Deserialize)]
pub struct Baseline {
    run: RunFacts,
    /// The commit measured.
    commit: String,
    /// `scenario: metric` to the median ratio.
    ratios: BTreeMap<String, f64>,
}

/// A ratio that got worse.
#[derive(Debug, PartialEq)]
pub struct Regression {
    /// `scenario: metric`.
    pub metric: String,
    /// The kept ratio.
    pub was: f64,
    /// The ratio found.
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
    ratios.extend(comparable(&report.metrics).map(|metric| (key(metric), metric.spread.median)));
    let baseline = Baseline {
        run: report.run.clone(),
        commit: report.machine.commit.clone(),
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
        baseline.run == *run,
        "{} was made with {:?}, this run with {run:?}: their ratios say nothing about each other",
        path.display(),
        baseline.run
    );
    Ok(baseline)
}

fn compare(kept: &BTreeMap<String, f64>, metrics: &[Metric]) -> (usize, Vec<Regression>) {
    let mut compared = 0;
    let mut worse = Vec::new();
    for metric in comparable(metrics) {
        let Some(&was) = kept.get(&key(metric)) else {
            continue;
        };
        compared += 1;
        let is = metric.spread.median;
        let fell = match metric.kind {
            Kind::RatioLowerBetter => is > was / (1.0 - TOLERANCE),
            _ => is < was * (1.0 - TOLERANCE),
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

    use super::compare;
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

    fn kept(name: &str, value: f64) -> BTreeMap<String, f64> {
        BTreeMap::from([(format!("s: {name}"), value)])
    }

    #[test]
    fn a_ratio_may_fall_by_15_percent_and_no_further() {
        let within = [metric("speed", Kind::RatioHigherBetter, 1.71)];
        assert_eq!(compare(&kept("speed", 2.0), &within), (1, vec![]));
        let beyond = [metric("speed", Kind::RatioHigherBetter, 1.69)];
        let (compared, worse) = compare(&kept("speed", 2.0), &beyond);
        assert_eq!((compared, worse.len()), (1, 1));
        assert_eq!(worse[0].metric, "s: speed");
    }

    #[test]
    fn where_less_is_better_the_ratio_may_not_rise() {
        let more = [metric("cost", Kind::RatioLowerBetter, 1.2)];
        assert_eq!(compare(&kept("cost", 1.0), &more).1.len(), 1);
        let less = [metric("cost", Kind::RatioLowerBetter, 0.5)];
        assert_eq!(compare(&kept("cost", 1.0), &less).1.len(), 0);
    }

    #[test]
    fn absolute_numbers_and_unsteady_ratios_are_never_compared() {
        let metrics = [
            metric("rate", Kind::Absolute, 1.0),
            metric("tail", Kind::UnsteadyRatio, 1.0),
        ];
        let both: BTreeMap<_, _> = kept("rate", 100.0)
            .into_iter()
            .chain(kept("tail", 100.0))
            .collect();
        assert_eq!(compare(&both, &metrics), (0, vec![]));
    }

    #[test]
    fn what_was_not_kept_is_not_compared() {
        let metrics = [metric("new", Kind::RatioHigherBetter, 0.1)];
        assert_eq!(compare(&BTreeMap::new(), &metrics), (0, vec![]));
    }
}
