//! The status of a group at a glance.

use repl_api::{
    CopyProgress, Directive, ErrorInfo, IngestState, LogStatus, Membership, PrimaryState,
    PrimaryStatus, ReplicaStatus, Status, TableCopyProgress, TableCopyState, TableState, Validated,
};

use super::human::{age, bytes, clean, count, duration, rate, wrap};
use super::mode;
use super::replicas;
use super::style::{Tone, paint};
use super::{View, tables};

/// Columns of the labels at the left of the header.
const LABEL: usize = 10;

/// Between facts on one line.
const DOT: &str = " · ";

/// Renders the whole status: header, replicas, copies, errors, tables that are not replicated.
pub fn status(status: &Status, view: &View) -> String {
    let mut out = Out {
        text: String::new(),
        view,
    };
    header(status, &mut out);
    if let Some(first) = &status.configured_primary {
        let (first, now) = (clean(first), clean(&status.primary.name));
        out.line(&format!(
            "{now} is the primary since a promotion; the configuration names {first} as the first one"
        ));
    }
    out.blank();
    if status.replicas.is_empty() {
        out.line("no replicas");
    } else {
        out.text.push_str(&replicas::table(&status.replicas, view));
    }
    let copying = copies(&status.replicas, view);
    if !copying.is_empty() {
        out.blank();
        out.text.push_str(&copying);
    }
    for replica in &status.replicas {
        let joins = replica.membership != Membership::NeedsResync;
        if let Some(validated) = replica.validated.as_ref().filter(|_| joins) {
            out.line(&validated_line(&replica.name, validated, view));
        }
    }
    errors(status, &mut out);
    let pending: Vec<_> = status
        .tables
        .iter()
        .filter(|table| table.state != TableState::Replicated)
        .cloned()
        .collect();
    if !pending.is_empty() {
        out.blank();
        out.line(&paint("tables that are not replicated", Tone::Strong, view));
        out.text.push_str(&tables::tables(&pending, view));
    }
    out.text
}

/// One line about what comparisons with the primary found.
fn validated_line(replica: &str, validated: &Validated, view: &View) -> String {
    let when = age(validated.oldest_ms, view.now_ms);
    let tables = count(validated.tables);
    let name = clean(replica);
    if validated.different.is_empty() {
        return format!("{name}: {tables} tables found equal to the primary, the oldest {when}");
    }
    let different = clean(&validated.different.join(", "));
    let line = format!("{name}: differs from the primary in {different}: replctl validate --deep");
    paint(&line, Tone::Bad, view)
}

/// One line about a copy: what, how far, how fast, how long still.
pub fn copy_summary(copy: &CopyProgress) -> String {
    let mut facts = vec![format!(
        "{} of {} tables",
        count(copy.tables_done),
        count(copy.tables_total)
    )];
    match copy.rows_estimate {
        Some(estimate) if estimate > copy.rows_done => {
            let percent = copy.rows_done as f64 / estimate as f64 * 100.0;
            let (done, of) = (count(copy.rows_done), count(estimate));
            facts.push(format!("{done} of about {of} rows ({percent:.0} %)"));
        }
        _ => facts.push(format!("{} rows", count(copy.rows_done))),
    }
    if let Some(written) = copy.rows_written {
        facts.push(format!("{} differed", count(written)));
    }
    if copy.rows_per_s >= 0.05 {
        facts.push(format!("{} rows/s", rate(copy.rows_per_s)));
        if let Some(left) = copy.eta_s {
            facts.push(format!("about {} left", remaining((left * 1000.0) as u64)));
        }
    }
    if let Some(reason) = &copy.paused {
        facts.push(format!("waiting: {}", clean(reason)));
    }
    facts.join(DOT)
}

/// An estimated duration: not more exact than an estimate can be.
fn remaining(ms: u64) -> String {
    if ms < 60_000 {
        format!("{} s", ms.div_ceil(1000))
    } else {
        duration(ms)
    }
}

/// The text so far.
struct Out<'a> {
    text: String,
    view: &'a View,
}

impl Out<'_> {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn blank(&mut self) {
        self.text.push('\n');
    }

    /// A label and the facts under it, as many on a line as fit. An empty label continues the one before.
    fn facts(&mut self, label: &str, facts: &[(String, Tone)]) {
        let width = usize::from(self.view.width);
        let mut line = paint(&format!("{label:LABEL$}"), Tone::Strong, self.view);
        let mut used = LABEL;
        for (fact, tone) in facts {
            let length = fact.chars().count();
            if used > LABEL && used + DOT.chars().count() + length > width {
                self.line(&std::mem::replace(&mut line, " ".repeat(LABEL)));
                used = LABEL;
            }
            if used > LABEL {
                line.push_str(DOT);
                used += DOT.chars().count();
            }
            line.push_str(&paint(fact, *tone, self.view));
            used += length;
        }
        self.line(&line);
    }

    /// A label and one fact.
    fn fact(&mut self, label: &str, fact: String, tone: Tone) {
        self.facts(label, &[(fact, tone)]);
    }

    /// An indented field of an error, wrapped to the width.
    fn field(&mut self, label: &str, text: &str) {
        let width = usize::from(self.view.width).saturating_sub(LABEL).max(20);
        let mut label = paint(&format!("  {label:0$}", LABEL - 2), Tone::Dim, self.view);
        for line in wrap(text, width) {
            self.line(&format!("{label}{line}"));
            label = " ".repeat(LABEL);
        }
    }

    /// An indented field of commands: never wrapped, so that they can be copied.
    fn commands(&mut self, label: &str, text: &str) {
        let mut label = paint(&format!("  {label:0$}", LABEL - 2), Tone::Dim, self.view);
        for line in text.lines() {
            self.line(&format!("{label}{}", clean(line)));
            label = " ".repeat(LABEL);
        }
    }
}

fn header(status: &Status, out: &mut Out<'_>) {
    let now = out.view.now_ms;
    let group = [
        clean(&status.group),
        status.mode.to_string(),
        format!("epoch {}", status.epoch),
        format!("repl-daemon {}", clean(&status.daemon_version)),
        format!("pid {}", status.pid),
        format!("up {}", duration(now.saturating_sub(status.started_at_ms))),
    ];
    out.facts("group", &group.map(plain));
    if let Some(commits) = &status.commits {
        let facts = mode::facts(commits, now);
        if !facts.is_empty() {
            out.facts("commits", &facts);
        }
        for problem in &commits.problems {
            out.fact("", clean(&problem.what), Tone::Bad);
            out.commands("do:", &problem.remedy);
        }
    }
    primary(&status.primary, out);
    log(&status.log, out);
    tables_line(status, out);
    for alert in &status.alerts {
        out.fact("alert", clean(alert), Tone::Bad);
    }
}

fn primary(primary: &PrimaryStatus, out: &mut Out<'_>) {
    let who = [
        clean(&primary.name),
        clean(&primary.engine),
        clean(&primary.endpoint),
    ];
    out.facts("primary", &who.map(plain));
    let tone = match primary.state {
        PrimaryState::Streaming => Tone::Good,
        PrimaryState::Connecting | PrimaryState::Verifying => Tone::Warn,
        _ => Tone::Bad,
    };
    let mut facts = vec![(primary.state.to_string(), tone)];
    let position = |label: &str, position: &Option<String>| {
        position
            .as_ref()
            .map(|at| plain(format!("{label} {}", clean(at))))
    };
    facts.extend(position("captured", &primary.captured_position));
    if primary.durable_position != primary.captured_position {
        facts.extend(position("durable", &primary.durable_position));
    }
    if primary.acked_position != primary.durable_position {
        facts.extend(position("acked", &primary.acked_position));
    }
    if primary.server_position != primary.captured_position {
        facts.extend(position("server at", &primary.server_position));
    }
    let (tx, rows) = (rate(primary.tx_per_s), rate(primary.rows_per_s));
    facts.push(plain(format!("{tx} tx/s, {rows} rows/s")));
    if let Some(heard) = primary.last_event_ms {
        facts.push(plain(format!("heard {}", age(heard, out.view.now_ms))));
    }
    if let Some(retained) = primary.retained_bytes {
        facts.push(plain(format!("WAL held {}", bytes(retained))));
    }
    out.facts("", &facts);
}

fn log(log: &LogStatus, out: &mut Out<'_>) {
    let mut facts = Vec::new();
    if log.first_seq <= log.durable_seq {
        facts.push(plain(format!(
            "transactions {} to {}",
            log.first_seq, log.durable_seq
        )));
    } else {
        facts.push(plain(format!(
            "empty after transaction {}",
            log.durable_seq
        )));
    }
    let segments = if log.segments == 1 {
        "segment"
    } else {
        "segments"
    };
    let (size, number) = (bytes(log.size_bytes), count(log.segments));
    facts.push(plain(format!("{size} in {number} {segments}")));
    if let Some(oldest) = log.oldest_commit_ms {
        facts.push(plain(format!("oldest {}", age(oldest, out.view.now_ms))));
    }
    out.facts("log", &facts);
    if log.ingest_state != IngestState::Ok {
        let why = log.ingest_reason.as_deref().unwrap_or("no reason given");
        let paused = format!("ingest {}: {}", log.ingest_state, clean(why));
        out.fact("", paused, Tone::Bad);
    }
}

fn tables_line(status: &Status, out: &mut Out<'_>) {
    let states = [
        (TableState::Replicated, Tone::Plain),
        (TableState::New, Tone::Warn),
        (TableState::Refused, Tone::Bad),
        (TableState::Missing, Tone::Bad),
    ];
    let mut facts = Vec::new();
    for (state, tone) in states {
        let n = status
            .tables
            .iter()
            .filter(|table| table.state == state)
            .count();
        if n > 0 {
            facts.push((format!("{} {state}", count(n as u64)), tone));
        }
    }
    if facts.is_empty() {
        facts.push(("none matches the selection".to_owned(), Tone::Warn));
    }
    out.facts("tables", &facts);
}

fn plain(fact: String) -> (String, Tone) {
    (fact, Tone::Plain)
}

/// The copies under way, each with the tables being copied; empty when there is none.
pub fn copies(replicas: &[ReplicaStatus], view: &View) -> String {
    let mut out = Out {
        text: String::new(),
        view,
    };
    for replica in replicas {
        if let Some(copy) = &replica.copy {
            one_copy(replica, copy, &mut out);
        }
    }
    out.text
}

fn one_copy(replica: &ReplicaStatus, copy: &CopyProgress, out: &mut Out<'_>) {
    let title = format!("{} is being copied", clean(&replica.name));
    out.line(&paint(&title, Tone::Strong, out.view));
    if let Some(estimate) = copy.rows_estimate.filter(|rows| *rows > 0) {
        let fraction = copy.rows_done as f64 / estimate as f64;
        out.line(&format!("  {}", bar(fraction, 40)));
    }
    out.line(&format!("  {}", copy_summary(copy)));
    for table in &copy.tables {
        out.line(&format!("  {}", table_summary(table)));
    }
}

/// One line about a table being copied.
fn table_summary(table: &TableCopyProgress) -> String {
    let name = clean(&table.table);
    let rows = match table.rows_estimate {
        Some(estimate) if estimate > table.rows_done => {
            let percent = table.rows_done as f64 / estimate as f64 * 100.0;
            let (done, of) = (count(table.rows_done), count(estimate));
            format!("{done} of about {of} rows ({percent:.0} %)")
        }
        _ => format!("{} rows", count(table.rows_done)),
    };
    match table.state {
        TableCopyState::Indexing => format!("{name}: {rows}, making key and indexes"),
        _ => format!("{name}: {rows}"),
    }
}

/// A bar of `cells` characters, filled to `fraction`.
fn bar(fraction: f64, cells: usize) -> String {
    let filled = ((fraction.clamp(0.0, 1.0) * cells as f64) as usize).min(cells);
    format!("{}{}", "█".repeat(filled), "░".repeat(cells - filled))
}

/// Every error in full, then what else waits for the operator.
fn errors(status: &Status, out: &mut Out<'_>) {
    let primary = &status.primary;
    let name = format!("primary {}", clean(&primary.name));
    let mut past = Vec::new();
    match (&primary.refusal, &primary.last_error) {
        (Some(refusal), _) => full_error(&name, refusal, Some(MEND), out),
        (None, Some(error)) if error.past || primary.state == PrimaryState::Streaming => {
            past.push((name, error));
        }
        (None, Some(error)) => full_error(&name, error, None, out),
        (None, None) => {}
    }
    for replica in &status.replicas {
        let name = clean(&replica.name);
        match (replicas::present_error(replica), &replica.last_error) {
            (Some(error), _) => full_error(&name, error, None, out),
            (None, error) => {
                hint(replica, out);
                if let Some(error) = error {
                    past.push((name, error));
                }
            }
        }
    }
    let now = out.view.now_ms;
    past.retain(|(_, error)| now.saturating_sub(error.at_ms) < PAST_SHOWN_MS);
    for (name, error) in past {
        past_error(&name, error, out);
    }
}

/// How long an error that is overcome is still mentioned.
const PAST_SHOWN_MS: u64 = 24 * 3_600_000;

/// What becomes of an error that stops the capture.
const MEND: &str = "needs you; it is tried again by itself";

fn full_error(name: &str, error: &ErrorInfo, outlook: Option<&str>, out: &mut Out<'_>) {
    let outlook = outlook.unwrap_or(match error.directive {
        Directive::Retry => "it is tried again by itself",
        Directive::Pause => "paused until you decide",
        Directive::Stop => "stopped",
        Directive::Unknown => "see the daemon's log",
    });
    let mut title = vec![
        format!(
            "{name}: {} error {}",
            error.kind,
            age(error.at_ms, out.view.now_ms)
        ),
        outlook.to_owned(),
    ];
    if error.attempts > 1 {
        title.push(format!("{} attempts", count(error.attempts.into())));
    }
    out.blank();
    let tone = if error.directive == Directive::Retry {
        Tone::Warn
    } else {
        Tone::Bad
    };
    out.line(&paint(&title.join(DOT), tone, out.view));
    out.field("what", &clean(&error.message));
    let place = place(error);
    if !place.is_empty() {
        out.field("where", &place.join(DOT));
    }
    out.commands("do", &error.advice);
}

fn place(error: &ErrorInfo) -> Vec<String> {
    let mut place = Vec::new();
    if let Some(tx) = &error.transaction {
        let (id, position) = (clean(&tx.source_txid), clean(&tx.position));
        place.push(format!(
            "transaction {} (source id {id}, position {position})",
            tx.seq
        ));
    }
    let named = |label: &str, text: &Option<String>| {
        text.as_ref().map(|text| format!("{label} {}", clean(text)))
    };
    place.extend(named("table", &error.table));
    place.extend(named("key", &error.key));
    place.extend(named("code", &error.database_code));
    place
}

/// An error that has been overcome: one line.
fn past_error(name: &str, error: &ErrorInfo, out: &mut Out<'_>) {
    out.blank();
    let at = age(error.at_ms, out.view.now_ms);
    let title = format!(
        "{name}: recovered from {} {} error {at}",
        article(error),
        error.kind
    );
    out.line(&paint(&title, Tone::Dim, out.view));
    out.field("what", &clean(&error.message));
}

fn article(error: &ErrorInfo) -> &'static str {
    match error.kind.as_str().starts_with(['a', 'e', 'i', 'o', 'u']) {
        true => "an",
        false => "a",
    }
}

/// What the operator can do about a state that no error explains.
fn hint(replica: &ReplicaStatus, out: &mut Out<'_>) {
    let name = clean(&replica.name);
    let (what, verb) = match replica.membership {
        _ if !replica.enabled => return,
        Membership::Paused => ("paused by order", "resume"),
        Membership::Diverged => ("may differ from the primary", "resync"),
        Membership::NeedsResync => ("no longer joined to the log", "resync"),
        _ => return,
    };
    out.blank();
    let since = match replica.since_ms {
        0 => String::new(),
        since => format!(" since {}", repl_api::format_utc(since)),
    };
    out.line(&paint(
        &format!("{name}: {what}{since}"),
        Tone::Warn,
        out.view,
    ));
    out.commands("do", &format!("replctl {verb} {name}"));
}
