//! Progress bars of running copies, on stderr and only when it is a terminal.

use std::collections::BTreeMap;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use repl_api::{ReplicaStatus, Status, Validation};

use crate::render;

/// One bar per replica that is being copied.
pub(crate) struct CopyBars {
    all: MultiProgress,
    bars: BTreeMap<String, ProgressBar>,
}

impl CopyBars {
    /// Bars on stderr; they draw nothing when it is not a terminal.
    pub(crate) fn new() -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        Self {
            all,
            bars: BTreeMap::new(),
        }
    }

    /// Shows the copies of `status`; bars of copies that have ended disappear.
    pub(crate) fn update(&mut self, status: &Status) {
        let copying = |name: &str| status.replica(name).is_some_and(|r| r.copy.is_some());
        self.bars.retain(|name, bar| {
            let keep = copying(name);
            if !keep {
                bar.finish_and_clear();
            }
            keep
        });
        for replica in &status.replicas {
            self.update_one(replica);
        }
    }

    fn update_one(&mut self, replica: &ReplicaStatus) {
        let Some(copy) = &replica.copy else { return };
        let all = &self.all;
        let bar = self
            .bars
            .entry(replica.name.clone())
            .or_insert_with(|| all.add(ProgressBar::new(0).with_style(style())));
        // Estimates can be too low; a bar must not run past its end.
        bar.set_length(copy.rows_estimate.unwrap_or(0).max(copy.rows_done));
        bar.set_position(copy.rows_done);
        bar.set_prefix(render::clean(&replica.name));
        bar.set_message(render::copy_summary(copy));
    }
}

/// The bar of a validation on a terminal; elsewhere a line per table.
pub(crate) struct ValidationBar {
    bar: ProgressBar,
    table: Option<String>,
}

impl ValidationBar {
    /// A bar on stderr.
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        Self {
            bar: bar.with_style(style()),
            table: None,
        }
    }

    /// Shows how far it is; once it has ended the bar disappears.
    pub(crate) fn update(&mut self, validation: &Validation) {
        let Some(progress) = &validation.progress else {
            self.bar.finish_and_clear();
            return;
        };
        let line = render::validation_progress(progress);
        if self.bar.is_hidden() {
            if progress.table.is_some() && progress.table != self.table {
                self.table.clone_from(&progress.table);
                eprintln!("{line}");
            }
            return;
        }
        let rows = progress.rows_done;
        // Estimates can be too low; a bar must not run past its end.
        self.bar
            .set_length(progress.rows_estimate.unwrap_or(0).max(rows));
        self.bar.set_position(rows);
        self.bar.set_message(line);
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix} {bar:30} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}
