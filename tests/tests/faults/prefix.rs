//! Every state of a replica is the primary's state at the replica's own checkpoint.
//!
//! The witness is PostgreSQL's `test_decoding` on a slot of its own: none of the daemon's code. Its
//! output feeds a model, and each snapshot of the replica — checkpoint and content read in one
//! statement — must equal the model at the checkpoint's position.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use repl_tests::pg::PgServer;

use super::rig::{self, Random, Rig};

/// Accounts by table and id, and rows of the tables without a key with their number.
#[derive(Clone, Debug, Default, PartialEq)]
struct State {
    accounts: BTreeMap<(String, i64), i64>,
    rows: BTreeMap<String, u64>,
}

/// One transaction of the witness: where it ends, and its changes.
struct Transaction {
    end: u64,
    changes: Vec<String>,
}

const SNAPSHOT: &str = "\
SELECT 'at ' || position FROM repl.checkpoint UNION ALL
SELECT 'a ' || id || ' ' || balance FROM bank.a UNION ALL
SELECT 'b ' || id || ' ' || balance FROM bank.b UNION ALL
SELECT 'c ' || id || ' ' || balance FROM bank.c UNION ALL
SELECT 'row ledger ' || origin || target || amount FROM bank.ledger UNION ALL
SELECT 'row event ' || batch || '/' || part FROM public.keyless_events";

#[test]
fn every_snapshot_is_the_primary_at_the_checkpoint() -> Result<()> {
    let mut rig = Rig::start()?;
    rig.settle()?;
    let start = read(
        &rig.primary,
        &SNAPSHOT.replace(
            "SELECT 'at ' || position FROM repl.checkpoint UNION ALL",
            "",
        ),
    )?
    .1;
    rig.primary
        .query("SELECT pg_create_logical_replication_slot('witness', 'test_decoding')")?;
    let load = rig::spawn_load(&rig.primary, 300, false)?;
    let mut random = Random::from_environment();
    let mut snapshots = Vec::new();
    for round in 0..rig::cycles(30, 300) {
        thread::sleep(Duration::from_millis(50 + random.below(150)));
        snapshots.push(read(&rig.replica, SNAPSHOT)?);
        if round % 5 == 4 {
            rig.daemon.crash_and_restart()?;
        }
    }
    load.interrupt()?;
    rig.settle()?;
    snapshots.push(read(&rig.replica, SNAPSHOT)?);
    let transactions = witness(&rig.primary)?;
    let distinct = compare(start, &transactions, &snapshots)?;
    ensure!(
        distinct > 5,
        "only {distinct} different positions were seen"
    );
    rig.check()
}

/// Plays the witness's transactions and compares at each snapshot's position; returns how many
/// different positions there were.
fn compare(
    mut model: State,
    transactions: &[Transaction],
    snapshots: &[(u64, State)],
) -> Result<usize> {
    let mut next = transactions.iter().peekable();
    let mut positions = std::collections::BTreeSet::new();
    for (at, found) in snapshots {
        while let Some(transaction) = next.next_if(|transaction| transaction.end <= *at) {
            transaction
                .changes
                .iter()
                .try_for_each(|change| apply(&mut model, change))?;
        }
        ensure!(
            model == *found,
            "at {:X}/{:X} the replica is not the primary of that position: {}",
            at >> 32,
            at & 0xffff_ffff,
            difference(&model, found)
        );
        positions.insert(*at);
    }
    Ok(positions.len())
}

fn difference(model: &State, found: &State) -> String {
    let accounts: Vec<_> = model
        .accounts
        .iter()
        .filter(|(id, balance)| found.accounts.get(*id) != Some(*balance))
        .take(3)
        .collect();
    let lost: Vec<_> = model
        .rows
        .iter()
        .filter(|(row, n)| found.rows.get(*row) != Some(*n))
        .take(3)
        .collect();
    let extra: Vec<_> = found
        .rows
        .iter()
        .filter(|(row, n)| model.rows.get(*row) != Some(*n))
        .take(3)
        .collect();
    format!("model has {accounts:?} {lost:?}, replica has {extra:?}")
}

/// One statement, hence one snapshot: the checkpoint's position and the content.
fn read(server: &PgServer, sql: &str) -> Result<(u64, State)> {
    let (mut at, mut state) = (0, State::default());
    for line in server.query(sql)?.lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["at", position] => at = lsn(position)?,
            ["row", table, row] => *state.rows.entry(format!("{table} {row}")).or_default() += 1,
            [table, id, balance] => {
                state
                    .accounts
                    .insert((table.to_owned(), id.parse()?), balance.parse()?);
            }
            _ => anyhow::bail!("unexpected line {line:?}"),
        }
    }
    Ok((at, state))
}

fn lsn(text: &str) -> Result<u64> {
    let (high, low) = text
        .split_once('/')
        .with_context(|| format!("no LSN: {text:?}"))?;
    Ok((u64::from_str_radix(high, 16)? << 32) | u64::from_str_radix(low, 16)?)
}

fn witness(primary: &PgServer) -> Result<Vec<Transaction>> {
    let lines = primary.query(
        "SELECT lsn || ' ' || data FROM pg_logical_slot_get_changes('witness', NULL, NULL)",
    )?;
    let (mut transactions, mut changes) = (Vec::new(), Vec::new());
    for line in lines.lines() {
        let (position, data) = line.split_once(' ').context("a line without a position")?;
        if data.starts_with("COMMIT") {
            // The position of a COMMIT is the end of its record.
            transactions.push(Transaction {
                end: lsn(position)?,
                changes: std::mem::take(&mut changes),
            });
        } else if data.starts_with("table ") {
            changes.push(data.to_owned());
        }
    }
    Ok(transactions)
}

/// Applies a line such as `table bank.a: UPDATE: id[integer]:5 balance[bigint]:990`.
fn apply(model: &mut State, change: &str) -> Result<()> {
    let value = |column: &str| -> Result<&str> {
        let start = change
            .find(column)
            .with_context(|| format!("no {column} in {change:?}"))?;
        let rest = &change[start + column.len()..];
        Ok(rest
            .split(' ')
            .next()
            .unwrap_or_default()
            .trim_matches('\''))
    };
    if let Some(bank) = change.strip_prefix("table bank.")
        && !bank.starts_with("ledger")
    {
        let key = (bank[..1].to_owned(), value("id[integer]:")?.parse()?);
        model
            .accounts
            .insert(key, value("balance[bigint]:")?.parse()?);
    } else if change.starts_with("table bank.ledger: INSERT") {
        let (origin, target) = (value("origin[text]:")?, value("target[text]:")?);
        let amount = value("amount[bigint]:")?;
        *model
            .rows
            .entry(format!("ledger {origin}{target}{amount}"))
            .or_default() += 1;
    } else if change.starts_with("table public.keyless_events: INSERT") {
        let (batch, part) = (value("batch[bigint]:")?, value("part[integer]:")?);
        *model
            .rows
            .entry(format!("event {batch}/{part}"))
            .or_default() += 1;
    }
    Ok(())
}
