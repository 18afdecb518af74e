//! What speaks against a change of role, and what it does not carry over.

use std::collections::BTreeSet;

use repl_core::schema::{TableName, TableSchema, quote_identifier};
use repl_core::select::Selection;
use sqlx::{Executor, PgConnection, Row};

use super::PgRole;
use super::fence::prepared;
use crate::postgres::admin::Admin;
use crate::postgres::catalog::{self, CatalogTable};
use crate::postgres::catalog_error::from_sqlx;
use crate::postgres::hidden;
use crate::postgres::room::more_slots;
use crate::seam::{Finding, Part, Result, SourceTable};

/// First version that lets others than superusers set such parameters.
const PARAMETER_PRIVILEGES: i32 = 150_000;

/// Most names listed in one finding.
const LISTED: usize = 8;

impl PgRole {
    pub(super) async fn look(
        &self,
        admin: &mut Admin,
        part: Part,
        tables: &[SourceTable],
    ) -> Result<Vec<Finding>> {
        let names: Vec<TableName> = tables.iter().map(|table| table.name.clone()).collect();
        let mut findings = rights(&mut admin.connection, &names).await?;
        findings.extend(rules(&mut admin.connection, &names).await?);
        let prepared = prepared(&mut admin.connection).await?;
        if !prepared.is_empty() {
            findings.push(Finding::blocker(
                format!("prepared transactions: {}", prepared.join(", ")),
                "end each by COMMIT PREPARED or ROLLBACK PREPARED",
            ));
        }
        let named = admin.commits_wait_for(&self.capture.options.standby);
        if named.await? && !self.manage_names {
            findings.push(Finding::blocker(
                "synchronous_standby_names names the daemon, which may not change it \
                 (replication.manage_standby_names = false)",
                "let the daemon manage it, or use replctl mode async for the promotion",
            ));
        }
        match part {
            Part::TakesOver => findings.extend(self.as_primary(admin, tables).await?),
            Part::HandsOver => findings.extend(as_replica(admin).await?),
        }
        Ok(findings)
    }

    /// Whether it can be captured from, and holds the tables as they are.
    async fn as_primary(&self, admin: &mut Admin, tables: &[SourceTable]) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        if let Err(error) = admin.preflight().await {
            findings.push(Finding::blocker(error.message, error.advice));
        }
        findings.extend(slots(&mut admin.connection, &self.capture.options.slot).await?);
        let here = catalog::tables(
            &mut admin.connection,
            &Selection::of(tables.iter().map(|table| &table.name)),
            None,
        )
        .await?;
        for wanted in tables.iter().filter_map(|table| table.schema.as_ref()) {
            let found = here.iter().find(|one| one.schema.table == wanted.table);
            findings.extend(unlike(wanted, found));
        }
        Ok(findings)
    }
}

/// How a table differs from the one it is to stand for.
fn unlike(wanted: &TableSchema, found: Option<&CatalogTable>) -> Option<Finding> {
    let name = &wanted.table;
    let Some(found) = found else {
        return Some(Finding::missing(name));
    };
    if !found.refusal.is_empty() {
        return Some(Finding::blocker(
            format!(
                "table {name} could not be captured there: {}",
                found.refusal
            ),
            found.remedy.clone(),
        ));
    }
    let here = &found.schema;
    for column in &wanted.columns {
        match here.columns.iter().find(|one| one.name == column.name) {
            Some(one) if one.type_name == column.type_name => {}
            Some(one) => {
                let what = format!(
                    "column {} of {name} is of type {} there, not {}",
                    column.name, one.type_name, column.type_name
                );
                return Some(Finding::blocker(what, "give it the primary's type"));
            }
            None => {
                let what = format!("table {name} has no column {} there", column.name);
                return Some(Finding::blocker(what, "add the column"));
            }
        }
    }
    for column in &wanted.generated {
        if !here.generated.iter().any(|one| one.name == column.name) {
            let what = format!("{name} does not generate its column {} there", column.name);
            return Some(Finding::blocker(what, "make it a generated column"));
        }
    }
    if let Some(finding) = Finding::superfluous(wanted, here, |a, b| a == b) {
        return Some(finding);
    }
    let key = |schema: &TableSchema| {
        schema
            .key_names()
            .map(str::to_owned)
            .collect::<BTreeSet<_>>()
    };
    (key(wanted) != key(here)).then(|| {
        let what = format!("table {name} has another key there");
        Finding::blocker(what, "give it the primary's key")
    })
}

/// Whether the daemon's role can apply changes here afterwards.
async fn as_replica(admin: &mut Admin) -> Result<Option<Finding>> {
    let doing = |e: sqlx::Error| from_sqlx(&e, "looking at the role's privileges");
    // Before there were privileges for parameters only superusers could.
    let sql = match admin.version >= PARAMETER_PRIVILEGES {
        true => {
            "SELECT current_user::text AS role,
                    has_parameter_privilege('session_replication_role', 'SET') AS may"
        }
        false => {
            "SELECT rolname::text AS role, rolsuper AS may FROM pg_roles
              WHERE rolname = current_user"
        }
    };
    let row = admin.connection.fetch_one(sql).await.map_err(doing)?;
    if row.try_get("may").map_err(doing)? {
        return Ok(None);
    }
    let role = quote_identifier(&row.try_get::<String, _>("role").map_err(doing)?);
    let remedy = match admin.version >= PARAMETER_PRIVILEGES {
        true => format!("GRANT SET ON PARAMETER session_replication_role TO {role};"),
        false => format!("ALTER ROLE {role} SUPERUSER;  (PostgreSQL 15 has a privilege for it)"),
    };
    let what = format!("role {role} could not apply changes there as a replica's");
    Ok(Some(Finding::blocker(what, remedy)))
}

/// What the daemon's role may do here.
async fn rights(connection: &mut PgConnection, tables: &[TableName]) -> Result<Vec<Finding>> {
    let doing = |e: sqlx::Error| from_sqlx(&e, "looking at the role's privileges");
    let schemas: Vec<&str> = tables.iter().map(|table| table.schema.as_str()).collect();
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    let row = sqlx::query(
        "WITH t AS (SELECT c.oid, n.nspname || '.' || c.relname AS name
                      FROM unnest($1::text[], $2::text[]) AS g(schema, name)
                      JOIN pg_namespace n ON n.nspname = g.schema
                      JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = g.name)
         SELECT current_user::text AS role, current_database()::text AS database,
                (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser,
                to_regnamespace('repl') IS NOT NULL AS made,
                coalesce(to_regnamespace('repl') IS NOT NULL
                  AND has_schema_privilege(to_regnamespace('repl')::oid, 'CREATE')
                  OR to_regnamespace('repl') IS NULL
                  AND has_database_privilege(current_database(), 'CREATE'), false) AS schema,
                pg_has_role(current_user, (SELECT datdba FROM pg_database
                  WHERE datname = current_database()), 'USAGE') AS owner,
                pg_has_role(current_user, 'pg_signal_backend', 'USAGE') AS signals,
                EXISTS (SELECT FROM pg_language WHERE lanname = 'plpgsql') AS plpgsql,
                ARRAY(SELECT name::text FROM t WHERE NOT (has_table_privilege(t.oid, 'TRIGGER')
                  AND has_table_privilege(t.oid, 'DELETE')
                  AND pg_has_role(current_user,
                        (SELECT relowner FROM pg_class WHERE oid = t.oid), 'USAGE'))) AS tables,
                ARRAY(SELECT name::text FROM t WHERE row_security_active(t.oid)) AS hidden",
    )
    .bind(schemas)
    .bind(names)
    .fetch_one(&mut *connection)
    .await
    .map_err(doing)?;
    let flag = |name: &str| row.try_get::<bool, _>(name).map_err(doing);
    let text = |name: &str| row.try_get::<String, _>(name).map_err(doing);
    let (role, database) = (
        quote_identifier(&text("role")?),
        quote_identifier(&text("database")?),
    );
    let superuser = flag("superuser")?;
    let mut findings = Vec::new();
    if !flag("plpgsql")? {
        let what = "the language plpgsql, in which the fence is written, is not there";
        findings.push(Finding::blocker(what, "CREATE EXTENSION plpgsql;"));
    }
    if !flag("schema")? {
        let what = format!("role {role} may not create the schema repl, or anything in it");
        let remedy = match flag("made")? {
            true => format!("GRANT CREATE ON SCHEMA repl TO {role};"),
            false => format!("GRANT CREATE ON DATABASE {database} TO {role};"),
        };
        findings.push(Finding::blocker(what, remedy));
    }
    let tables: Vec<String> = row.try_get("tables").map_err(doing)?;
    if !tables.is_empty() && !superuser {
        let what = format!("role {role} does not own {}", listed(&tables));
        let remedy = format!("GRANT the owner's role TO {role};");
        findings.push(Finding::blocker(what, remedy));
    }
    let hidden: Vec<String> = row.try_get("hidden").map_err(doing)?;
    if !hidden.is_empty() {
        let role = text("role")?;
        let what = format!("{}: {}", listed(&hidden), hidden::reason(&role));
        findings.push(Finding::blocker(what, hidden::remedy(&role)));
    }
    if !flag("owner")? && !superuser {
        let what = format!(
            "role {role} does not own the database: new sessions will not be read-only by default, \
             only the tables refuse writes"
        );
        let remedy = format!("ALTER DATABASE {database} OWNER TO {role};");
        findings.push(Finding::note(what, remedy));
    }
    if !flag("signals")? && !superuser {
        let what = format!("role {role} may not end the sessions of clients");
        let remedy = format!("GRANT pg_signal_backend TO {role};");
        findings.push(Finding::note(what, remedy));
    }
    Ok(findings)
}

/// Rules that have something else done than what a statement says: the fence's trigger is not reached
/// then, and whether writes are refused cannot be proved.
const RULES: &str = "
    SELECT format('%I.%I', n.nspname, c.relname) AS name, quote_ident(r.rulename) AS rule,
           CASE r.ev_type WHEN '2' THEN 'UPDATE' WHEN '3' THEN 'INSERT' ELSE 'DELETE' END AS event
      FROM unnest($1::text[], $2::text[]) AS t(schema, name)
      JOIN pg_namespace n ON n.nspname = t.schema
      JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.name AND c.relkind IN ('r', 'p')
      JOIN pg_rewrite r ON r.ev_class = c.oid
     WHERE r.is_instead AND r.ev_type IN ('2', '3', '4') AND r.ev_enabled IN ('O', 'A')
     ORDER BY 1, 2";

async fn rules(connection: &mut PgConnection, tables: &[TableName]) -> Result<Vec<Finding>> {
    let doing = |e: sqlx::Error| from_sqlx(&e, "looking at the tables' rules");
    let schemas: Vec<&str> = tables.iter().map(|table| table.schema.as_str()).collect();
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    let rows = sqlx::query(RULES)
        .bind(schemas)
        .bind(names)
        .fetch_all(connection)
        .await
        .map_err(doing)?;
    let finding = |row: &sqlx::postgres::PgRow| -> sqlx::Result<Finding> {
        let get = |column| row.try_get::<String, _>(column);
        let (name, rule, event) = (get("name")?, get("rule")?, get("event")?);
        let what = format!(
            "the rule {rule} ON {event} DO INSTEAD of {name} keeps statements from the trigger that \
             refuses writes"
        );
        let remedy = format!("ALTER TABLE {name} DISABLE RULE {rule};  (a trigger does as much)");
        // Writes are proved to be refused by a DELETE.
        Ok(match event.as_str() {
            "DELETE" => Finding::blocker(what, remedy),
            _ => Finding::note(what, remedy),
        })
    };
    let found: sqlx::Result<_> = rows.iter().map(finding).collect();
    found.map_err(doing)
}

/// The rules of one table (by its quoted name) that keep a DELETE from its trigger.
pub(super) async fn rules_in_the_way(connection: &mut PgConnection, table: &str) -> Vec<String> {
    let sql = "SELECT quote_ident(rulename) FROM pg_rewrite WHERE ev_class = to_regclass($1)::oid \
               AND is_instead AND ev_type = '4' AND ev_enabled IN ('O', 'A') ORDER BY rulename";
    let found = sqlx::query_scalar(sql).bind(table).fetch_all(connection);
    found.await.unwrap_or_default()
}

/// Whether there is room for the slot.
async fn slots(connection: &mut PgConnection, slot: &str) -> Result<Vec<Finding>> {
    let doing = |e: sqlx::Error| from_sqlx(&e, "looking at the replication slots");
    let row = sqlx::query(
        "SELECT count(*) FILTER (WHERE slot_name <> $1) >= current_setting('max_replication_slots')::int
                  AS full_up,
                count(*) FILTER (WHERE slot_name = $1 AND database IS DISTINCT FROM current_database())
                  > 0 AS taken
           FROM pg_replication_slots",
    )
    .bind(slot)
    .fetch_one(&mut *connection)
    .await
    .map_err(doing)?;
    let mut findings = Vec::new();
    if row.try_get("full_up").map_err(doing)? {
        let remedy = more_slots(connection).await;
        findings.push(Finding::blocker("no replication slot is free", remedy));
    }
    if row.try_get("taken").map_err(doing)? {
        let what = format!("replication slot {slot} belongs to something else");
        findings.push(Finding::blocker(what, "choose another capture.slot_name"));
    }
    Ok(findings)
}

/// What applications may rely on at a primary, and replication does not bring.
const BESIDE: &str = "
    SELECT 'trigger' AS kind, n.nspname || '.' || c.relname || ': ' || t.tgname AS name
      FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
      JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE NOT t.tgisinternal AND t.tgname NOT LIKE 'write\\_fence\\_%'
       AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' AND n.nspname <> 'repl'
    UNION ALL
    SELECT CASE p.prokind WHEN 'p' THEN 'procedure' ELSE 'function' END,
           n.nspname || '.' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')'
      FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
     WHERE n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' AND n.nspname <> 'repl'
       AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass
                          AND d.objid = p.oid AND d.deptype = 'e')
    UNION ALL
    SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
                ELSE 'sequence' END, n.nspname || '.' || c.relname
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('v', 'm', 'S') AND n.nspname <> 'information_schema'
       AND n.nspname !~ '^pg_' AND n.nspname <> 'repl'
       AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                          AND d.objid = c.oid AND d.deptype IN ('e', 'i'))
    UNION ALL
    SELECT 'foreign key', n.nspname || '.' || c.relname || ': ' || k.conname
      FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
      JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE k.contype = 'f' AND k.conparentid = 0
    UNION ALL
    SELECT 'default', n.nspname || '.' || c.relname || '.' || a.attname
      FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
      JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE (a.atthasdef OR a.attidentity <> '') AND NOT a.attisdropped AND a.attnum > 0
       AND c.relkind IN ('r', 'p') AND n.nspname <> 'information_schema'
       AND n.nspname !~ '^pg_' AND n.nspname <> 'repl'
    UNION ALL
    SELECT 'grant', n.nspname || '.' || c.relname || ': ' || x.privilege_type || ' to '
           || coalesce(r.rolname, 'PUBLIC')
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) x
      LEFT JOIN pg_roles r ON r.oid = x.grantee
     WHERE c.relkind IN ('r', 'p', 'S') AND x.grantee <> c.relowner
       AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' AND n.nspname <> 'repl'
    UNION ALL
    SELECT 'row security', n.nspname || '.' || c.relname
           || CASE WHEN c.relforcerowsecurity THEN ' (forced)' ELSE '' END
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relrowsecurity
    UNION ALL
    SELECT 'row security policy', schemaname || '.' || tablename || ': ' || policyname
      FROM pg_policies
    UNION ALL
    SELECT 'extension', extname FROM pg_extension
    UNION ALL
    SELECT 'login role', rolname FROM pg_roles WHERE rolcanlogin";

/// What of the database, beside rows and tables, applications may rely on: kind and name.
pub(super) async fn beside(connection: &mut PgConnection) -> Result<BTreeSet<(String, String)>> {
    let doing = |e: sqlx::Error| from_sqlx(&e, "looking at what else the database holds");
    let rows = connection.fetch_all(BESIDE).await.map_err(doing)?;
    rows.iter()
        .map(|row| Ok((row.try_get("kind")?, row.try_get("name")?)))
        .collect::<sqlx::Result<_>>()
        .map_err(doing)
}

/// At most a few names, and how many more there are.
pub(in crate::postgres) fn listed(names: &[String]) -> String {
    let shown = names.iter().take(LISTED).cloned().collect::<Vec<_>>();
    match names.len().saturating_sub(LISTED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
