//! A SQLite source.

use mysql_async::prelude::Queryable;
use repl_core::convert::Engine;
use repl_core::convert::ddl::{
    CheckDescription, ColumnDescription, ForeignKeyAction, ForeignKeyDescription, IndexDescription,
    TableDescription, UniqueDescription,
};
use repl_core::schema::TableName;

use crate::harness::{Primary, table};
use crate::server::shared;
use crate::{column, described, made_in_mariadb, names, statements};

const MUSIC: &str = r#"
    CREATE TABLE "Artist" ("ArtistId" INTEGER PRIMARY KEY, "Name" NVARCHAR(120) NOT NULL UNIQUE);
    CREATE TABLE Album (AlbumId INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
        Title NVARCHAR(160) NOT NULL COLLATE NOCASE /* as sung */ CHECK (Title <> 'x'),
        ArtistId INTEGER NOT NULL, Medium TEXT DEFAULT "vinyl" CHECK (Medium IN ('vinyl','it''s CD')),
        CONSTRAINT Titles UNIQUE (ArtistId, Title),
        CONSTRAINT made_by FOREIGN KEY (ArtistId) REFERENCES artist (artistid) ON DELETE CASCADE
            DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE [Track] (TrackId INTEGER PRIMARY KEY,
        AlbumId INTEGER REFERENCES Album ON UPDATE CASCADE ON DELETE SET NULL,
        "Milliseconds" INTEGER NOT NULL CONSTRAINT long CHECK ("Milliseconds" > 0), -- of playing
        UnitPrice NUMERIC(10,2) NOT NULL DEFAULT 0.99, copies INT NOT NULL DEFAULT 1,
        half INT GENERATED ALWAYS AS ("Milliseconds" * 2) STORED,
        seen AS (copies + 1), Added TEXT DEFAULT CURRENT_TIMESTAMP,
        CHECK (copies BETWEEN 1 AND 100));
    CREATE INDEX Durations ON Track ("Milliseconds" DESC);
    CREATE INDEX found ON Track (abs(copies));
    CREATE UNIQUE INDEX some_of ON Track (copies) WHERE copies > 1 AND AlbumId IS NOT NULL;
    CREATE TABLE Setting (area TEXT NOT NULL, name TEXT, value BLOB, PRIMARY KEY (name, area))
        WITHOUT ROWID;
    CREATE TABLE Detail (area TEXT, name TEXT, lost REFERENCES Missing (x),
        FOREIGN KEY (name, area) REFERENCES setting, PRIMARY KEY (area));
"#;

fn defaulted(column: ColumnDescription, default: &str) -> ColumnDescription {
    ColumnDescription {
        default: Some(default.into()),
        ..column
    }
}

fn computed(column: ColumnDescription, expression: &str, stored: bool) -> ColumnDescription {
    ColumnDescription {
        generated: Some((expression.into(), stored)),
        ..column
    }
}

fn numbered(name: &str) -> ColumnDescription {
    ColumnDescription {
        identity: true,
        ..column(name, "INTEGER", false)
    }
}

fn check(name: &str, expression: &str) -> CheckDescription {
    CheckDescription {
        name: name.into(),
        expression: expression.into(),
    }
}

fn index(name: &str, columns: Vec<String>) -> IndexDescription {
    IndexDescription {
        name: name.into(),
        columns,
        ..IndexDescription::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_described_with_all_it_has() {
    let primary = Primary::start(MUSIC).await;
    let mut snapshot = primary.snapshot().await;
    let found = described(snapshot.as_mut(), &table("Track")).await;
    let half = column("half", "INT", true);
    let expected = TableDescription {
        engine: Engine::Sqlite,
        table: table("Track"),
        columns: vec![
            numbered("TrackId"),
            column("AlbumId", "INTEGER", true),
            column("Milliseconds", "INTEGER", false),
            defaulted(column("UnitPrice", "NUMERIC(10,2)", false), "0.99"),
            defaulted(column("copies", "INT", false), "1"),
            computed(half, "\"Milliseconds\" * 2", true),
            computed(column("seen", "", true), "copies + 1", false),
            defaulted(column("Added", "TEXT", true), "CURRENT_TIMESTAMP"),
        ],
        primary_key: names(["TrackId"]),
        uniques: Vec::new(),
        indexes: vec![
            index("Durations", names(["Milliseconds"])),
            index("found", Vec::new()),
            IndexDescription {
                unique: true,
                predicate: Some("copies > 1 AND AlbumId IS NOT NULL".into()),
                ..index("some_of", names(["copies"]))
            },
        ],
        checks: vec![
            check("long", "\"Milliseconds\" > 0"),
            check("", "copies BETWEEN 1 AND 100"),
        ],
        foreign_keys: vec![ForeignKeyDescription {
            name: String::new(),
            columns: names(["AlbumId"]),
            refers: table("Album"),
            referred_columns: names(["AlbumId"]),
            on_update: ForeignKeyAction::Cascade,
            on_delete: ForeignKeyAction::SetNull,
            deferred: false,
        }],
    };
    assert_eq!(found.description, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn references_name_tables_and_columns_as_they_are() {
    let primary = Primary::start(MUSIC).await;
    let mut snapshot = primary.snapshot().await;
    let album = described(snapshot.as_mut(), &table("Album"))
        .await
        .description;
    assert_eq!(
        album.foreign_keys,
        [ForeignKeyDescription {
            name: "made_by".into(),
            columns: names(["ArtistId"]),
            refers: table("Artist"),
            referred_columns: names(["ArtistId"]),
            on_update: ForeignKeyAction::NoAction,
            on_delete: ForeignKeyAction::Cascade,
            deferred: true,
        }]
    );
    let unique = UniqueDescription {
        columns: names(["ArtistId", "Title"]),
        ..UniqueDescription::default()
    };
    assert_eq!(album.uniques, [unique]);
    assert_eq!(album.columns[3].default.as_deref(), Some("'vinyl'"));

    let setting = described(snapshot.as_mut(), &table("Setting"))
        .await
        .description;
    assert_eq!(setting.primary_key, names(["name", "area"]));
    assert!(!setting.columns[1].nullable && !setting.columns[1].identity);
    let detail = described(snapshot.as_mut(), &table("Detail"))
        .await
        .description;
    let told: Vec<(&str, &[String])> = detail
        .foreign_keys
        .iter()
        .map(|key| (key.refers.name.as_str(), key.referred_columns.as_slice()))
        .collect();
    let (there, primary_key) = (names(["x"]), names(["name", "area"]));
    assert_eq!(
        told,
        [("Missing", &there[..]), ("Setting", &primary_key[..])]
    );
    assert!(snapshot.describe(&table("Gone")).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tables_can_be_made_in_postgresql() {
    let primary = Primary::start(MUSIC).await;
    let mut snapshot = primary.snapshot().await;
    let mut made = Vec::new();
    for name in ["Artist", "Album", "Track", "Setting"] {
        let described = described(snapshot.as_mut(), &table(name)).await;
        made.push(described.made(Engine::Postgres, "Music"));
    }
    // NOCASE lets 'X' pass no more than 'x'; no other engine's comparison does the same.
    assert!(!made[1].create[0].contains("'x'"), "{}", made[1].create[0]);
    assert!(
        made[1]
            .notes
            .iter()
            .any(|note| note.contains("Title <> 'x'"))
    );
    let there = |name: &TableName| TableName::new("Music", &name.name).quoted();
    let database = shared().database().await;
    let mut client = shared().client(&database).await;
    for sql in statements(&made, there) {
        let run = client.simple(&sql).await;
        run.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    client
        .simple(
            "SET search_path = \"Music\";
             INSERT INTO \"Artist\" (\"Name\") VALUES ('A');
             INSERT INTO \"Album\" (\"Title\", \"ArtistId\") VALUES ('T', 1);
             INSERT INTO \"Track\" (\"TrackId\", \"AlbumId\", \"Milliseconds\") VALUES (7, 1, 21)",
        )
        .await
        .unwrap();
    let sql = "SELECT \"UnitPrice\", copies, half, \"Added\" IS NOT NULL FROM \"Track\"";
    let row = client.simple(sql).await.unwrap().remove(0);
    let expected = ["0.99", "1", "42", "t"].map(|text| Some(text.to_owned()));
    assert_eq!(row, expected);
    for refused in [
        "INSERT INTO \"Artist\" (\"Name\") VALUES ('A')",
        "UPDATE \"Album\" SET \"Medium\" = 'file'",
        "UPDATE \"Track\" SET copies = 101",
        "UPDATE \"Track\" SET \"AlbumId\" = 2",
        "INSERT INTO \"Album\" (\"Title\", \"ArtistId\") VALUES ('T', 1)",
    ] {
        assert!(client.simple(refused).await.is_err(), "{refused}");
    }
    client.simple("DELETE FROM \"Artist\"").await.unwrap();
    let row = client.simple("SELECT \"AlbumId\" FROM \"Track\"").await;
    assert_eq!(row.unwrap(), [[None]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tables_can_be_made_in_mariadb() {
    let primary = Primary::start(MUSIC).await;
    let mut snapshot = primary.snapshot().await;
    let mut tables = Vec::new();
    for name in ["Artist", "Album", "Track", "Setting"] {
        tables.push(described(snapshot.as_mut(), &table(name)).await);
    }
    let mut session = made_in_mariadb(&tables).await;
    for sql in [
        "INSERT INTO `Artist` (`Name`) VALUES ('A')",
        "INSERT INTO `Album` (`Title`, `ArtistId`) VALUES ('T', 1)",
        "INSERT INTO `Track` (`TrackId`, `AlbumId`, `Milliseconds`) VALUES (7, 1, 21)",
    ] {
        session.query_drop(sql).await.unwrap();
    }
    let sql = "SELECT copies, half, `Medium` FROM `Track` JOIN `Album` USING (`AlbumId`)";
    let row: Option<(i64, i64, String)> = session.query_first(sql).await.unwrap();
    assert_eq!(row, Some((1, 42, "vinyl".into())));
    for refused in [
        "UPDATE `Album` SET `Medium` = 'file'",
        "UPDATE `Track` SET copies = 101",
        "UPDATE `Track` SET `AlbumId` = 2",
    ] {
        assert!(session.query_drop(refused).await.is_err(), "{refused}");
    }
}
