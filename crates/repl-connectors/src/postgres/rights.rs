//! What the role at the primary lacks, found before anything runs and without a change.

use repl_core::ErrorKind;
use repl_core::schema::{TableName, quote_identifier};
use sqlx::Row;

use super::admin::Admin;
use super::catalog_error::from_sqlx;
use crate::seam::{ConnectorError, Lacking, Result};

/// The role and the publication.
struct Standing {
    role: String,
    database: String,
    may_create: bool,
    owns_publication: bool,
}

/// A selected table, and what may be done with it.
struct Access {
    table: TableName,
    owner: String,
    owned: bool,
    readable: bool,
}

impl Admin {
    /// A primary whose texts may be in any encoding.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub(super) async fn loose_encoding(&mut self) -> Result<Option<ConnectorError>> {
        let sql = "SELECT pg_catalog.current_setting('server_encoding')";
        let encoding: String = sqlx::query_scalar(sql)
            .fetch_one(&mut self.connection)
            .await
            .map_err(|e| from_sqlx(&e, "asking for the database's encoding"))?;
        if encoding != "SQL_ASCII" {
            return Ok(None);
        }
        let what = "the primary's database has the encoding SQL_ASCII, which takes texts in any encoding: a replica is \
                    paused at a row whose text is not UTF-8, and names it";
        Ok(Some(ConnectorError::new(ErrorKind::Configuration, what).advice(
            "find such texts before you start: a restore of pg_dump's output into a database made with ENCODING 'UTF8' \
             TEMPLATE template0 names the first; correct them, or make the primary such a database",
        )))
    }

    /// What keeps these tables from being captured or copied. `manage` says that the publication is the
    /// daemon's to make.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn lacking(&mut self, tables: &[TableName], manage: bool) -> Result<Lacking> {
        let standing = self.standing().await?;
        let access = self.access(tables).await?;
        let published = self.published().await?;
        let name = quote_identifier(self.publication());
        let none = standing.refusal(self.publication(), published.is_some(), manage, &access);
        let published = published.unwrap_or_default();
        let mut some = Vec::new();
        let unread: Vec<&Access> = access.iter().filter(|one| !one.readable).collect();
        if !unread.is_empty() {
            let what = format!("role {} may not read {}", standing.role, listed(&unread));
            let advice = format!(
                "run, as the owner: GRANT SELECT ON {0} TO {1};  and GRANT USAGE ON SCHEMA {2} TO {1};",
                unread[0].table.quoted(),
                quote_identifier(&standing.role),
                quote_identifier(&unread[0].table.schema)
            );
            some.push(ConnectorError::new(ErrorKind::Privilege, what).advice(advice));
        }
        let held = |one: &Access| published.contains(&one.table) || manage && one.owned;
        let left_out = |one: &&Access| none.is_none() && !held(one);
        let left_out: Vec<&Access> = access.iter().filter(left_out).collect();
        if let Some(first) = left_out.first() {
            let what = format!("publication {name} does not hold {}", listed(&left_out));
            let add = format!(
                "ALTER PUBLICATION {name} ADD TABLE ONLY {};",
                first.table.quoted()
            );
            let advice = match manage {
                true => format!(
                    "run: GRANT {} TO {};  or, as the owner: {add}",
                    quote_identifier(&first.owner),
                    quote_identifier(&standing.role)
                ),
                false => format!("run, as the owner: {add}"),
            };
            some.push(ConnectorError::new(ErrorKind::Privilege, what).advice(advice));
        }
        Ok(Lacking { all: none, some })
    }

    async fn standing(&mut self) -> Result<Standing> {
        let doing = |e: sqlx::Error| from_sqlx(&e, "looking at the role's privileges");
        let row = sqlx::query(
            "SELECT current_user::text AS role, current_database()::text AS database,
                    has_database_privilege(current_database(), 'CREATE') AS may_create,
                    coalesce(pg_has_role(p.pubowner, 'USAGE'), false) AS owns_publication
               FROM (SELECT $1::text AS name) g LEFT JOIN pg_publication p ON p.pubname = g.name",
        )
        .bind(self.publication().to_owned())
        .fetch_one(&mut self.connection)
        .await
        .map_err(doing)?;
        Ok(Standing {
            role: row.try_get("role").map_err(doing)?,
            database: row.try_get("database").map_err(doing)?,
            may_create: row.try_get("may_create").map_err(doing)?,
            owns_publication: row.try_get("owns_publication").map_err(doing)?,
        })
    }

    async fn access(&mut self, tables: &[TableName]) -> Result<Vec<Access>> {
        let doing = |e: sqlx::Error| from_sqlx(&e, "looking at the role's privileges");
        let schemas: Vec<String> = tables.iter().map(|table| table.schema.clone()).collect();
        let names: Vec<String> = tables.iter().map(|table| table.name.clone()).collect();
        let rows = sqlx::query(
            "SELECT g.schema, g.name, pg_get_userbyid(c.relowner)::text AS owner,
                    pg_has_role(c.relowner, 'USAGE') AS owned,
                    has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
                        AS readable
               FROM unnest($1::text[], $2::text[]) AS g(schema, name)
               JOIN pg_namespace n ON n.nspname = g.schema
               JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = g.name
              ORDER BY 1, 2",
        )
        .bind(schemas)
        .bind(names)
        .fetch_all(&mut self.connection)
        .await
        .map_err(doing)?;
        let access = |row: &sqlx::postgres::PgRow| -> std::result::Result<Access, sqlx::Error> {
            let text = |column: &str| row.try_get::<String, _>(column);
            Ok(Access {
                table: TableName::new(text("schema")?, text("name")?),
                owner: text("owner")?,
                owned: row.try_get("owned")?,
                readable: row.try_get("readable")?,
            })
        };
        rows.iter()
            .map(access)
            .collect::<std::result::Result<_, _>>()
            .map_err(doing)
    }
}

impl Standing {
    /// Why there can be no publication at all.
    fn refusal(
        &self,
        publication: &str,
        published: bool,
        manage: bool,
        access: &[Access],
    ) -> Option<ConnectorError> {
        let (name, role) = (quote_identifier(publication), quote_identifier(&self.role));
        let error = |kind, what, advice| Some(ConnectorError::new(kind, what).advice(advice));
        if !published && !manage {
            let each = |one: &Access| format!("ONLY {}", one.table.quoted());
            let tables: Vec<String> = access.iter().map(each).collect();
            return error(
                ErrorKind::Configuration,
                format!(
                    "publication {name} does not exist, and capture.manage_publication is false"
                ),
                format!(
                    "run, as the tables' owner: CREATE PUBLICATION {name} FOR TABLE {};",
                    tables.join(", ")
                ),
            );
        }
        if !published && !self.may_create {
            return error(
                ErrorKind::Privilege,
                format!("role {} may not make the publication {name}", self.role),
                format!(
                    "run: GRANT CREATE ON DATABASE {} TO {role};",
                    quote_identifier(&self.database)
                ),
            );
        }
        if published && manage && !self.owns_publication {
            return error(
                ErrorKind::Privilege,
                format!("publication {name} is not role {}'s to change", self.role),
                format!(
                    "run: ALTER PUBLICATION {name} OWNER TO {role};  or set \
                     capture.manage_publication = false"
                ),
            );
        }
        None
    }
}

fn listed(tables: &[&Access]) -> String {
    let names: Vec<String> = tables.iter().map(|one| one.table.to_string()).collect();
    super::role::listed(&names)
}
