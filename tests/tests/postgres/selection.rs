//! Which tables go where, under which names; tables that come and go.

use anyhow::Result;
use repl_api::{Membership, TableState};
use repl_tests::content::{self, TablePair};
use repl_tests::daemon::Toml;
use repl_tests::pg::DATABASE;

use super::group::{Group, PATIENCE, assert_contains, wait_query};

fn pairs(names: &[(&str, &str)]) -> Vec<TablePair> {
    let pair = |(source, target): &(&str, &str)| TablePair {
        source: (*source).to_owned(),
        target: (*target).to_owned(),
    };
    names.iter().map(pair).collect()
}

#[test]
fn tables_are_selected_and_renamed_for_the_group_and_for_each_replica() -> Result<()> {
    let group = Group::configured(
        3,
        |primary| {
            primary.execute(
                "CREATE SCHEMA sales; CREATE SCHEMA audit; CREATE TYPE sales.state AS ENUM ('on', 'off');
                 CREATE TABLE users (id int PRIMARY KEY, name text);
                 CREATE TABLE secrets (id int PRIMARY KEY);
                 CREATE TABLE sales.orders (id int PRIMARY KEY, who int REFERENCES users, s sales.state);
                 CREATE TABLE sales.items (id int PRIMARY KEY, \"order\" int REFERENCES sales.orders);
                 CREATE TABLE audit.lines (id int PRIMARY KEY);
                 INSERT INTO users VALUES (1, 'one'), (2, 'two'); INSERT INTO secrets VALUES (1);
                 INSERT INTO sales.orders VALUES (1, 1, 'on'); INSERT INTO sales.items VALUES (1, 1);
                 INSERT INTO audit.lines VALUES (1)",
            )
        },
        |config| {
            // The keys of a node are set right after the node: rebuild the replicas one by one.
            config
                .set("tables", "exclude", &["audit.*"][..])
                .set("tables", "rename", Toml::raw("[{ from = \"public.users\", to = \"app.customers\" }]"))
                .with_of("replica-1", "tables.exclude", &["public.secrets"][..])
                .with_of(
                    "replica-2",
                    "tables.rename",
                    Toml::raw("[{ from = \"sales.*\", to = \"archive.*\" }, { from = \"public.users\", to = \"people.Users\" }]"),
                )
                .with_of("replica-3", "tables.include", &["sales.o*", "public.users"][..])
        },
    )?;
    let check = |group: &Group| -> Result<()> {
        group.caught_up()?;
        let primary = content::pg(&group.primary, DATABASE);
        let expected: [&[(&str, &str)]; 3] = [
            &[
                ("public.users", "app.customers"),
                ("sales.orders", "sales.orders"),
                ("sales.items", "sales.items"),
            ],
            &[
                ("public.users", "people.\"Users\""),
                ("public.secrets", "public.secrets"),
                ("sales.orders", "archive.orders"),
                ("sales.items", "archive.items"),
            ],
            &[
                ("public.users", "app.customers"),
                ("sales.orders", "sales.orders"),
            ],
        ];
        for (server, expected) in group.replicas.iter().zip(expected) {
            let replica = content::pg(server, DATABASE);
            let mut names: Vec<String> = expected.iter().map(|(_, to)| (*to).to_owned()).collect();
            names.sort();
            let mut found = content::Content::tables(&replica)?;
            found.sort();
            assert_eq!(found, names, "{}", server.name());
            content::assert_equal(&primary, &replica, &pairs(expected))?;
        }
        Ok(())
    };
    check(&group)?;
    group.primary.execute(
        "INSERT INTO users VALUES (3, 'three'); UPDATE sales.orders SET who = 3, s = 'off';
         INSERT INTO secrets VALUES (2); INSERT INTO audit.lines VALUES (2);
         BEGIN; DELETE FROM users WHERE id = 2; INSERT INTO sales.items VALUES (2, 1); COMMIT",
    )?;
    check(&group)?;
    let published = "SELECT string_agg(schemaname || '.' || tablename, ' ' ORDER BY 1) FROM pg_publication_tables";
    assert!(!group.primary.query(published)?.contains("audit"));
    group.daemon.finish()
}

#[test]
fn tables_that_appear_vanish_and_come_again_are_followed() -> Result<()> {
    let group = Group::start(2, |primary| {
        primary.execute(
            "CREATE TABLE first (id int PRIMARY KEY, v text); INSERT INTO first VALUES (1, 'a')",
        )
    })?;
    group.equal()?;
    group.primary.execute(
        "CREATE SCHEMA late; CREATE TABLE late.second (id int PRIMARY KEY, v text);
         INSERT INTO late.second SELECT n, 'before' FROM generate_series(1, 1000) n",
    )?;
    wait_query(
        group.replica(),
        "SELECT to_regclass('late.second') IS NOT NULL",
        "t",
    )?;
    group.primary.execute("UPDATE late.second SET v = 'after' WHERE id % 2 = 0; DELETE FROM late.second WHERE id % 3 = 0")?;
    group.equal()?;
    group.table_becomes("late.second", TableState::Replicated)?;

    // Another table of the same name: another shape, other rows.
    group.primary.execute(
        "DROP TABLE first; CREATE TABLE first (code text PRIMARY KEY, id int, extra int[]);
         INSERT INTO first VALUES ('x', 1, '{1,2}'), ('y', 2, NULL)",
    )?;
    for server in &group.replicas {
        wait_query(server, "SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute
                            WHERE attrelid = to_regclass('first') AND attnum > 0 AND NOT attisdropped", "code,id,extra")?;
    }
    group
        .primary
        .execute("UPDATE first SET extra = extra || 3; INSERT INTO first VALUES ('z', 3, '{}')")?;
    group.equal()?;
    group.daemon.finish()
}

#[test]
fn a_table_without_a_replica_identity_is_refused_and_picked_up_once_mended() -> Result<()> {
    let group = Group::start(1, |primary| {
        primary.execute(
            "CREATE TABLE keyed (id int PRIMARY KEY); INSERT INTO keyed VALUES (1);
             CREATE TABLE loose (a int, b text); INSERT INTO loose VALUES (1, 'x'), (1, 'x');
             CREATE TABLE with_index (a int NOT NULL UNIQUE, b text); INSERT INTO with_index VALUES (1, 'x');
             CREATE TABLE \"Nothing\" (id int PRIMARY KEY); ALTER TABLE \"Nothing\" REPLICA IDENTITY NOTHING;
             CREATE UNLOGGED TABLE volatile_one (id int PRIMARY KEY)",
        )
    })?;
    group.caught_up()?;
    let mut remedies = Vec::new();
    for table in [
        "public.loose",
        "public.with_index",
        "public.Nothing",
        "public.volatile_one",
    ] {
        let status = group.daemon.wait_status(table, PATIENCE, |status| {
            status
                .tables
                .iter()
                .find(|one| {
                    one.source.replace('"', "") == table && one.state == TableState::Refused
                })
                .cloned()
        })?;
        remedies.push(status.remedy.unwrap_or_default());
        assert!(!status.reason.unwrap_or_default().is_empty());
    }
    assert_contains(
        &remedies[0],
        "ALTER TABLE \"public\".\"loose\" REPLICA IDENTITY FULL;",
    );
    assert_contains(
        &remedies[1],
        "REPLICA IDENTITY USING INDEX \"with_index_a_key\";",
    );
    assert_contains(&remedies[2], "REPLICA IDENTITY DEFAULT;");
    assert_contains(&remedies[3], "SET LOGGED;");
    let shown = group.replctl(&["tables"])?;
    assert_contains(&shown, "REPLICA IDENTITY FULL");
    // The application is not hurt by being refused.
    group.primary.execute(
        "UPDATE loose SET b = 'y'; DELETE FROM loose WHERE ctid = (SELECT min(ctid) FROM loose)",
    )?;
    for remedy in &remedies {
        group.primary.execute(remedy)?;
    }
    for table in ["loose", "with_index", "\"Nothing\"", "volatile_one"] {
        wait_query(
            group.replica(),
            &format!("SELECT to_regclass('{table}') IS NOT NULL"),
            "t",
        )?;
    }
    group.primary.execute(
        "INSERT INTO loose VALUES (2, 'new'), (2, 'new'); UPDATE loose SET b = 'z' WHERE a = 1;
         UPDATE with_index SET b = 'z'; INSERT INTO volatile_one VALUES (1); INSERT INTO \"Nothing\" VALUES (5)",
    )?;
    group.equal()?;
    assert_eq!(group.state(1)?.membership, Membership::Streaming);
    group.daemon.finish()
}
