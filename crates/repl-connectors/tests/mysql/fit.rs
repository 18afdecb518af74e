//! Tables that cannot take the source's rows exactly are refused, with the statement that mends.

use mysql_async::prelude::Queryable;
use repl_connectors::mysql::admin::examine;
use repl_connectors::mysql::apply::MySqlApplier;
use repl_connectors::seam::{Applier, Style, TableDdl};
use repl_core::ErrorKind;
use repl_core::batch::Step;

use crate::fixture::*;
use crate::server::{second, shared};

#[tokio::test]
async fn unfit_tables_are_refused_with_the_statement() {
    let mut replica = Replica::new(&[
        "CREATE TABLE engine (id int PRIMARY KEY) ENGINE = MyISAM",
        "CREATE TABLE collation_ (id varchar(20) PRIMARY KEY) CHARACTER SET utf8mb4",
        "CREATE TABLE charset (id int PRIMARY KEY, v varchar(20)) CHARACTER SET latin1",
        "CREATE TABLE type_ (id int PRIMARY KEY, v int)",
        "CREATE TABLE key_ (id int, v bigint)",
        "CREATE TABLE part (id varbinary(20), v bigint, UNIQUE (id(3)))",
        "CREATE TABLE null_ (id int PRIMARY KEY, v bigint NOT NULL)",
        "CREATE TABLE extra (id int PRIMARY KEY, v bigint, w int NOT NULL)",
        "CREATE TABLE made (id int PRIMARY KEY, v bigint AS (id) STORED)",
        "CREATE TABLE lacks (id int PRIMARY KEY)",
        "CREATE VIEW view_ AS SELECT 1 AS id",
        "CREATE TABLE trig (id int PRIMARY KEY, v bigint)",
        "CREATE TRIGGER acts BEFORE INSERT ON trig FOR EACH ROW SET NEW.v = 1",
    ])
    .await;
    for (table, columns, advice) in [
        ("engine", ["*id int", ""], "ENGINE = InnoDB"),
        ("collation_", ["*id varchar(20)", ""], "COLLATE utf8mb4_"),
        (
            "charset",
            ["*id int", "v varchar(20)"],
            "CHARACTER SET utf8mb4",
        ),
        (
            "type_",
            ["*id int", "v bigint"],
            "MODIFY COLUMN `v` bigint NULL",
        ),
        ("key_", ["*id int", "v bigint"], "ADD UNIQUE (`id`)"),
        (
            "part",
            ["*id varbinary(20)", "v bigint"],
            "ADD UNIQUE (`id`)",
        ),
        ("null_", ["*id int", "v bigint"], "MODIFY COLUMN `v` bigint"),
        ("extra", ["*id int", "v bigint"], "MODIFY COLUMN `w` int"),
        ("made", ["*id int", "v bigint"], "MODIFY COLUMN `v` bigint"),
        ("lacks", ["*id int", "v bigint"], "ADD COLUMN `v` bigint"),
        ("view_", ["*id int", ""], "exclude it"),
        ("absent", ["*id int", ""], "resync"),
        ("trig", ["*id int", "v bigint"], "@repl_daemon_apply"),
    ] {
        let columns: Vec<&str> = columns.into_iter().filter(|c| !c.is_empty()).collect();
        let route = replica.route(table, &columns);
        let error = replica.refusal(&route).await;
        assert_eq!(error.kind, ErrorKind::Schema, "{table}");
        assert!(error.advice.contains(advice), "{table}: {}", error.advice);
        assert!(error.code.is_none(), "{table}");
        // Without a fit before, the change itself is refused too.
        let error = replica
            .net(net(&route, &[], &[], &[&["#1", "#1"][..columns.len()]]))
            .await
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Schema, "{table}");
    }
    let long = "n".repeat(65);
    let route = replica.route("lacks", &["*id int", &format!("{long} int")]);
    let error = replica.refusal(&route).await;
    assert!(error.message.contains("64"), "{}", error.message);
    let route = replica.route("lacks", &["*id int", "Id int"]);
    let error = replica.refusal(&route).await;
    assert!(error.message.contains("case"), "{}", error.message);
}

#[tokio::test]
async fn guarded_triggers_do_not_act() {
    let mut replica = Replica::new(&[
        "CREATE TABLE t (id int PRIMARY KEY)",
        "CREATE TABLE audit (id int)",
        "CREATE TRIGGER a AFTER INSERT ON t FOR EACH ROW BEGIN IF @repl_daemon_apply IS NULL \
         THEN INSERT INTO audit VALUES (NEW.id); END IF; END",
    ])
    .await;
    let t = replica.route("t", &["*id int"]);
    replica.fit_ok(&t).await;
    replica.net(net(&t, &[], &[], &[&["#1"]])).await.unwrap();
    replica.run("INSERT INTO t VALUES (2)").await;
    assert_eq!(replica.rows("SELECT id FROM audit").await, ["2"]);
}

#[tokio::test]
async fn names_are_data() {
    let name = "a`b\"; DROP TABLE x; -- :p ?";
    let quoted = name.replace('`', "``");
    let create = format!("CREATE TABLE `{quoted}` (`{quoted}` int PRIMARY KEY, v int)");
    let mut replica = Replica::new(&[&create]).await;
    let t = replica.route(name, &[&format!("*{name} : int"), "v int"]);
    replica.fit_ok(&t).await;
    let many: Vec<Vec<String>> = (0..200)
        .map(|n| vec![format!("#{n}"), "#1".into()])
        .collect();
    let mut table = net(&t, &[], &[], &[]);
    table.inserts = many.iter().map(|v| row(&[&v[0], &v[1]])).collect();
    replica.net(table).await.unwrap();
    let mut table = net(&t, &[&["#0", "?"]], &[&["#1", "#2"]], &[]);
    table.updates = (1..100).map(|n| row(&[&format!("#{n}"), "#2"])).collect();
    replica.net(table.clone()).await.unwrap();
    table.deletes.clear();
    replica.rewrite(table).await.unwrap();
    let sql = format!("SELECT sum(v), count(*) FROM `{quoted}`");
    assert_eq!(replica.rows(&sql).await, ["298|199"]);
}

#[tokio::test]
async fn columns_are_added_and_a_transaction_under_way_starts_again() {
    let mut replica = Replica::new(&["CREATE TABLE t (id int PRIMARY KEY)"]).await;
    let old = replica.route("t", &["*id int"]);
    let new = replica.route("t", &["*id int", "v int"]);
    let ddl = TableDdl {
        create: vec![format!(
            "ALTER TABLE \"{}\".`t` ADD COLUMN v int DEFAULT 5",
            replica.database
        )],
        ..TableDdl::default()
    };
    let now = replica.checkpoint();
    replica.applier.begin(&now).await.unwrap();
    let first = Step::Net(vec![net(&old, &[], &[], &[&["#1"]])]);
    let second = Step::Net(vec![net(&old, &[], &[], &[&["#2"]])]);
    replica.applier.apply(&first, Style::SetWise).await.unwrap();
    replica
        .applier
        .apply(&second, Style::SetWise)
        .await
        .unwrap();
    let error = replica.applier.fit(&new, Some(&ddl)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transient);
    replica.reopen().await;
    assert_eq!(replica.rows("SELECT count(*) FROM t").await, ["0"]);
    replica.applier.begin(&now).await.unwrap();
    replica.applier.apply(&first, Style::SetWise).await.unwrap();
    replica
        .applier
        .apply(&second, Style::SetWise)
        .await
        .unwrap();
    replica.applier.fit(&new, Some(&ddl)).await.unwrap();
    let third = Step::Net(vec![net(&new, &[], &[], &[&["#3", "#3"]])]);
    replica.applier.apply(&third, Style::SetWise).await.unwrap();
    let next = checkpoint(replica.log, 1);
    replica.applier.commit(&next, &[]).await.unwrap();
    assert_eq!(
        replica.rows("SELECT * FROM t ORDER BY id").await,
        ["1|5", "2|5", "3|3"]
    );
}

/// The documented privileges are enough; without those on `repl` its tables go beside the others.
#[tokio::test]
async fn the_documented_privileges_are_enough() {
    for own in [true, false] {
        let mut replica = Replica::new(&["CREATE TABLE t (id int PRIMARY KEY, v int)"]).await;
        let database = replica.database.clone();
        let user = format!("u{}{own}", database);
        let mut statements = vec![
            format!("CREATE USER '{user}'@'%' IDENTIFIED BY 'pw'"),
            format!(
                "GRANT SELECT, INSERT, UPDATE, DELETE, TRIGGER ON {database}.* TO '{user}'@'%'"
            ),
            format!("GRANT CREATE, DROP, ALTER, INDEX, REFERENCES ON {database}.* TO '{user}'@'%'"),
        ];
        statements.push(if own {
            format!("GRANT ALL PRIVILEGES ON repl.* TO '{user}'@'%'")
        } else {
            format!("GRANT CREATE, CREATE TEMPORARY TABLES ON {database}.* TO '{user}'@'%'")
        });
        for statement in &statements {
            replica.admin.query_drop(statement).await.unwrap();
        }
        let mut config = config(&database);
        config.target.user = user.clone();
        config.target.password = Some("pw".into());
        config.group = user;
        replica.applier = MySqlApplier::new(config);
        replica.reopen().await;
        let first = replica.checkpoint();
        replica.applier.set_checkpoint(None, &first).await.unwrap();
        let t = replica.route("t", &["*id int", "v int"]);
        replica.fit_ok(&t).await;
        let mut table = net(&t, &[], &[], &[]);
        table.inserts = (0..300).map(|n| row(&[&format!("#{n}"), "#1"])).collect();
        replica.net(table.clone()).await.unwrap();
        table.updates = std::mem::take(&mut table.inserts);
        replica.net(table.clone()).await.unwrap();
        replica.rewrite(table).await.unwrap();
        let beside = replica.rows("SHOW TABLES LIKE 'repl\\_%'").await;
        assert_eq!(beside.is_empty(), own);
        replica
            .run(&format!(
                "REVOKE TRIGGER ON {database}.* FROM '{}'@'%'",
                statements_user(&statements)
            ))
            .await;
        replica.reopen().await;
        let error = replica.refusal(&t).await;
        assert_eq!(error.kind, ErrorKind::Privilege);
    }
}

fn statements_user(statements: &[String]) -> String {
    let mut parts = statements[0].split('\'');
    parts.nth(1).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_read_only_server_is_told() {
    let mut replica = Replica::on(second(), &[]).await;
    let database = replica.database.clone();
    for sql in [
        "CREATE USER ro@localhost IDENTIFIED BY 'pw'".to_owned(),
        "GRANT ALL PRIVILEGES ON repl.* TO ro@localhost".to_owned(),
        format!("GRANT ALL PRIVILEGES ON {database}.* TO ro@localhost"),
    ] {
        replica.run(&sql).await;
    }
    let mut config = config_on(second(), &database);
    config.target.user = "ro".into();
    config.target.password = Some("pw".into());
    replica.run("SET GLOBAL read_only = ON").await;
    let outcome = MySqlApplier::new(config.clone()).open().await;
    replica.run("SET GLOBAL read_only = OFF").await;
    let error = outcome.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transient);
    assert!(error.advice.contains("read_only"), "{}", error.advice);
    config.target.password = Some("wrong".into());
    let error = MySqlApplier::new(config).open().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Configuration);
    assert_eq!(error.code.as_deref(), Some("1045"));
}

#[tokio::test]
async fn a_server_tells_whether_its_commits_are_durable() {
    let database = shared().database().await;
    let report = examine(&shared().target(&database)).await.unwrap();
    assert!(!report.is_durable());
    let advice = report.durability_advice();
    assert!(advice.contains("innodb_flush_log_at_trx_commit = 1"));
    assert!(!report.read_only);
}
