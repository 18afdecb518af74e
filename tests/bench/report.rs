//! The result: metrics with their spreads and goals, as text and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use crate::goals::{Goal, goal_of};
use crate::machine::Machine;
use crate::stats::{Spread, ratios};

/// What a number is, and so what it may be compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// In a unit of its own; says something about this machine only.
    Absolute,
    /// Of two things measured side by side, more is better. Comparable between runs.
    RatioHigherBetter,
    /// Of two things measured side by side, less is better. Comparable between runs.
    RatioLowerBetter,
    /// A ratio that rests on a few extreme values: shown, never compared between runs.
    UnsteadyRatio,
}

/// One measured quantity.
#[derive(Debug, Clone, Serialize)]
pub struct Metric {
    /// The scenario it belongs to.
    pub scenario: String,
    /// What it is, unique within the scenario.
    pub name: String,
    /// Unit of the values; empty for ratios.
    pub unit: &'static str,
    /// What it is comparable with.
    pub kind: Kind,
    /// One value per round.
    pub values: Vec<f64>,
    /// Their spread.
    pub spread: Spread,
    /// What is aimed at.
    pub goal: Option<Goal>,
    /// Whether the median reaches the goal.
    pub met: Option<bool>,
}

/// Everything one run found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Facts of the machine and the program.
    pub machine: Machine,
    /// How the run was called: volumes and transport.
    pub run: RunFacts,
    /// What is set, by server and setting, as the servers themselves report it.
    pub settings: Vec<(String, String)>,
    /// The numbers.
    pub metrics: Vec<Metric>,
    /// What a reader should know about them.
    pub notes: Vec<String>,
    /// Scenarios that could not be measured to their end, with the reason.
    pub failures: Vec<String>,
}

/// What must be equal for two runs' ratios to be comparable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct RunFacts {
    /// Whether volumes were a tenth.
    pub quick: bool,
    /// `tcp` or `unix`.
    pub transport: String,
    /// How our side commits at PostgreSQL replicas: `asynchronous`, `durable` or `default`.
    pub commit: String,
}

impl Report {
    /// An empty one.
    pub fn new(machine: Machine, run: RunFacts) -> Self {
        Self {
            machine,
            run,
            settings: Vec::new(),
            metrics: Vec::new(),
            notes: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Adds a quantity in a unit; nothing when there are no values.
    pub fn absolute(&mut self, scenario: &str, name: &str, unit: &'static str, values: &[f64]) {
        self.add(scenario, name, unit, Kind::Absolute, values);
    }

    /// Adds the quotient of two series, round by round.
    pub fn ratio(&mut self, scenario: &str, name: &str, kind: Kind, over: &[f64], under: &[f64]) {
        self.add(scenario, name, "", kind, &ratios(over, under));
    }

    /// Adds a remark, once.
    pub fn note(&mut self, text: &str) {
        if !self.notes.iter().any(|known| known == text) {
            self.notes.push(text.to_owned());
        }
    }

    /// Notes that a scenario could not be measured to its end.
    pub fn failed(&mut self, scenario: &str, error: &anyhow::Error) {
        self.failures.push(format!("{scenario}: {error:#}"));
    }

    /// Adds a server's setting, once.
    pub fn setting(&mut self, name: &str, value: &str) {
        let entry = (name.to_owned(), value.to_owned());
        if !self.settings.contains(&entry) {
            self.settings.push(entry);
        }
    }

    /// The metrics found so far of `scenario`, as lines of text.
    pub fn scenario_text(&self, scenario: &str) -> String {
        let mut text = format!("\n{scenario}\n");
        for metric in self.metrics.iter().filter(|one| one.scenario == scenario) {
            let Spread { min, median, max } = metric.spread;
            let [min, median, max] = [min, median, max].map(rounded);
            let _ = write!(
                text,
                "  {:<44} {min:>11} {median:>11} {max:>11} {:<8}",
                metric.name, metric.unit
            );
            let verdict = match (metric.goal, metric.met) {
                (Some(goal), Some(met)) => goal_text(goal, met),
                _ => String::new(),
            };
            text = text.trim_end().to_owned() + &verdict + "\n";
        }
        text
    }

    /// The heading of the columns of [`Report::scenario_text`].
    pub fn columns() -> String {
        format!("  {:<44} {:>11} {:>11} {:>11}", "", "min", "median", "max")
    }

    /// Machine, settings and remarks.
    pub fn facts_text(&self) -> String {
        let mut text = self.machine.text();
        let _ = writeln!(
            text,
            "settings, equal on all PostgreSQL servers unless named:"
        );
        for (name, value) in &self.settings {
            let _ = writeln!(text, "  {name} = {value}");
        }
        for note in &self.notes {
            let _ = writeln!(text, "note: {note}");
        }
        for failure in &self.failures {
            let _ = writeln!(text, "FAILED {failure}");
        }
        text
    }

    fn add(&mut self, scenario: &str, name: &str, unit: &'static str, kind: Kind, values: &[f64]) {
        let Some(spread) = Spread::of(values) else {
            return;
        };
        let goal = goal_of(scenario, name);
        self.metrics.push(Metric {
            scenario: scenario.to_owned(),
            name: name.to_owned(),
            unit,
            kind,
            values: values.to_vec(),
            spread,
            goal,
            met: goal.map(|goal| goal.met(spread.median)),
        });
    }
}

fn goal_text(goal: Goal, met: bool) -> String {
    let bound = match goal {
        Goal::AtLeast(bound) => format!(">= {bound}"),
        Goal::AtMost(bound) => format!("<= {bound}"),
    };
    format!("  goal {bound}: {}", if met { "met" } else { "SHORT" })
}

/// As many digits as mean something: thousands in groups, small numbers with decimals.
fn rounded(value: f64) -> String {
    if value.abs() < 10.0 {
        return format!("{value:.3}");
    }
    if value.abs() < 1000.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 {
        format!("-{text}")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::rounded;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(rounded(1_234_567.4), "1,234,567");
        assert_eq!(rounded(1000.0), "1,000");
        assert_eq!(rounded(-1000.0), "-1,000");
        assert_eq!(rounded(999.94), "999.9");
        assert_eq!(rounded(0.1234), "0.123");
    }
}
