//! Random workloads over awkward tables, several writers and schema changes, compared at every
//! stop. The seed is printed; `SEED` and `ROUNDS` in the environment repeat or lengthen a run.

use rusqlite::Connection;

use crate::harness::{Primary, open};

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len() as u64) as usize]
    }

    fn value(&mut self) -> String {
        let n = self.below(7);
        match self.below(8) {
            0 => "NULL".into(),
            1 => format!("'{n}'"),
            2 => format!("{n}.5"),
            3 => format!("'{}'", self.of(&["a", "A", "b", "B ", "b"])),
            4 => format!("x'0{n}'"),
            _ => n.to_string(),
        }
    }
}

const TABLES: &str = "
    CREATE TABLE a (k INTEGER PRIMARY KEY, u UNIQUE, v, w TEXT COLLATE NOCASE UNIQUE);
    CREATE TABLE b (k TEXT COLLATE NOCASE, u INT, v, w, PRIMARY KEY (k, u)) WITHOUT ROWID;
    CREATE UNIQUE INDEX b_v ON b (v, w);
    CREATE TABLE c (k, u UNIQUE, v, w);
    CREATE TABLE d (k INT NOT NULL UNIQUE ON CONFLICT REPLACE, u, v DEFAULT 3 NOT NULL ON CONFLICT REPLACE, w, UNIQUE (u, v));
    CREATE TABLE e (k, u, v, w);
    CREATE TRIGGER a_touch AFTER UPDATE OF v ON a BEGIN UPDATE a SET v = v || '.' WHERE k = NEW.k AND length(NEW.v) < 4; END;
    CREATE TRIGGER c_to_e AFTER DELETE ON c BEGIN INSERT INTO e VALUES (OLD.k, OLD.u, OLD.v, 'from c'); END;
";

fn statement(random: &mut Random) -> String {
    let table = random.of(&["a", "b", "c", "d", "e"]);
    let conflict = random.of(&[
        "",
        "",
        " OR REPLACE",
        " OR REPLACE",
        " OR IGNORE",
        " OR FAIL",
        " OR ROLLBACK",
    ]);
    let column = random.of(&["k", "u", "v", "w"]);
    let (v1, v2) = (random.value(), random.value());
    match random.below(12) {
        0..=4 => {
            let rows: Vec<String> = (0..1 + random.below(4))
                .map(|_| {
                    let values: Vec<String> = (0..4).map(|_| random.value()).collect();
                    format!("({})", values.join(", "))
                })
                .collect();
            let upsert = match random.below(5) {
                0 => " ON CONFLICT DO NOTHING".to_owned(),
                1 => format!(" ON CONFLICT DO UPDATE SET {column} = {v1}"),
                _ => String::new(),
            };
            format!(
                "INSERT{conflict} INTO {table} (k, u, v, w) VALUES {}{upsert}",
                rows.join(", ")
            )
        }
        5..=6 => format!("UPDATE{conflict} {table} SET {column} = {v1}"),
        7 => format!("UPDATE{conflict} {table} SET {column} = {v1} WHERE u IS {v2}"),
        8 => format!("UPDATE{conflict} {table} SET k = k + 1, u = u || 1 WHERE v IS NOT {v2}"),
        9 => format!(
            "INSERT{conflict} INTO {table} SELECT k + 1, u, w, v FROM {table} WHERE u IS NOT {v1}"
        ),
        10 => format!("DELETE FROM {table} WHERE {column} IS {v1}"),
        _ => format!("DELETE FROM {table} WHERE {column} > {v1}"),
    }
}

fn schema_change(random: &mut Random, n: usize) -> String {
    match random.below(6) {
        0 => format!("CREATE INDEX i{n} ON a (v)"),
        1 => format!("CREATE TABLE IF NOT EXISTS other{n} (x)"),
        2 => "BEGIN; CREATE TABLE new_e (k, u, v, w); INSERT INTO new_e SELECT k, u, v, w FROM e; DROP TABLE e; \
              ALTER TABLE new_e RENAME TO e; COMMIT"
            .into(),
        3 => format!("CREATE TRIGGER b{n} AFTER INSERT ON b BEGIN UPDATE b SET w = {n} WHERE k = NEW.k AND u = NEW.u; END"),
        4 => "DROP TRIGGER IF EXISTS \"_repl_capture_d_insert\"".into(),
        _ => "ANALYZE".into(),
    }
}

fn write(db: &Connection, random: &mut Random, statements: u64) {
    let mut depth = 0;
    for _ in 0..statements {
        let sql = match random.below(20) {
            0 => "BEGIN".to_owned(),
            1 => "COMMIT".to_owned(),
            2 => "ROLLBACK".to_owned(),
            3 => {
                depth += 1;
                format!("SAVEPOINT s{depth}")
            }
            4 => format!("ROLLBACK TO s{}", 1 + random.below(depth + 1)),
            5 => format!("RELEASE s{}", 1 + random.below(depth + 1)),
            _ => statement(random),
        };
        // Many must fail: constraints, savepoints that are not there.
        let _ = db.execute_batch(&sql);
    }
    if !db.is_autocommit() {
        let _ = db.execute_batch(if random.below(2) == 0 {
            "COMMIT"
        } else {
            "ROLLBACK"
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_histories_end_equal() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let clock = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let seed = number("SEED").unwrap_or(clock.as_nanos() as u64 | 1);
    println!("SEED={seed}");
    let mut random = Random(seed);
    let mut primary = Primary::start(TABLES).await;
    let mut replica = primary.replica("r").await;
    let other = open(&primary.path);
    other
        .pragma_update(None, "recursive_triggers", true)
        .unwrap();
    let mut changes = 0;
    for round in 0..number("ROUNDS").unwrap_or(150) {
        let writer = if random.below(2) == 0 {
            &primary.db
        } else {
            &other
        };
        let statements = 1 + random.below(30);
        write(writer, &mut random, statements);
        if random.below(10) == 0 {
            changes += 1;
            if other
                .execute_batch(&schema_change(&mut random, changes))
                .is_err()
            {
                let _ = other.execute_batch("ROLLBACK");
            }
            let statements = random.below(5);
            write(&other, &mut random, statements);
        }
        if random.below(8) == 0 {
            primary.stop().await.unwrap();
            write(&other, &mut random, 5);
            primary.run().await;
        }
        if round % 3 == 0 {
            replica.one_by_one = random.below(4) == 0;
            primary.tables(|tables| !tables.is_empty()).await;
            for name in (1..=changes).map(|n| format!("other{n}")) {
                let _ = other.execute_batch(&format!("DROP TABLE IF EXISTS {name}"));
            }
            primary.check(&mut replica).await;
            // Inserts from the table itself would double it for ever.
            for name in ["a", "b", "c", "d", "e"] {
                let _ = other.execute_batch(&format!(
                    "DELETE FROM {name} WHERE (SELECT count(*) FROM {name}) > 200 AND abs(random()) % 10"
                ));
            }
        }
    }
}
