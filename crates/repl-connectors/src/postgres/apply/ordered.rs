//! Single-row statements: for few rows, and for changes in the source's order.

use std::borrow::Cow;
use std::sync::Arc;

use repl_core::ErrorKind;
use repl_core::batch::Route;
use repl_core::change::{Before, Change};
use repl_core::row::{Row, Value};

use super::metadata::Target;
use super::queue::Label;
use super::session::Session;
use super::setwise::written_columns;
use super::sql::Kind;
use super::text::{text_of, wrong_width};
use crate::seam::{ConnectorError, Result};

/// Parameters of one statement.
type Params<'a> = Vec<Option<Cow<'a, [u8]>>>;

impl Session {
    /// Applies changes one by one.
    pub(super) async fn ordered(&mut self, changes: &[(Arc<Route>, Change)]) -> Result<()> {
        let mut last: Option<Arc<Target>> = None;
        for (route, change) in changes {
            let target = match last {
                Some(target) if target.route == *route => target,
                _ => self.target(route).await?,
            };
            self.touch_change(&target, change);
            self.one_change(&target, change)?;
            self.relieve().await?;
            last = Some(target);
        }
        Ok(())
    }

    fn one_change(&mut self, target: &Arc<Target>, change: &Change) -> Result<()> {
        match change {
            Change::Insert { new, .. } => self.insert_row(target, new),
            Change::Update { before, new, .. } => self.ordered_update(target, before, new),
            Change::Delete { before, .. } => {
                let row = before.row().ok_or_else(|| no_image(target))?;
                if target.key.is_empty() {
                    self.delete_copy(target, row)
                } else {
                    self.delete_row(target, row)
                }
            }
            Change::Truncate { .. } => Err(ConnectorError::new(
                ErrorKind::Internal,
                "a truncation among ordered changes",
            )),
            Change::Message { .. } => Ok(()),
        }
    }

    fn ordered_update(&mut self, target: &Arc<Target>, before: &Before, new: &Row) -> Result<()> {
        let mut written = Vec::new();
        written_columns(target, new, &mut written)?;
        let Some(old) = before.row() else {
            if target.key.is_empty() {
                return Err(no_image(target));
            }
            return self.update_row(target, &written, new, new);
        };
        // The key may have changed: it is written too.
        let values = new.to_vec()?;
        for &column in &target.key {
            written[column] = values[column] != Value::Unchanged;
        }
        if target.key.is_empty() {
            return self.update_copy(target, &written, old, new);
        }
        self.update_row(target, &written, old, new)
    }

    pub(super) fn insert_row(&mut self, target: &Arc<Target>, row: &Row) -> Result<()> {
        let sql = target.statement(Kind::InsertRow, &[]);
        let params = whole(target, row)?;
        self.push_row("insert", &sql, &params, target, row)
    }

    /// Deletes by key.
    pub(super) fn delete_row(&mut self, target: &Arc<Target>, row: &Row) -> Result<()> {
        let sql = target.statement(Kind::DeleteRow, &[]);
        let mut params = Params::new();
        put_columns(&mut params, target, &target.key, row)?;
        self.push_row("delete", &sql, &params, target, row)
    }

    /// Updates the flagged columns of the row whose key `old` holds.
    pub(super) fn update_row(
        &mut self,
        target: &Arc<Target>,
        written: &[bool],
        old: &Row,
        new: &Row,
    ) -> Result<()> {
        let cannot_update = |(at, &set): (usize, &bool)| set && target.columns[at].identity_always;
        let kind = if written.iter().enumerate().any(cannot_update) {
            Kind::ReplaceRow
        } else if target.key.iter().any(|&column| written[column]) {
            Kind::UpdateKeyRow
        } else {
            Kind::UpdateRow
        };
        let sql = target.statement(kind, written);
        let mut params = Params::new();
        put_columns(
            &mut params,
            target,
            &super::setwise::written_list(written),
            new,
        )?;
        put_columns(&mut params, target, &target.key, old)?;
        self.push_row("update", &sql, &params, target, old)
    }

    fn delete_copy(&mut self, target: &Arc<Target>, row: &Row) -> Result<()> {
        let sql = target.statement(Kind::DeleteCopy, &[]);
        let params = whole(target, row)?;
        self.push_row("delete", &sql, &params, target, row)
    }

    fn update_copy(
        &mut self,
        target: &Arc<Target>,
        written: &[bool],
        old: &Row,
        new: &Row,
    ) -> Result<()> {
        let sql = target.statement(Kind::UpdateCopy, written);
        let mut params = Params::new();
        put_columns(
            &mut params,
            target,
            &super::setwise::written_list(written),
            new,
        )?;
        params.extend(whole(target, old)?);
        self.push_row("update", &sql, &params, target, old)
    }

    fn push_row(
        &mut self,
        verb: &'static str,
        sql: &str,
        params: &Params<'_>,
        target: &Arc<Target>,
        row: &Row,
    ) -> Result<()> {
        let params: Vec<Option<&[u8]>> = params.iter().map(Option::as_deref).collect();
        let label = Label::Rows(verb, Arc::clone(target), Some(row.clone()));
        self.push(sql, &params, label)
    }
}

fn no_image(target: &Target) -> ConnectorError {
    ConnectorError::new(
        ErrorKind::Internal,
        format!(
            "a change of {} without the image of its row",
            target.route.target
        ),
    )
    .table(target.route.target.to_string())
}

fn whole<'a>(target: &Target, row: &'a Row) -> Result<Params<'a>> {
    let mut params = Params::with_capacity(target.columns.len());
    for value in row.values()? {
        params.push(text_of(value?)?);
    }
    if params.len() != target.columns.len() {
        return Err(wrong_width(params.len(), target.columns.len()));
    }
    Ok(params)
}

fn put_columns<'a>(
    params: &mut Params<'a>,
    target: &Target,
    columns: &[usize],
    row: &'a Row,
) -> Result<()> {
    let values = row.to_vec()?;
    if values.len() != target.columns.len() {
        return Err(wrong_width(values.len(), target.columns.len()));
    }
    for &column in columns {
        params.push(text_of(values[column])?);
    }
    Ok(())
}
