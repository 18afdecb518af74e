//! A former primary joins again key by key, whatever it and the new one are: servers or files.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow, ensure};
use repl_tests::pg::{DATABASE, Role, Session};
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::mixed::{Kind, Mixed, Place};
use super::orders;

/// `keyed` has keys of types that are told alike everywhere, `loose` of one that is not. A server stores `big` apart,
/// and does not send it with an update that leaves it alone.
const OF_SERVER: &str = "
    CREATE TABLE probe (id bigserial PRIMARY KEY, node text NOT NULL);
    CREATE TABLE mended (region text, id bigint, mail text UNIQUE, n int NOT NULL DEFAULT 0, big text,
                         PRIMARY KEY (id, region));
    ALTER TABLE mended ALTER COLUMN big SET STORAGE EXTERNAL;
    CREATE TABLE keyed (price numeric(10,2), day date, seen timestamptz, code bytea, flag boolean, number uuid, v int,
                        PRIMARY KEY (price, day, seen, code, flag, number));
    CREATE TABLE loose (k double precision PRIMARY KEY, v int);";

const OF_FILE: &str = "
    CREATE TABLE probe (id INTEGER PRIMARY KEY AUTOINCREMENT, node TEXT NOT NULL);
    CREATE TABLE mended (region TEXT NOT NULL, id INTEGER NOT NULL, mail TEXT UNIQUE, n INTEGER NOT NULL DEFAULT 0,
                         big TEXT, PRIMARY KEY (id, region));
    CREATE TABLE keyed (name TEXT NOT NULL COLLATE NOCASE, code BLOB NOT NULL, flag BOOLEAN NOT NULL, number INTEGER NOT NULL,
                        v INTEGER, PRIMARY KEY (name, code, flag, number)) WITHOUT ROWID;
    CREATE TABLE loose (k REAL NOT NULL PRIMARY KEY, v INTEGER);
    CREATE TABLE nul (k TEXT NOT NULL PRIMARY KEY, v INTEGER);";

/// The rows of the tables of `first`, in the words of `now`.
fn rows(first: Kind, now: Kind) -> String {
    let numbers = match now {
        Kind::Pg => "generate_series(1, 40) AS n",
        Kind::Lite => {
            "(WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < 40) SELECT n FROM g)"
        }
    };
    let keyed = match (first, now) {
        (Kind::Pg, Kind::Pg) => {
            "n * 1.5, date '2024-02-28' + n, timestamptz '2024-02-28 10:00:00.5+00' + n * interval '1 hour', \
             decode(md5(n::text), 'hex'), n % 2 = 0, md5(n::text)::uuid"
        }
        (Kind::Pg, Kind::Lite) => {
            "printf('%.2f', n * 1.5), date('2024-02-28', n || ' days'), \
             datetime('2024-02-28 10:00:00', n || ' hours') || '.5+00:00', zeroblob(n), n % 2, \
             '0f0b5a3e-5d4f-4c6e-9a57-0d9f4a2b7c' || printf('%02d', n)"
        }
        (Kind::Lite, Kind::Pg) => "'ä' || n, '\\x00ff'::bytea, n % 2 = 0, -n",
        (Kind::Lite, Kind::Lite) => "'ä' || n, x'00ff', n % 2, -n",
    };
    let big = match now {
        Kind::Pg => "repeat(md5(n::text), 100)",
        Kind::Lite => "hex(zeroblob(1600)) || n",
    };
    let nul = match first {
        Kind::Pg => "",
        Kind::Lite => "DELETE FROM nul; INSERT INTO nul VALUES ('a', 1), ('b', 2);",
    };
    format!(
        "DELETE FROM mended; DELETE FROM keyed; DELETE FROM loose; {nul}
         INSERT INTO mended (region, id, mail, big) SELECT 'o''e' || n % 3, n, 'm' || n, {big} FROM {numbers};
         INSERT INTO keyed SELECT {keyed}, n FROM {numbers} WHERE n <= 20;
         INSERT INTO loose SELECT n / 8.0, n FROM {numbers} WHERE n <= 10;"
    )
}

/// Changed, gone, moved, new; under keys and with values that the new primary uses as well: 25 keys of
/// `mended`, 8 of `keyed`, 3 of `loose`.
const STRAYS: &str = "
    UPDATE mended SET n = -1 WHERE id BETWEEN 1 AND 10;
    UPDATE mended SET mail = 'm100' WHERE id = 3;
    DELETE FROM mended WHERE id BETWEEN 8 AND 14;
    UPDATE mended SET id = id + 100 WHERE id BETWEEN 15 AND 18;
    INSERT INTO mended (region, id, mail) VALUES ('o''e1', 200, 'm8'), ('x', 7, 'm9'), ('o''e0', 201, 'm300');
    UPDATE keyed SET v = -1 WHERE v BETWEEN 1 AND 6;
    DELETE FROM keyed WHERE v IN (8, 9);
    UPDATE loose SET v = -1 WHERE v IN (1, 2);
    DELETE FROM loose WHERE v = 3;";

const TOUCHED: usize = 25 + 8;
const TOUCHED_LOOSELY: usize = 3;

/// What the new primary goes on with, `k` being one of its keys.
fn work(n: u64) -> String {
    let k = n * 7 % 20 + 1;
    match n % 7 {
        0 | 1 => format!("UPDATE mended SET n = n + 1 WHERE id = {k}"),
        2 => format!(
            "BEGIN; UPDATE mended SET mail = 'm{}' WHERE id = {k}; UPDATE keyed SET v = v + 100 WHERE v % 20 = {k}; \
             UPDATE loose SET v = v + 20 WHERE v % 10 = {}; COMMIT",
            n + 1000,
            k % 10
        ),
        3 => format!(
            "BEGIN; DELETE FROM mended WHERE id = {k}; INSERT INTO mended (region, id, mail) VALUES ('o''e{}', {k}, \
             'm{n}-'); COMMIT",
            k % 3
        ),
        4 => format!(
            "BEGIN; UPDATE mended SET mail = 'held' WHERE id = {k}; UPDATE mended SET mail = 'free{n}' WHERE id = 8; \
             UPDATE mended SET mail = 'm8' WHERE id = {k} AND NOT EXISTS (SELECT 1 FROM mended WHERE mail = 'm8'); \
             UPDATE mended SET mail = 'f{n}' WHERE mail = 'held'; COMMIT"
        ),
        5 => format!(
            "UPDATE mended SET big = 'moved {n}', id = CASE WHEN id > 200 THEN id - 200 ELSE id + 200 END \
             WHERE id IN ({k}, {k} + 200)"
        ),
        _ => format!("DELETE FROM keyed WHERE v = {k} AND v > 15"),
    }
}

/// A client of the new primary that works all the time.
struct Busy {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
}

enum Client {
    Server(Session),
    File(Connection),
}

impl Client {
    fn of(place: &Place) -> Result<Client> {
        Ok(match place {
            Place::Server(server) => {
                Client::Server(Session::open(&server.url(DATABASE, Role::Superuser))?)
            }
            Place::File(file) => Client::File(file.connect()?),
        })
    }

    /// Whether the database took it; some of it collides.
    fn run(&mut self, sql: &str) -> Result<bool> {
        match self {
            Client::Server(session) => match session.execute(sql) {
                Ok(_) => Ok(true),
                Err(sqlx::Error::Database(_)) => {
                    session.execute("ROLLBACK")?;
                    Ok(false)
                }
                Err(error) => Err(error.into()),
            },
            Client::File(db) => match db.execute_batch(sql) {
                Ok(()) => Ok(true),
                Err(rusqlite::Error::SqliteFailure(..)) => {
                    if !db.is_autocommit() {
                        db.execute_batch("ROLLBACK")?;
                    }
                    Ok(false)
                }
                Err(error) => Err(error.into()),
            },
        }
    }
}

impl Busy {
    fn start(place: &Place) -> Result<Busy> {
        let stop = Arc::new(AtomicBool::new(false));
        let (ended, mut client) = (Arc::clone(&stop), Client::of(place)?);
        let thread = thread::spawn(move || {
            let mut done = 0;
            for n in 0.. {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                done += u64::from(client.run(&work(n))?);
                // Others want the file as well.
                thread::sleep(std::time::Duration::from_millis(3));
            }
            Ok(done)
        });
        Ok(Busy { stop, thread })
    }

    fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow!("the worker panicked"))?
    }
}

/// The rows that nobody touches, with what changes when they are written anew.
fn untouched(place: &Place) -> Result<String> {
    match place {
        Place::Server(server) => server.query(
            "SELECT string_agg(concat_ws(' ', id, n, ctid, xmin), ', ' ORDER BY id) FROM public.mended \
             WHERE id BETWEEN 30 AND 40",
        ),
        Place::File(file) => {
            let db = file.connect_read_only()?;
            let sql = "SELECT group_concat(seen, ', ') FROM (SELECT id || ' ' || n || ' ' || rowid AS seen \
                       FROM mended WHERE id BETWEEN 30 AND 40 ORDER BY id)";
            Ok(db.query_row(sql, [], |row| row.get(0))?)
        }
    }
}

/// Changes one of these rows so that nothing records it.
fn falsify(place: &Place, n: i64) -> Result<()> {
    if let Place::File(file) = place {
        let db = file.connect()?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
        let changed = db.execute("UPDATE mended SET n = ?1 WHERE id = 35", [n])?;
        ensure!(changed == 1);
    }
    Ok(())
}

fn die(group: &mut Mixed, node: &str) -> Result<()> {
    match group.place(node)? {
        Place::File(_) => group.hide(node, true),
        Place::Server(_) => group.server_mut(node)?.kill9(),
    }
}

fn come_back(group: &mut Mixed, node: &str) -> Result<()> {
    match group.place(node)? {
        Place::File(_) => group.hide(node, false),
        Place::Server(_) => group.server_mut(node)?.start(),
    }
}

/// The primary commits `strays` that the log never sees and dies, `new` takes its place and works, and the
/// old one joins again, while the daemon is killed at each place. Returns the audit log from there on.
fn replace(group: &mut Mixed, new: &str, strays: &str) -> Result<String> {
    let old = group.primary()?;
    group.caught_up()?;
    group.daemon.terminate()?;
    group.place(&old)?.execute(strays)?;
    falsify(group.place(&old)?, -77)?;
    let before = untouched(group.place(&old)?)?;
    die(group, &old)?;
    group.daemon.start()?;
    orders::force(&group.daemon, Some(new))?;
    let busy = Busy::start(group.place(new)?)?;
    come_back(group, &old)?;
    orders::wait_held(&group.daemon, &old)?;
    let audit = group.daemon.config().log_dir().join("audit.jsonl");
    let from = std::fs::read_to_string(&audit)?.len();
    group.daemon.terminate()?;
    orders::rejoin_through_deaths(&mut group.daemon, &old)?;
    group.settle()?;
    let done = busy.stop()?;
    ensure!(done > 20, "only {done} transactions ran beside it");
    group.caught_up()?;
    let after = untouched(group.place(&old)?)?;
    ensure!(after == before, "rows were written: {before} → {after}");
    falsify(group.place(&old)?, 0)?;
    group.check_equal()?;
    let audit = std::fs::read_to_string(&audit)?;
    Ok(audit[from..].to_owned())
}

/// By keys, as many as they were, and of `compared` only anything else was looked at.
fn check_audit(audit: &str, keys: usize, compared: &[&str]) -> Result<()> {
    let mended = format!("\"keys\":{keys}");
    ensure!(
        audit.contains("replica.mend") && audit.contains(&mended),
        "{keys} keys were not replaced: {audit}"
    );
    for table in ["mended", "keyed", "loose", "nul", "odd"] {
        let whole = audit.contains(&format!(".{table}\""));
        let wanted = compared.contains(&table);
        ensure!(whole == wanted, "{table} compared: {whole}: {audit}");
    }
    Ok(())
}

fn start(nodes: &[(&'static str, Kind)], tables: &str) -> Result<Mixed> {
    let schema = format!("{tables}{}", rows(nodes[0].1, nodes[0].1));
    Mixed::start(nodes, &schema, |config, _| config)
}

/// Has the rows again that strays will touch.
fn restore(group: &Mixed, first: Kind) -> Result<()> {
    let primary = group.primary()?;
    let now = match group.place(&primary)?.is_file() {
        true => Kind::Lite,
        false => Kind::Pg,
    };
    group.place(&primary)?.execute(&rows(first, now))?;
    group.check_equal()
}

#[test]
fn a_server_and_files_take_each_others_place() -> Result<()> {
    let nodes = [("main", Kind::Pg), ("r1", Kind::Lite), ("r2", Kind::Lite)];
    let mut group = start(&nodes, OF_SERVER)?;
    for new in ["r1", "r2", "main"] {
        let audit = replace(&mut group, new, STRAYS);
        let audit = audit.with_context(|| format!("{new} is the new one"))?;
        check_audit(&audit, TOUCHED, &["loose"])?;
        restore(&group, Kind::Pg)?;
    }
    Ok(())
}

#[test]
fn a_file_and_a_server_take_each_others_place() -> Result<()> {
    let nodes = [("main", Kind::Lite), ("r1", Kind::Pg)];
    let mut group = start(&nodes, OF_FILE)?;
    // No server holds such a text.
    let nul = format!("{STRAYS} INSERT INTO nul VALUES ('a' || char(0) || 'b', 3)");
    let audit = replace(&mut group, "r1", &nul)?;
    check_audit(&audit, TOUCHED, &["loose", "nul"])?;
    restore(&group, Kind::Lite)?;
    let strays = format!("{STRAYS} UPDATE nul SET v = 3 WHERE k = 'a'");
    let audit = replace(&mut group, "main", &strays)?;
    check_audit(&audit, TOUCHED + 1, &["loose"])
}

/// Between files every value is told exactly.
#[test]
fn files_take_each_others_place_whatever_their_keys_are() -> Result<()> {
    let odd = "CREATE TABLE odd (k NOT NULL PRIMARY KEY, v INTEGER) WITHOUT ROWID;
        INSERT INTO odd VALUES (1, 1), ('1', 2), (x'31', 3), (0.1, 4), (CAST(x'80' AS TEXT), 5), ('X''31''', 6),
                               ('a' || char(0) || 'b', 7), (char(65533), 8), (9223372036854775807, 9), (1e300, 10);";
    let nodes = [("main", Kind::Lite), ("r1", Kind::Lite)];
    let mut group = start(&nodes, &format!("{OF_FILE}{odd}"))?;
    let strays = format!(
        "{STRAYS} UPDATE odd SET v = -v; DELETE FROM odd WHERE k IN ('1', 0.1); INSERT INTO odd VALUES (9e999, 11)"
    );
    let audit = replace(&mut group, "r1", &strays)?;
    check_audit(&audit, TOUCHED + TOUCHED_LOOSELY + 11, &[])?;
    let left = "SELECT count(*) FROM odd WHERE v > 0";
    ensure!(group.place("main")?.query_i64(left)? == 10);
    Ok(())
}
