//! Sends batches to the replica, and settles them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use repl_api::Activity;
use repl_connectors::seam::{Commit, ConnectorError, Style, TableDdl};
use repl_core::ErrorKind;
use repl_core::batch::Route;
use repl_core::checkpoint::Checkpoint;
use repl_core::schema::TableName;
use tracing::debug;

use super::collect::{Batch, BatchEnd, Mode};
use super::copy::refused_by_the_primary;
use super::stream::{Course, Trouble, blame};
use super::{Ended, Failure, Worker, pass};

/// How long the answers to what is on its way are waited for when the session is to end. Those that
/// did not come are told by the checkpoint the next session finds.
const LEAVE_WAIT: Duration = Duration::from_secs(2);

impl Worker {
    /// Sends a batch, or a part of one; true when the last open cut was joined meanwhile.
    pub(super) async fn batch(
        &mut self,
        course: &mut Course<'_>,
        batch: Batch,
    ) -> Result<bool, Trouble> {
        self.replica().show(Activity::Applying);
        let mut joined = false;
        if batch.reduced.needs_order || !batch.new_routes.is_empty() {
            // Both need answers of the replica, which come behind those to what is on its way.
            joined = self.settle_all(course).await?;
        }
        if batch.reduced.needs_order {
            let through = batch.end.as_ref().map_or(batch.first.seq, |end| end.seq);
            return Err(Trouble::Suspect(through));
        }
        for route in &batch.new_routes {
            if let Err(error) = self.fit(route).await {
                return Err(blame(error, &batch.first).into());
            }
            let schema = &route.schema;
            self.fitted.insert(schema.id, schema.table.clone());
        }
        let sent = self.send(course, batch).await;
        sent.map_err(|error| course.trouble(error))?;
        Ok(joined)
    }

    async fn send(&mut self, course: &mut Course<'_>, batch: Batch) -> Result<(), ConnectorError> {
        let style = match course.mode {
            // One by one only tables that settle have net changes.
            Mode::Rewritten(_) | Mode::OneByOne(_) => Style::Rewrite,
            Mode::Combined => Style::SetWise,
        };
        // What is left out on the operator's word is left out for good.
        let skip = self.orders.borrow().skip;
        let skips = skip.is_some_and(|skip| skip > course.flight.head().seq);
        let durable = skips || self.parts.replica.waited.load(Ordering::Relaxed);
        let flight = &mut course.flight;
        let applier = &mut self.parts.applier;
        flight.sending(&batch);
        let end = batch.end.as_ref().map(|end| flight.ending(end, durable));
        match &end {
            _ if batch.continues => {}
            Some((next, how)) => applier.begin_whole(flight.head(), next, *how).await?,
            None => applier.begin(flight.head()).await?,
        }
        for step in &batch.reduced.steps {
            applier.apply(step, style).await?;
        }
        if let (Some(BatchEnd { joined, .. }), Some((next, how))) = (batch.end, end) {
            applier.submit(&next, &joined, how).await?;
            flight.submitted(next, joined, how);
        }
        Ok(())
    }

    /// Sends a durable commit of nothing, which makes durable what is before it.
    pub(super) async fn flush(&mut self, course: &mut Course<'_>) -> Result<(), Trouble> {
        let head = course.flight.head();
        let applier = &mut self.parts.applier;
        let sent = async {
            applier.begin_whole(head, head, Commit::Durable).await?;
            applier.submit(head, &[], Commit::Durable).await
        };
        sent.await.map_err(|error| course.trouble(error))?;
        course.flight.submitted_flush();
        Ok(())
    }

    /// Waits for everything submitted; true when the last open cut was joined.
    pub(super) async fn settle_all(&mut self, course: &mut Course<'_>) -> Result<bool, Trouble> {
        let mut joined = false;
        while course.flight.is_waiting() {
            let settled = self.parts.applier.settle().await;
            settled.map_err(|error| course.trouble(error))?;
            joined |= self.settled(course);
        }
        Ok(joined)
    }

    /// Leaves nothing on its way, and nothing that the replica could still lose.
    pub(super) async fn land(&mut self, course: &mut Course<'_>) -> Result<(), Trouble> {
        self.settle_all(course).await?;
        if course.flight.flush_due().is_some() {
            self.flush(course).await?;
            self.settle_all(course).await?;
        }
        Ok(())
    }

    /// The same for the end of the session, as far as it is possible within a bounded time.
    pub(super) async fn leave(&mut self, course: &mut Course<'_>, ended: Ended) -> Ended {
        match tokio::time::timeout(LEAVE_WAIT, self.land(course)).await {
            Ok(Ok(())) => {}
            // It is met again, with all that belongs to it, should the session be resumed.
            Ok(Err(_)) => debug!("what was on its way to the replica failed"),
            Err(_) => debug!("the replica did not answer in time"),
        }
        ended
    }

    /// Notes that the oldest transaction on its way is committed; true when something else is to be done:
    /// the last open cut was joined by it, or rows are to be put in place.
    pub(super) fn settled(&mut self, course: &mut Course<'_>) -> bool {
        let Some((sent, end)) = course.flight.settled() else {
            return false;
        };
        {
            let mut view = self.replica().view();
            view.rows += sent.rows;
            view.transactions += sent.transactions;
            view.overcome();
        }
        self.backoff.succeeded();
        *course.checkpoint = end.checkpoint;
        self.state.checkpoint = Some(course.checkpoint.clone());
        self.note_committed(course.checkpoint, end.commit);
        self.joined(&end.joined)
    }

    /// Clears the cuts that the checkpoint has passed already: on an idle primary nothing follows
    /// that would show it.
    pub(super) async fn join_passed(&mut self, checkpoint: &Checkpoint) -> Result<(), Failure> {
        let passed: Vec<TableName> = self
            .state
            .tables
            .iter()
            // Positions do not tell: where a copy starts may lie in another span of history.
            .filter(|(_, table)| {
                let cut = table.cut.as_ref();
                cut.is_some_and(|cut| cut.passed_by(checkpoint.seq))
            })
            .map(|(name, _)| name.clone())
            .collect();
        if !passed.is_empty() {
            self.clear_cuts(checkpoint, &passed).await?;
        }
        Ok(())
    }

    /// Clears cuts without moving the checkpoint, with nothing on its way; true when none is left.
    pub(super) async fn clear_cuts(
        &mut self,
        checkpoint: &Checkpoint,
        tables: &[TableName],
    ) -> Result<bool, ConnectorError> {
        self.parts.applier.begin(checkpoint).await?;
        self.parts.applier.commit(checkpoint, tables).await?;
        self.note_committed(checkpoint, Commit::Durable);
        Ok(self.joined(tables))
    }

    fn joined(&mut self, tables: &[TableName]) -> bool {
        for table in tables {
            if let Some(copied) = self.state.tables.get_mut(table) {
                copied.cut = None;
            }
        }
        let all = self.state.tables.values().all(|table| table.cut.is_none());
        !tables.is_empty() && (all || self.may_mend())
    }

    /// A fresh session on the same checkpoint; where an attempt was committed after all, the
    /// stored one decides.
    pub(super) async fn reopen(&mut self, checkpoint: &mut Checkpoint) -> Result<(), Failure> {
        self.parts.applier.close().await;
        self.open().await?;
        *checkpoint = self.attach().await?;
        self.note_committed(checkpoint, Commit::Durable);
        pass("worker.reopened")?;
        Ok(())
    }

    /// Makes the replica's table fit a schema version seen for the first time.
    async fn fit(&mut self, route: &Route) -> Result<(), ConnectorError> {
        let refused = match self.parts.applier.fit(route, None).await {
            Err(error) if error.kind == ErrorKind::Schema => error,
            other => return other,
        };
        let ddl = self.alterations(route).await?;
        if ddl.create.is_empty() && ddl.generated.is_empty() {
            return Err(refused);
        }
        self.parts.applier.fit(route, Some(&ddl)).await
    }

    async fn alterations(&mut self, route: &Route) -> Result<TableDdl, ConnectorError> {
        let form = self.parts.log.latest_schema(&route.schema.table);
        if form.is_some_and(|form| self.parts.conversion.converts(&form)) {
            // The source's own statements are not the replica's language.
            return Ok(TableDdl::default());
        }
        self.parts
            .snapshots
            .added_columns(&route.schema, &route.target)
            .await
            .map_err(refused_by_the_primary)
    }
}
