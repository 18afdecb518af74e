//! Target transactions on their way to a replica: sent, and not known to be committed.
//!
//! Only what is needed to account for them is kept. Their changes are not: should one fail, they
//! are read from the log again.

use std::collections::VecDeque;
use std::time::Duration;

use repl_connectors::seam::Commit;
use repl_core::checkpoint::Checkpoint;
use repl_core::schema::TableName;
use repl_core::{ErrorKind, Seq};
use tokio::time::Instant;

use super::collect::{Batch, BatchEnd, Mode, TxInfo};

/// Longest time that commits stay not durable at the replica.
const DURABLE_INTERVAL: Duration = Duration::from_secs(1);
/// Most bytes of batches (of memory, as `limits.batch_bytes` counts) that stay not durable: the log
/// must hold them, whatever its limits.
const DURABLE_BYTES: u64 = 32 * 1024 * 1024;

/// A target transaction that was sent, at least in part.
#[derive(Debug)]
pub(super) struct Sent {
    /// First source transaction in it.
    pub(super) first: TxInfo,
    /// Last one.
    through: Seq,
    /// It was sent as one batch of whole transactions, so it can be rewritten.
    whole: bool,
    /// Row changes in it.
    pub(super) rows: u64,
    /// Source transactions that end in it.
    pub(super) transactions: u64,
    bytes: u64,
    /// How it ends; none while parts of it are still to come.
    pub(super) end: Option<SentEnd>,
}

/// The end of a target transaction.
#[derive(Debug)]
pub(super) struct SentEnd {
    /// The checkpoint it leaves.
    pub(super) checkpoint: Checkpoint,
    /// Tables whose cut it clears.
    pub(super) joined: Vec<TableName>,
    /// How it commits.
    pub(super) commit: Commit,
}

/// The transactions on their way, oldest first, and when the next must be durable.
pub(super) struct Flight {
    sent: VecDeque<Sent>,
    /// The checkpoint that the last one submitted leaves.
    head: Checkpoint,
    depth: usize,
    durability: Durability,
}

impl Flight {
    /// Nothing on its way, from `head` on, which is durable. Only ordinary batches are sent ahead:
    /// in the others it matters which one fails.
    pub(super) fn new(head: Checkpoint, mode: Mode, depth: usize, commit: Commit) -> Self {
        let depth = if mode == Mode::Combined { depth } else { 1 };
        Flight {
            sent: VecDeque::new(),
            head,
            depth,
            durability: Durability::new(commit),
        }
    }

    /// Nothing is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// The last transaction is one whose parts are still to come.
    pub(super) fn is_open(&self) -> bool {
        self.sent.back().is_some_and(|sent| sent.end.is_none())
    }

    /// Some transaction was submitted and is not settled.
    pub(super) fn is_waiting(&self) -> bool {
        self.sent.front().is_some_and(|sent| sent.end.is_some())
    }

    /// More may be sent.
    pub(super) fn has_room(&self) -> bool {
        self.is_open() || self.sent.len() < self.depth
    }

    /// The checkpoint that the next transaction starts from.
    pub(super) fn head(&self) -> &Checkpoint {
        &self.head
    }

    /// Notes a batch, or a part of one, that is about to be sent.
    pub(super) fn sending(&mut self, batch: &Batch) {
        let through = batch.end.as_ref().map_or(batch.first.seq, |end| end.seq);
        if let (true, Some(open)) = (batch.continues, self.sent.back_mut()) {
            open.through = through;
            open.rows += batch.reduced.rows;
            open.transactions += batch.transactions;
            open.bytes += batch.bytes;
            return;
        }
        self.sent.push_back(Sent {
            first: batch.first.clone(),
            through,
            whole: batch.end.is_some(),
            rows: batch.reduced.rows,
            transactions: batch.transactions,
            bytes: batch.bytes,
            end: None,
        });
    }

    /// The checkpoint that a batch's end leaves, and how it is to commit.
    pub(super) fn ending(&self, end: &BatchEnd, must_be_durable: bool) -> (Checkpoint, Commit) {
        let next = Checkpoint {
            log: self.head.log,
            epoch: end.epoch,
            seq: end.seq,
            position: end.position.clone(),
        };
        // The registry of copied tables is what the durable record of the replica follows.
        let must = must_be_durable || !end.joined.is_empty();
        (next, self.durability.choose(must, Instant::now()))
    }

    /// Notes that the transaction being sent was submitted.
    pub(super) fn submitted(
        &mut self,
        checkpoint: Checkpoint,
        joined: Vec<TableName>,
        how: Commit,
    ) {
        let Some(sent) = self.sent.back_mut() else {
            return;
        };
        self.durability.sent(how, sent.bytes, Instant::now());
        self.head = checkpoint.clone();
        sent.end = Some(SentEnd {
            checkpoint,
            joined,
            commit: how,
        });
    }

    /// Notes a transaction of no changes whose durable commit makes durable what is before it.
    pub(super) fn submitted_flush(&mut self) {
        self.sent.push_back(Sent {
            first: TxInfo::default(),
            through: self.head.seq,
            whole: false,
            rows: 0,
            transactions: 0,
            bytes: 0,
            end: None,
        });
        self.submitted(self.head.clone(), Vec::new(), Commit::Durable);
    }

    /// Takes out the oldest, which is committed.
    pub(super) fn settled(&mut self) -> Option<(Sent, SentEnd)> {
        let mut sent = self.sent.pop_front()?;
        let end = sent.end.take()?;
        Some((sent, end))
    }

    /// When a durable commit is due; none while everything sent is durable, or will be.
    pub(super) fn flush_due(&self) -> Option<Instant> {
        self.durability.due().filter(|_| !self.is_open())
    }

    /// The oldest source transaction on its way.
    pub(super) fn oldest(&self) -> Option<&TxInfo> {
        self.sent.front().map(|sent| &sent.first)
    }

    /// How to go on after a transaction was refused, when the replica's checkpoint is at `applied`:
    /// the first one it does not cover is at fault. None when that is no source transaction.
    pub(super) fn next_rung(&self, applied: Seq, mode: Mode, kind: ErrorKind) -> Option<Mode> {
        let culprit = self.sent.iter().find(|sent| sent.through > applied)?;
        let rewritable = kind == ErrorKind::Constraint && culprit.whole;
        Some(match mode {
            Mode::Combined if rewritable => Mode::Rewritten(culprit.through),
            _ => Mode::OneByOne(culprit.through),
        })
    }
}

/// Decides which commits are durable where most need not be: enough of them that the log can be
/// trimmed soon, since only what a replica cannot lose any more may be.
struct Durability {
    commit: Commit,
    /// When the first commit was sent that no durable one followed.
    since: Option<Instant>,
    bytes: u64,
}

impl Durability {
    fn new(commit: Commit) -> Self {
        Durability {
            commit,
            since: None,
            bytes: 0,
        }
    }

    fn choose(&self, must: bool, now: Instant) -> Commit {
        let due = self.due().is_some_and(|due| due <= now);
        if must || due || self.bytes >= DURABLE_BYTES {
            return Commit::Durable;
        }
        self.commit
    }

    fn sent(&mut self, how: Commit, bytes: u64, now: Instant) {
        match how {
            Commit::Durable => *self = Durability::new(self.commit),
            Commit::Asynchronous => {
                self.since.get_or_insert(now);
                self.bytes += bytes;
            }
        }
    }

    fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + DURABLE_INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use repl_core::net::Reduced;
    use repl_core::{Epoch, LogId, SourcePosition};

    use super::*;

    fn checkpoint(seq: u64) -> Checkpoint {
        Checkpoint {
            log: LogId(uuid::Uuid::from_u128(1)),
            epoch: Epoch(1),
            seq: Seq(seq),
            position: SourcePosition(seq.to_string()),
        }
    }

    fn batch(first: u64, through: Option<u64>, continues: bool) -> Batch {
        Batch {
            first: TxInfo {
                seq: Seq(first),
                ..TxInfo::default()
            },
            end: through.map(|seq| BatchEnd {
                epoch: Epoch(1),
                seq: Seq(seq),
                position: SourcePosition(seq.to_string()),
                joined: Vec::new(),
            }),
            continues,
            reduced: Reduced {
                steps: Vec::new(),
                rows: 10,
                needs_order: false,
            },
            transactions: 1,
            bytes: 100,
            new_routes: Vec::new(),
        }
    }

    fn send(flight: &mut Flight, batch: &Batch) {
        flight.sending(batch);
        if let Some(end) = &batch.end {
            let (next, how) = flight.ending(end, false);
            flight.submitted(next, Vec::new(), how);
        }
    }

    fn flight(mode: Mode) -> Flight {
        Flight::new(checkpoint(10), mode, 3, Commit::Asynchronous)
    }

    #[test]
    fn the_depth_bounds_what_is_sent_but_not_the_parts_of_one() {
        let mut flight = flight(Mode::Combined);
        assert!(flight.is_empty() && flight.has_room());
        send(&mut flight, &batch(11, Some(15), false));
        send(&mut flight, &batch(16, Some(16), false));
        assert_eq!(*flight.head(), checkpoint(16));
        send(&mut flight, &batch(17, None, false));
        assert!(flight.is_open() && flight.has_room() && flight.is_waiting());
        assert_eq!(*flight.head(), checkpoint(16));
        send(&mut flight, &batch(17, None, true));
        send(&mut flight, &batch(17, Some(17), true));
        assert!(!flight.is_open() && !flight.has_room());
        for (through, rows) in [(15, 10), (16, 10), (17, 30)] {
            let (sent, end) = flight.settled().unwrap();
            assert_eq!((end.checkpoint, sent.rows), (checkpoint(through), rows));
        }
        assert!(flight.is_empty());
        let one = super::tests::flight(Mode::OneByOne(Seq(20)));
        assert_eq!(one.depth, 1);
    }

    #[test]
    fn the_first_transaction_not_covered_is_at_fault() {
        let mut flight = flight(Mode::Combined);
        send(&mut flight, &batch(11, Some(15), false));
        send(&mut flight, &batch(16, Some(20), false));
        send(&mut flight, &batch(21, None, false));
        let rung = |applied, mode, kind| flight.next_rung(Seq(applied), mode, kind);
        let (combined, constraint) = (Mode::Combined, ErrorKind::Constraint);
        assert_eq!(
            rung(10, combined, constraint),
            Some(Mode::Rewritten(Seq(15)))
        );
        assert_eq!(
            rung(15, combined, constraint),
            Some(Mode::Rewritten(Seq(20)))
        );
        assert_eq!(
            rung(15, combined, ErrorKind::Data),
            Some(Mode::OneByOne(Seq(20)))
        );
        // A part of a transaction cannot be rewritten.
        assert_eq!(
            rung(20, combined, constraint),
            Some(Mode::OneByOne(Seq(21)))
        );
        let rewritten = Mode::Rewritten(Seq(20));
        assert_eq!(
            rung(15, rewritten, constraint),
            Some(Mode::OneByOne(Seq(20)))
        );
        assert_eq!(rung(21, combined, constraint), None);
    }

    #[test]
    fn a_commit_is_durable_when_it_must_or_is_due() {
        let start = Instant::now();
        let mut durability = Durability::new(Commit::Asynchronous);
        assert_eq!(durability.due(), None);
        assert_eq!(durability.choose(true, start), Commit::Durable);
        assert_eq!(durability.choose(false, start), Commit::Asynchronous);
        durability.sent(Commit::Asynchronous, 1, start);
        let later = start + DURABLE_INTERVAL / 2;
        assert_eq!(durability.choose(false, later), Commit::Asynchronous);
        durability.sent(Commit::Asynchronous, 1, later);
        // Counted from the first.
        let due = start + DURABLE_INTERVAL;
        assert_eq!(durability.due(), Some(due));
        assert_eq!(durability.choose(false, due), Commit::Durable);
        durability.sent(Commit::Durable, 1, due);
        assert_eq!(durability.due(), None);
        durability.sent(Commit::Asynchronous, DURABLE_BYTES, due);
        assert_eq!(durability.choose(false, due), Commit::Durable);
        assert_eq!(
            Durability::new(Commit::Durable).choose(false, due),
            Commit::Durable
        );
    }

    #[test]
    fn a_flush_is_due_only_behind_an_asynchronous_commit() {
        let mut flight = flight(Mode::Combined);
        assert_eq!(flight.flush_due(), None);
        send(&mut flight, &batch(11, Some(11), false));
        assert!(flight.flush_due().is_some());
        flight.submitted_flush();
        assert_eq!(flight.flush_due(), None);
        assert_eq!(*flight.head(), checkpoint(11));
        let commits: Vec<Commit> =
            std::iter::from_fn(|| flight.settled().map(|(_, end)| end.commit)).collect();
        assert_eq!(commits, [Commit::Asynchronous, Commit::Durable]);
    }
}
