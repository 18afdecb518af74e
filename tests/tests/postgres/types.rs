//! Every type with its extreme values, and hostile names: copied, inserted, updated, deleted.

use anyhow::{Context, Result};
use repl_tests::pg::{DATABASE, PgServer, Session};
use repl_tests::workload::fixture;

use super::group::Group;

/// The user tables as quoted names.
fn tables(server: &PgServer, condition: &str) -> Result<Vec<String>> {
    let text = server.query(&format!(
        "SELECT coalesce(json_agg(format('%I.%I', n.nspname, c.relname) ORDER BY c.oid), '[]')
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'r' AND n.nspname !~ '^(pg_|information_schema|repl$)' AND {condition}"
    ))?;
    serde_json::from_str(&text).with_context(|| text.clone())
}

/// Moves every row of `table` away and back, so that each is deleted and inserted in the stream.
/// Rows are kept where they can be put back bit by bit, identity columns included.
fn delete_and_insert(session: &mut Session, table: &str) -> Result<()> {
    let columns = session.scalar(&format!(
        "SELECT coalesce(string_agg(quote_ident(attname), ', '), '') FROM pg_attribute
         WHERE attrelid = '{}'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''",
        table.replace('\'', "''")
    ))?;
    let columns = columns.unwrap_or_default();
    let (list, back) = if columns.is_empty() {
        ("*".to_owned(), String::new())
    } else {
        (
            columns.clone(),
            format!("({columns}) OVERRIDING SYSTEM VALUE"),
        )
    };
    session.execute(&format!(
        "CREATE TEMPORARY TABLE kept AS SELECT {list} FROM {table}"
    ))?;
    session.execute(&format!("DELETE FROM {table}"))?;
    session.execute(&format!(
        "INSERT INTO {table} {back} SELECT {list} FROM kept"
    ))?;
    session.execute("DROP TABLE kept")?;
    Ok(())
}

#[test]
fn the_type_matrix_is_copied_and_streamed_without_loss() -> Result<()> {
    let group = Group::start(1, |primary| {
        let mut matrix = std::fs::read_to_string(fixture("pg_types.sql"))?;
        if primary.major()? < 15 {
            // Hours were 32 bits wide in intervals' text then.
            matrix = matrix.replace("2562047788:00:54.775807", "2147483647:00:54.775807");
        }
        primary.execute(&matrix)?;
        // Rows without columns can only be counted; a table of them has nothing to be found by.
        primary.execute("ALTER TABLE types.no_columns REPLICA IDENTITY FULL")
    })?;
    group.equal().context("after the copy")?;

    let mut session = Session::open(
        &group
            .primary
            .socket_url(DATABASE, repl_tests::pg::Role::Superuser),
    )?;
    session.execute("SET TimeZone = 'UTC'; SET lc_monetary = 'C'; SET search_path = types, pg_catalog; SET extra_float_digits = 3")?;
    for table in tables(&group.primary, "n.nspname = 'types'")? {
        delete_and_insert(&mut session, &table).with_context(|| table.clone())?;
    }
    group
        .equal()
        .context("after every row was deleted and inserted")?;

    // Updates by key, by full content, and of the key itself.
    for table in tables(&group.primary, "n.nspname = 'types' AND c.relname ~ '^k_'")? {
        session.execute(&format!(
            "UPDATE {table} SET id = -id, v = v, list = list WHERE id % 2 = 0"
        ))?;
        session.execute(&format!("UPDATE {table} SET v = NULL WHERE id = 1"))?;
        // Every value comes from another row: the new image holds it, the old one another.
        session.execute(&format!(
            "UPDATE {table} t SET v = o.v, list = o.list FROM {table} o WHERE abs(t.id) = abs(o.id) + 1"
        ))?;
    }
    for table in tables(&group.primary, "n.nspname = 'types' AND c.relname ~ '^p_'")? {
        session.execute(&format!("UPDATE {table} SET n = n + 100"))?;
    }
    for table in tables(&group.primary, "n.nspname = 'types' AND c.relname ~ '^f_'")? {
        // One of several equal rows, found by its whole content.
        session.execute(&format!(
            "DELETE FROM {table} WHERE ctid IN (SELECT max(ctid) FROM {table})"
        ))?;
        session.execute(&format!(
            "UPDATE {table} SET v = NULL WHERE ctid = (SELECT min(ctid) FROM {table})"
        ))?;
    }
    session.execute(
        "UPDATE types.toasted SET n = n + 1; UPDATE types.toasted_full SET n = n + 1;
         UPDATE types.toasted SET id = id + 100; UPDATE types.toasted_full SET id = id + 100;
         UPDATE types.wide SET c5 = NULL, c6 = 6; UPDATE types.gap SET d = 'changed';
         UPDATE types.filled SET price = price * 2; UPDATE types.only_key SET id = id || 'x';
         UPDATE types.arrays SET i = i || 7 WHERE i IS NOT NULL AND array_ndims(i) IS DISTINCT FROM 2
            AND array_ndims(i) IS DISTINCT FROM 3",
    )?;
    group.equal().context("after updates of every kind")?;
    for table in tables(&group.primary, "n.nspname = 'types'")? {
        session.execute(&format!("DELETE FROM {table}"))?;
    }
    group.equal().context("after every row was deleted")?;
    group.daemon.finish()
}

#[test]
fn hostile_identifiers_are_data() -> Result<()> {
    let group = Group::start(1, |primary| {
        primary.execute_file(&fixture("pg_identifiers.sql"))
    })?;
    group.equal().context("after the copy")?;
    let mut session = Session::open(
        &group
            .primary
            .socket_url(DATABASE, repl_tests::pg::Role::Superuser),
    )?;
    let all = tables(&group.primary, "true")?;
    for table in &all {
        if table.contains("par.ent") || table.contains("chi") {
            continue;
        }
        delete_and_insert(&mut session, table).with_context(|| table.clone())?;
    }
    for table in tables(
        &group.primary,
        "EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'plain')",
    )? {
        session.execute(&format!(
            "UPDATE {table} SET plain = plain || '; DROP TABLE public.x' "
        ))?;
        let key = session
            .scalar(&format!(
                "SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = '{}'::regclass AND attnum = 1",
                table.replace('\'', "''")
            ))?
            .context("a key")?;
        session.execute(&format!("UPDATE {table} SET {key} = {key} + 10"))?;
    }
    session.execute(
        r#"UPDATE "Dotted.schema"."par.ent" SET "K""2" = "K""2" || '''';
           DELETE FROM "Dotted.schema"."par.ent" WHERE "k.1" = 1"#,
    )?;
    group.equal().context("after the stream")?;
    let witness = group.replica().query("SELECT witness FROM public.x")?;
    assert_eq!(witness, "must still be here at the end");
    group.daemon.finish()
}
