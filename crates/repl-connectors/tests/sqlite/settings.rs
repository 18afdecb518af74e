//! Settings of connections: every PRAGMA of the library is judged.

use repl_connectors::sqlite::settings::{self, Judged, SETTINGS};
use rusqlite::Connection;

#[test]
fn every_pragma_is_judged() {
    let db = Connection::open_in_memory().unwrap();
    let mut list = db.prepare("PRAGMA pragma_list").unwrap();
    let names = list.query_map([], |row| row.get::<_, String>(0)).unwrap();
    let names: Vec<String> = names.map(Result::unwrap).collect();
    assert!(names.len() > 50, "{} PRAGMAs", names.len());
    let unjudged: Vec<&String> = names
        .iter()
        .filter(|name| settings::judged(name).is_none())
        .collect();
    assert!(
        unjudged.is_empty(),
        "nobody has judged whether these can change what a connection reads or writes \
         (sqlite/settings.rs): {unjudged:?}"
    );
}

#[test]
fn a_connection_of_ours_begins_the_same_however_the_library_was_compiled() {
    let db = Connection::open_in_memory().unwrap();
    db.execute_batch(
        "PRAGMA case_sensitive_like=ON; PRAGMA reverse_unordered_selects=ON; \
         PRAGMA recursive_triggers=ON; PRAGMA legacy_alter_table=ON; \
         PRAGMA ignore_check_constraints=ON; PRAGMA count_changes=ON",
    )
    .unwrap();
    settings::pin(&db).unwrap();
    for (name, judged) in SETTINGS {
        let Judged::Pinned("OFF") = judged else {
            continue;
        };
        if *name == "case_sensitive_like" {
            let like: bool = db
                .query_row("SELECT 'a' LIKE 'A'", [], |row| row.get(0))
                .unwrap();
            assert!(like);
            continue;
        }
        let value: i64 = db
            .query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
            .unwrap();
        assert_eq!(value, 0, "{name}");
    }
}
