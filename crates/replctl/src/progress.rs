//! Progress bars of running copies, on stderr and only when it is a terminal.

use std::collections::BTreeMap;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use repl_api::{ReplicaStatus, Status};

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

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix} {bar:30} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}
