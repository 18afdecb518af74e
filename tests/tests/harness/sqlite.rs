use anyhow::Result;
use repl_tests::scratch::Scratch;
use repl_tests::small_disk::SmallDisk;
use repl_tests::sqlite::SqliteDb;

#[test]
fn two_processes_write_one_database() -> Result<()> {
    let scratch = Scratch::new()?;
    let db = SqliteDb::create(&scratch.join("app.db"))?;
    db.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, v)")?;
    db.execute("INSERT INTO t VALUES (1, 'here')")?;
    if let Some(printed) = db.run_cli("INSERT INTO t VALUES (2, 'there'); SELECT v FROM t;")? {
        assert_eq!(printed, "here\nthere");
        assert_eq!(db.query_i64("SELECT count(*) FROM t")?, 2);
        let error = format!(
            "{:#}",
            db.run_cli("SELECT * FROM absent;").expect_err("no table")
        );
        assert!(error.contains("no such table: absent"), "{error}");
    }
    let mode: String = db
        .connect_read_only()?
        .query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    assert_eq!(mode, "wal");
    db.check_integrity()
}

#[test]
fn a_small_disk_fills_and_empties() -> Result<()> {
    let scratch = Scratch::new()?;
    let mount_point = scratch.join("disk");
    let Some(disk) = SmallDisk::mount(&mount_point, 1024)? else {
        return Ok(());
    };
    disk.fill()?;
    let error = std::fs::write(disk.path().join("x"), [0; 8192]).expect_err("a full disk");
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    disk.free()?;
    std::fs::write(disk.path().join("x"), [0; 8192])?;
    drop(disk);
    assert!(!mount_point.join("x").exists());
    Ok(())
}
