//! A PostgreSQL source.

use mysql_async::prelude::Queryable;
use repl_connectors::postgres::snapshot::PgSnapshots;
use repl_connectors::seam::{Snapshot, SnapshotSource};
use repl_core::convert::Engine;
use repl_core::convert::ddl::{
    CheckDescription, ColumnDescription, ForeignKeyAction, ForeignKeyDescription, IndexDescription,
    TableDescription, UniqueDescription,
};
use repl_core::schema::{TableName, TypeDetail};
use rusqlite::Connection;

use crate::server::shared;
use crate::{column, described, made_in_mariadb, names, statements};

const MUSIC: &str = r#"
    CREATE SCHEMA "Music";
    SET search_path = "Music";
    CREATE TYPE "Medium" AS ENUM ('vinyl', 'it''s CD', 'file');
    CREATE DOMAIN price AS numeric(10,2) DEFAULT 0.99 CHECK (VALUE >= 0);
    CREATE DOMAIN tags AS varchar(8)[];
    CREATE DOMAIN favourite AS "Medium";
    CREATE TYPE size AS (width int, "Height" numeric(4,1));
    CREATE TABLE "Artist" ("ArtistId" int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        "Name" varchar(120) NOT NULL UNIQUE);
    CREATE TABLE "Album" ("AlbumId" serial PRIMARY KEY, "Title" varchar(160) NOT NULL,
        "ArtistId" int NOT NULL CONSTRAINT made_by REFERENCES "Artist" ON DELETE CASCADE
            DEFERRABLE INITIALLY DEFERRED, "Medium" "Medium" NOT NULL DEFAULT 'vinyl',
        CONSTRAINT "Titles" UNIQUE ("ArtistId", "Title"));
    CREATE TABLE "Track" ("TrackId" bigint PRIMARY KEY, "AlbumId" int REFERENCES "Album"
            ON UPDATE CASCADE ON DELETE SET NULL, "Milliseconds" int NOT NULL,
        unit price NOT NULL, copies int NOT NULL DEFAULT 1,
        total numeric(12,2) GENERATED ALWAYS AS (unit * copies) STORED,
        half int GENERATED ALWAYS AS ("Milliseconds" * 2) STORED,
        labels tags, counts int[], "Format" favourite, cover size, span int4range,
        spans datemultirange, "Added" timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT "long" CHECK ("Milliseconds" > 0 AND copies BETWEEN 1 AND 100));
    CREATE INDEX "Durations" ON "Track" ("Milliseconds" DESC) INCLUDE (copies);
    CREATE INDEX found ON "Track" (abs(copies));
    CREATE INDEX some_of ON "Track" (copies) WHERE copies > 1;
    CREATE INDEX tagged ON "Track" USING gin (labels);
"#;

struct Source {
    database: String,
}

impl Source {
    async fn new(sql: &str) -> Source {
        let database = shared().database().await;
        let source = Source { database };
        source.sql(sql).await;
        source
    }

    async fn sql(&self, sql: &str) {
        let mut client = shared().client(&self.database).await;
        client.simple(sql).await.unwrap();
    }

    async fn snapshot(&self) -> Box<dyn Snapshot> {
        let snapshots = PgSnapshots::new(shared().target(&self.database));
        snapshots.snapshot().await.unwrap()
    }
}

fn music(name: &str) -> TableName {
    TableName::new("Music", name)
}

fn defaulted(column: ColumnDescription, default: &str) -> ColumnDescription {
    ColumnDescription {
        default: Some(default.into()),
        ..column
    }
}

fn computed(column: ColumnDescription, expression: &str) -> ColumnDescription {
    ColumnDescription {
        generated: Some((expression.into(), true)),
        ..column
    }
}

fn detailed(column: ColumnDescription, detail: TypeDetail) -> ColumnDescription {
    ColumnDescription {
        detail: Some(detail),
        ..column
    }
}

fn labels() -> TypeDetail {
    TypeDetail::Enum {
        labels: names(["vinyl", "it's CD", "file"]),
    }
}

fn domain(base: &str, detail: Option<TypeDetail>) -> TypeDetail {
    TypeDetail::Domain {
        base: base.into(),
        detail: detail.map(Box::new),
    }
}

fn array(element: &str) -> TypeDetail {
    TypeDetail::Array {
        element: element.into(),
    }
}

fn range(subtype: &str) -> TypeDetail {
    TypeDetail::Range {
        subtype: subtype.into(),
    }
}

fn track_columns() -> Vec<ColumnDescription> {
    let size = TypeDetail::Composite {
        fields: [("width", "integer"), ("Height", "numeric(4,1)")]
            .map(|(name, type_name)| (name.to_owned(), type_name.to_owned()))
            .to_vec(),
    };
    let price = column("unit", "\"Music\".price", false);
    let total = column("total", "numeric(12,2)", true);
    let added = column("Added", "timestamp with time zone", false);
    vec![
        column("TrackId", "bigint", false),
        column("AlbumId", "integer", true),
        column("Milliseconds", "integer", false),
        defaulted(detailed(price, domain("numeric(10,2)", None)), "0.99"),
        defaulted(column("copies", "integer", false), "1"),
        computed(total, "((unit)::numeric * (copies)::numeric)"),
        computed(column("half", "integer", true), "(\"Milliseconds\" * 2)"),
        detailed(
            column("labels", "\"Music\".tags", true),
            domain(
                "character varying(8)[]",
                Some(array("character varying(8)")),
            ),
        ),
        detailed(column("counts", "integer[]", true), array("integer")),
        detailed(
            column("Format", "\"Music\".favourite", true),
            domain("\"Music\".\"Medium\"", Some(labels())),
        ),
        detailed(column("cover", "\"Music\".size", true), size),
        detailed(column("span", "int4range", true), range("integer")),
        detailed(column("spans", "datemultirange", true), range("date")),
        defaulted(added, "now()"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_described_with_all_it_has() {
    let source = Source::new(MUSIC).await;
    let mut snapshot = source.snapshot().await;
    let found = described(snapshot.as_mut(), &music("Track")).await;
    let index = |name: &str, columns: Vec<String>| IndexDescription {
        name: name.into(),
        columns,
        ..IndexDescription::default()
    };
    let expected = TableDescription {
        engine: Engine::Postgres,
        table: music("Track"),
        columns: track_columns(),
        primary_key: names(["TrackId"]),
        uniques: Vec::new(),
        indexes: vec![
            index("Durations", names(["Milliseconds"])),
            index("found", Vec::new()),
            IndexDescription {
                predicate: Some("(copies > 1)".into()),
                ..index("some_of", names(["copies"]))
            },
            IndexDescription {
                method: Some("gin".into()),
                ..index("tagged", names(["labels"]))
            },
        ],
        checks: vec![CheckDescription {
            name: "long".into(),
            expression: "((\"Milliseconds\" > 0) AND ((copies >= 1) AND (copies <= 100)))".into(),
        }],
        foreign_keys: vec![ForeignKeyDescription {
            name: "Track_AlbumId_fkey".into(),
            columns: names(["AlbumId"]),
            refers: music("Album"),
            referred_columns: names(["AlbumId"]),
            on_update: ForeignKeyAction::Cascade,
            on_delete: ForeignKeyAction::SetNull,
            deferred: false,
        }],
    };
    assert_eq!(found.description, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn numbering_uniques_and_deferred_references_are_described() {
    let source = Source::new(MUSIC).await;
    let mut snapshot = source.snapshot().await;
    let artist = described(snapshot.as_mut(), &music("Artist"))
        .await
        .description;
    assert!(artist.columns[0].identity && artist.columns[0].default.is_none());
    let album = described(snapshot.as_mut(), &music("Album"))
        .await
        .description;
    assert!(album.columns[0].identity);
    let medium = defaulted(
        column("Medium", "\"Music\".\"Medium\"", false),
        "'vinyl'::\"Music\".\"Medium\"",
    );
    assert_eq!(album.columns[3], detailed(medium, labels()));
    assert_eq!(
        album.uniques,
        [UniqueDescription {
            name: "Titles".into(),
            columns: names(["ArtistId", "Title"]),
            nulls_equal: false,
        }]
    );
    let [key] = album.foreign_keys.as_slice() else {
        panic!("{:?}", album.foreign_keys)
    };
    assert_eq!((key.name.as_str(), key.deferred), ("made_by", true));
    assert_eq!(key.on_delete, ForeignKeyAction::Cascade);
    assert!(snapshot.describe(&music("Gone")).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tables_can_be_made_in_sqlite() {
    let source = Source::new(MUSIC).await;
    let mut snapshot = source.snapshot().await;
    let mut made = Vec::new();
    for table in ["Artist", "Album", "Track"] {
        let described = described(snapshot.as_mut(), &music(table)).await;
        made.push(described.made(Engine::Sqlite, "main"));
    }
    let db = Connection::open_in_memory().unwrap();
    db.execute_batch("PRAGMA foreign_keys = ON").unwrap();
    for sql in statements(&made, TableName::quoted) {
        db.execute_batch(&sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    db.execute_batch(
        "INSERT INTO \"Artist\" (\"Name\") VALUES ('A');
         INSERT INTO \"Album\" (\"Title\", \"ArtistId\") VALUES ('T', 1);
         INSERT INTO \"Track\" (\"TrackId\", \"AlbumId\", \"Milliseconds\") VALUES (7, 1, 21)",
    )
    .unwrap();
    let read: (String, i64, i64) = db
        .query_row("SELECT unit, copies, half FROM \"Track\"", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .unwrap();
    assert_eq!(read, ("0.99".into(), 1, 42));
    for refused in [
        "INSERT INTO \"Artist\" (\"Name\") VALUES ('A')",
        "UPDATE \"Track\" SET copies = 101",
        "UPDATE \"Track\" SET \"AlbumId\" = 2",
        "INSERT INTO \"Album\" (\"Title\", \"ArtistId\") VALUES ('T', 1)",
    ] {
        assert!(db.execute_batch(refused).is_err(), "{refused}");
    }
    db.execute_batch("UPDATE \"Album\" SET \"AlbumId\" = 5; DELETE FROM \"Artist\"")
        .unwrap();
    let album: Option<i64> = db
        .query_row("SELECT \"AlbumId\" FROM \"Track\"", [], |row| row.get(0))
        .unwrap();
    assert_eq!(album, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tables_can_be_made_in_mariadb() {
    let source = Source::new(MUSIC).await;
    let mut snapshot = source.snapshot().await;
    let mut tables = Vec::new();
    for table in ["Artist", "Album", "Track"] {
        tables.push(described(snapshot.as_mut(), &music(table)).await);
    }
    let mut session = made_in_mariadb(&tables).await;
    for sql in [
        "INSERT INTO `Artist` (`Name`) VALUES ('A')",
        "INSERT INTO `Album` (`Title`, `ArtistId`) VALUES ('T', 1)",
        "INSERT INTO `Track` (`TrackId`, `AlbumId`, `Milliseconds`) VALUES (7, 1, 21)",
    ] {
        session.query_drop(sql).await.unwrap();
    }
    let sql =
        "SELECT CAST(unit AS char), half, `Medium` FROM `Track` JOIN `Album` USING (`AlbumId`)";
    let row: Option<(String, i64, String)> = session.query_first(sql).await.unwrap();
    assert_eq!(row, Some(("0.99".into(), 42, "vinyl".into())));
    for refused in [
        "INSERT INTO `Artist` (`Name`) VALUES ('A')",
        "UPDATE `Track` SET copies = 101",
        "UPDATE `Track` SET `AlbumId` = 2",
        "INSERT INTO `Album` (`Title`, `ArtistId`) VALUES ('T', 1)",
    ] {
        assert!(session.query_drop(refused).await.is_err(), "{refused}");
    }
}

const ODD: &str = r#"
    CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    CREATE TABLE parent (a int, b int, PRIMARY KEY (b, a)) PARTITION BY LIST (b);
    CREATE TABLE child PARTITION OF parent FOR VALUES IN (1);
    CREATE TABLE plain (id int PRIMARY KEY);
    CREATE TABLE odd (id int PRIMARY KEY, a int, b int, word text COLLATE loose,
        same boolean GENERATED ALWAYS AS (word = 'yes') STORED,
        CONSTRAINT word CHECK (word <> 'no'), period int4range,
        CONSTRAINT fine CHECK (a <> 5),
        CONSTRAINT apart EXCLUDE USING gist (period WITH &&),
        CONSTRAINT nulls UNIQUE NULLS NOT DISTINCT (a),
        CONSTRAINT later UNIQUE (b) DEFERRABLE INITIALLY DEFERRED,
        FOREIGN KEY (a, b) REFERENCES parent (a, b),
        CONSTRAINT partly FOREIGN KEY (a) REFERENCES plain ON DELETE SET NULL (a));
    CREATE UNIQUE INDEX odd_b ON odd (b, a) NULLS NOT DISTINCT;
    ALTER TABLE odd ADD CONSTRAINT new_rows CHECK (a > 0) NOT VALID;
    ALTER TABLE odd ADD CONSTRAINT new_key FOREIGN KEY (b) REFERENCES plain NOT VALID;
"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_means_something_else_elsewhere_is_left_out_of_the_table() {
    let source = Source::new(ODD).await;
    let mut snapshot = source.snapshot().await;
    let odd = described(snapshot.as_mut(), &TableName::new("public", "odd")).await;
    let description = &odd.description;
    let checks: Vec<&str> = description.checks.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(checks, ["fine", "word"]);
    let keys: Vec<(&str, ForeignKeyAction)> = description
        .foreign_keys
        .iter()
        .map(|key| (key.name.as_str(), key.on_delete))
        .collect();
    assert_eq!(keys, [("partly", ForeignKeyAction::NoAction)]);
    let uniques: Vec<(&str, bool)> = description
        .uniques
        .iter()
        .map(|unique| (unique.name.as_str(), unique.nulls_equal))
        .collect();
    assert_eq!(
        uniques,
        [("later", false), ("nulls", true), ("odd_b", true)]
    );

    let made = odd.made(Engine::Sqlite, "main");
    assert!(!made.create[0].contains("word <>") && !made.create[0].contains("same"));
    assert!(made.create[0].contains("CHECK"), "{}", made.create[0]);
    for told in [
        "`same`",
        "`word`",
        "`nulls`",
        "`odd_b`",
        "gist behind a constraint",
    ] {
        let noted = made.notes.iter().any(|note| note.contains(told));
        assert!(noted, "{told}: {:?}", made.notes);
    }
    let db = Connection::open_in_memory().unwrap();
    for sql in statements(&[made], TableName::quoted) {
        db.execute_batch(&sql).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_have_the_keys_of_their_parent() {
    let source = Source::new(
        "CREATE TABLE plain (id int PRIMARY KEY);
         CREATE TABLE parent (a int, b int REFERENCES plain, CHECK (a > 0), PRIMARY KEY (b, a))
             PARTITION BY LIST (b);
         CREATE TABLE child PARTITION OF parent FOR VALUES IN (1);",
    )
    .await;
    let mut snapshot = source.snapshot().await;
    let child = described(snapshot.as_mut(), &TableName::new("public", "child")).await;
    assert_eq!(child.description.primary_key, names(["b", "a"]));
    assert_eq!(child.description.checks[0].expression, "(a > 0)");
    assert_eq!(child.description.foreign_keys.len(), 1);
}
