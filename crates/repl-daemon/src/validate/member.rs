//! A replica as a validation sees it, and one of its tables.

use std::sync::Arc;

use repl_api::{TableValidation, Verdict};
use repl_connectors::content::{Content, ContentColumn, ContentSource};
use repl_connectors::seam::SourceTable;
use repl_core::change::Change;
use repl_core::convert::TablePlan;
use repl_core::row::Row;
use repl_core::schema::{TableName, TableSchema};
use repl_core::select::Routing;
use repl_core::validate::canon::Canon;
use repl_core::validate::changes::Changes;
use repl_core::validate::delta::Delta;

use super::cut::View;
use crate::conversion::{self, Conversion};
use crate::replica::Replica;

/// What is needed to look at a replica.
pub struct Member {
    /// The replica.
    pub replica: Arc<Replica>,
    /// Opens views of it.
    pub contents: Arc<dyn ContentSource>,
    /// Names there.
    pub routing: Routing,
    /// How rows of other engines' tables are converted for it.
    pub conversion: Arc<Conversion>,
}

/// Why a table was not compared.
#[derive(Debug)]
pub struct Stopped {
    /// What is known.
    pub report: TableValidation,
    /// Another cut may tell.
    pub again: bool,
}

/// How the rows of one table become what one replica should hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Form {
    plan: Option<TablePlan>,
    /// Their shape at the replica.
    pub schema: Arc<TableSchema>,
    /// Their canonical form.
    pub canon: Canon,
}

/// One table at one replica, ready to be compared.
pub struct Subject {
    /// Names, sequence and columns so far.
    pub report: TableValidation,
    /// Name at the replica.
    pub target: TableName,
    /// The form of its rows.
    pub form: Form,
    /// What changed between the primary's snapshot and the replica's point.
    pub delta: Delta,
}

impl Form {
    fn new(schema: &TableSchema, conversion: &Conversion) -> Result<Form, String> {
        let plan = conversion.converts(schema).then(|| conversion.plan(schema));
        let plan = plan.transpose().map_err(|error| error.message)?;
        let target = plan.as_ref().map_or(schema, TablePlan::schema);
        Ok(Form {
            canon: Canon::new(target, &schema.engine),
            schema: Arc::new(target.clone()),
            plan,
        })
    }

    /// What the replica should hold of a row of the primary, in canonical form.
    pub fn expected(&self, row: &Row) -> Result<Row, String> {
        let converted = match &self.plan {
            Some(plan) => &plan.row(row).map_err(|error| {
                format!(
                    "the primary's value of column {} {}",
                    error.column, error.reason
                )
            })?,
            None => row,
        };
        self.canon.row(converted).map_err(|error| error.to_string())
    }

    /// A change of the primary as the replica gets it.
    pub fn change(&self, change: &Change) -> Result<Change, String> {
        match &self.plan {
            Some(plan) => conversion::change(plan, change.clone()).map_err(|e| e.to_string()),
            None => Ok(change.clone()),
        }
    }

    /// Names of the columns at the replica.
    pub fn columns(&self) -> Vec<String> {
        let columns = self.schema.columns.iter();
        columns.map(|column| column.name.clone()).collect()
    }
}

/// The report of a table that cannot be compared.
pub fn undetermined(table: &TableName, target: &str, reason: impl Into<String>) -> TableValidation {
    TableValidation {
        table: table.to_string(),
        target: target.to_owned(),
        verdict: Verdict::Undetermined,
        reason: Some(reason.into()),
        ..TableValidation::default()
    }
}

impl Subject {
    /// Looks whether a table can be compared at this view; `schema` is its present shape at the
    /// primary.
    pub async fn prepare(
        member: &Member,
        view: &mut View,
        table: &SourceTable,
        schema: &TableSchema,
        changes: &Changes,
    ) -> Result<Subject, Stopped> {
        let target = member.routing.target(&table.name);
        let target = target.unwrap_or_else(|| table.name.clone());
        let shown = target.to_string();
        let stop = |again, reason: String| Stopped {
            report: TableValidation {
                seq: Some(view.checkpoint.seq.0),
                ..undetermined(&table.name, &shown, reason)
            },
            again,
        };
        held(view.content.as_ref(), table).map_err(|(again, reason)| stop(again, reason))?;
        let form = Form::new(schema, &member.conversion);
        let form = form.map_err(|reason| stop(false, reason))?;
        let columns = view.content.columns(&target).await;
        let columns = columns.map_err(|error| stop(true, error.message))?;
        let report = TableValidation {
            table: table.name.to_string(),
            target: shown.clone(),
            seq: Some(view.checkpoint.seq.0),
            excluded_columns: excluded(schema, &form),
            ..TableValidation::default()
        };
        let report = fitting(report, &form, &columns)?;
        let delta = delta(&form, table, view, schema, changes);
        let delta = delta.map_err(|reason| stop(true, reason))?;
        Ok(Subject {
            report,
            target,
            form,
            delta,
        })
    }
}

/// Whether the replica holds the rows of just this table, and where they join the stream.
fn held(content: &dyn Content, table: &SourceTable) -> Result<(), (bool, String)> {
    let Some(copied) = content.state().tables.get(&table.name) else {
        return Err((false, "it is not copied yet".to_owned()));
    };
    if copied.incarnation != table.incarnation {
        return Err((
            false,
            "it was made anew at the primary and is not copied yet".to_owned(),
        ));
    }
    match copied.cut {
        Some(_) => Err((true, "its copy has not joined the stream yet".to_owned())),
        None => Ok(()),
    }
}

fn excluded(schema: &TableSchema, form: &Form) -> Vec<String> {
    let kept = form.columns();
    let names = schema.columns.iter().map(|column| column.name.clone());
    names.filter(|name| !kept.contains(name)).collect()
}

/// Compares the columns; lacking ones are a difference.
fn fitting(
    mut report: TableValidation,
    form: &Form,
    columns: &[ContentColumn],
) -> Result<TableValidation, Stopped> {
    let names = form.columns();
    let same = |a: &str, b: &str| a == b || a.to_lowercase() == b.to_lowercase();
    let lacking = names
        .iter()
        .filter(|name| !columns.iter().any(|column| same(&column.name, name)));
    report.missing_columns = lacking.cloned().collect();
    let own = columns
        .iter()
        .filter(|column| !column.generated && !names.iter().any(|name| same(&column.name, name)));
    report.extra_columns = own.map(|column| column.name.clone()).collect();
    let stored = |name: &&String| {
        let mut here = columns.iter();
        here.any(|column| !column.generated && same(&column.name, name))
    };
    let generated = form.schema.generated.iter().map(|column| &column.name);
    let ordinary: Vec<&str> = generated.filter(stored).map(String::as_str).collect();
    if !ordinary.is_empty() {
        report.verdict = Verdict::Different;
        report.reason = Some(format!(
            "the primary generates columns that are ordinary ones here, with no values of the \
             primary's: {}",
            ordinary.join(", ")
        ));
        return Err(Stopped {
            report,
            again: false,
        });
    }
    let other = form.schema.columns.iter().find(|column| {
        let mut here = columns.iter().filter(|one| one.name == column.name);
        column.composites.is_some() && here.any(|one| one.composites != column.composites)
    });
    if let Some(column) = other {
        report.verdict = Verdict::Different;
        report.reason = Some(format!(
            "the composite type of column {} has other attributes than at the primary",
            column.name
        ));
        return Err(Stopped {
            report,
            again: false,
        });
    }
    if report.missing_columns.is_empty() {
        return Ok(report);
    }
    report.verdict = Verdict::Different;
    report.reason = Some(if columns.is_empty() {
        report.missing_columns.clear();
        "the replica has no such table".to_owned()
    } else {
        format!(
            "the replica lacks columns: {}",
            report.missing_columns.join(", ")
        )
    });
    Err(Stopped {
        report,
        again: false,
    })
}

/// The net effect of what the replica has applied beyond the snapshot.
fn delta(
    form: &Form,
    table: &SourceTable,
    view: &View,
    schema: &TableSchema,
    changes: &Changes,
) -> Result<Delta, String> {
    let mut delta = Delta::default();
    for logged in changes.of(&table.name, &table.incarnation, view.checkpoint.seq) {
        if let Change::Truncate { .. } = logged.change {
            return Err("it was truncated meanwhile".to_owned());
        }
        if logged.schema.columns != schema.columns || logged.schema.identity != schema.identity {
            return Err("its columns were changed meanwhile".to_owned());
        }
        let change = form.change(&logged.change)?;
        let added = delta.add(&form.canon, &change);
        added.map_err(|error| error.to_string())?;
    }
    Ok(delta)
}
