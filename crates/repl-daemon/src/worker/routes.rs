//! Where the changes of each schema version go at one replica.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use repl_connectors::seam::{ConnectorError, CopiedTable};
use repl_core::Seq;
use repl_core::batch::Route;
use repl_core::change::schemas;
use repl_core::codec::Malformed;
use repl_core::convert::TablePlan;
use repl_core::schema::{SchemaId, TableName};

use super::collect::Plan;

/// Why a change goes nowhere, and is not passed over.
pub(super) enum Unroutable {
    /// The replica's engine cannot hold the table.
    Unfit(ConnectorError),
    /// The replica holds the table under the first name, and it is written to under the second.
    Elsewhere(TableName, TableName),
}

impl From<ConnectorError> for Unroutable {
    fn from(error: ConnectorError) -> Self {
        Unroutable::Unfit(error)
    }
}

/// A schema version as the replica gets it.
pub(super) struct Routed {
    pub(super) route: Arc<Route>,
    /// How its rows are converted; none when they pass untouched.
    pub(super) plan: Option<TablePlan>,
}

/// What is known of the schema versions that were met.
#[derive(Default)]
pub(super) struct Routes {
    /// None for a table that the replica does not receive, or has not copied yet.
    known: HashMap<SchemaId, Option<Arc<Routed>>>,
    /// Met for the first time and not handed out yet.
    fresh: Vec<Arc<Route>>,
    /// Tables whose copy contains the current transaction.
    contained: HashSet<TableName>,
    /// Those of tables that the replica holds under another name, which lack what is written.
    elsewhere: HashMap<SchemaId, (TableName, TableName)>,
    /// The last answer: most changes are of the same table as the one before.
    last: Option<(SchemaId, Option<Arc<Routed>>)>,
}

impl Routes {
    /// A transaction begins, or may: the batch before it may have to be handed out first.
    pub(super) fn begin(&mut self, plan: &Plan, open_cuts: usize, seq: Seq, txid: u64) {
        if open_cuts == 0 && self.contained.is_empty() {
            return;
        }
        self.last = None;
        let tables = plan.tables.iter().filter(|(_, table)| {
            let cut = table.cut.as_ref();
            cut.is_some_and(|cut| cut.contains(seq, txid, ""))
        });
        self.contained = tables.map(|(name, _)| name.clone()).collect();
    }

    /// Where a change in the current transaction goes; none when the replica does not receive the
    /// table, has not copied it yet, or its copy contains the transaction.
    ///
    /// # Errors
    /// When the replica's engine cannot hold the table, or the replica holds it under another name.
    pub(super) fn of(
        &mut self,
        plan: &Plan,
        schema: SchemaId,
    ) -> Result<Option<&Routed>, Unroutable> {
        if self.last.as_ref().is_none_or(|(last, _)| *last != schema) {
            // A version that only such transactions have need not fit the replica's table, which was
            // copied as it was after them.
            let routed = match self.is_contained(plan, schema) {
                true => None,
                false => self.find(plan, schema)?,
            };
            if let Some((held, name)) = self.elsewhere.get(&schema)
                && !self.contained.contains(held)
            {
                return Err(Unroutable::Elsewhere(held.clone(), name.clone()));
            }
            self.last = Some((schema, routed));
        }
        Ok(self.last.as_ref().and_then(|(_, routed)| routed.as_deref()))
    }

    /// Whether the copy of this version's table contains the current transaction.
    fn is_contained(&self, plan: &Plan, schema: SchemaId) -> bool {
        let table = || plan.log.schema(schema).map(|schema| schema.table.clone());
        !self.contained.is_empty() && table().is_some_and(|table| self.contained.contains(&table))
    }

    fn find(
        &mut self,
        plan: &Plan,
        schema: SchemaId,
    ) -> Result<Option<Arc<Routed>>, ConnectorError> {
        if let Some(routed) = self.known.get(&schema) {
            return Ok(routed.clone());
        }
        let elsewhere = held_elsewhere(plan, schema);
        self.elsewhere
            .extend(elsewhere.map(|names| (schema, names)));
        let routed = make(plan, schema)?.map(Arc::new);
        let fitted = plan.fitted.contains(&schema);
        let fresh = routed.as_ref().filter(|_| !fitted);
        self.fresh
            .extend(fresh.map(|routed| Arc::clone(&routed.route)));
        self.known.insert(schema, routed.clone());
        Ok(routed)
    }

    /// Whether the changes are of schema versions that were met before, or do not concern the replica.
    ///
    /// # Errors
    /// When the changes are damaged.
    pub(super) fn know_all(&self, plan: &Plan, changes: &[u8]) -> Result<bool, Malformed> {
        let mut last = None;
        for schema in schemas(changes) {
            let schema = schema?;
            let known = || {
                self.known.contains_key(&schema)
                    || plan.fitted.contains(&schema)
                    || self.is_contained(plan, schema)
            };
            if last != Some(schema) && !known() {
                return Ok(false);
            }
            last = Some(schema);
        }
        Ok(true)
    }

    /// Those met for the first time since the last call.
    pub(super) fn take_fresh(&mut self) -> Vec<Arc<Route>> {
        std::mem::take(&mut self.fresh)
    }
}

/// The table of this version, as the replica holds it under another name, and its name.
fn held_elsewhere(plan: &Plan, schema: SchemaId) -> Option<(TableName, TableName)> {
    let schema = plan.log.schema(schema)?;
    let is_it = |(name, held): &(&TableName, &CopiedTable)| {
        **name != schema.table && held.incarnation == schema.incarnation
    };
    let mut tables = plan.tables.iter();
    let (held, _) = tables
        .find(is_it)
        .filter(|_| !schema.incarnation.is_empty())?;
    Some((held.clone(), schema.table.clone()))
}

fn make(plan: &Plan, schema: SchemaId) -> Result<Option<Routed>, ConnectorError> {
    let Some(schema) = plan.log.schema(schema) else {
        return Ok(None);
    };
    let Some(held) = plan.tables.get(&schema.table) else {
        return Ok(None);
    };
    // A table that was dropped and made again is another one: its rows are copied anew, and until
    // then its changes are not for the table that is here.
    let same = schema.incarnation.is_empty() || schema.incarnation == held.incarnation;
    let Some(target) = plan.routing.target(&schema.table).filter(|_| same) else {
        return Ok(None);
    };
    if !plan.conversion.converts(&schema) {
        return Ok(Some(Routed {
            route: Arc::new(Route { schema, target }),
            plan: None,
        }));
    }
    let plan = plan.conversion.plan(&schema)?;
    let schema = Arc::new(plan.schema().clone());
    Ok(Some(Routed {
        route: Arc::new(Route { schema, target }),
        plan: Some(plan),
    }))
}
