//! Writing the statements.

use super::expression::parse;
use super::translate::Translator;
use super::{
    ColumnDescription, ForeignKeyAction, ForeignKeyDescription, GeneratedDdl, GeneratedForeignKey,
    IndexDescription, TableDescription, UniqueDescription, default,
};
use crate::convert::identifier::fitted;
use crate::convert::kind::Kind;
use crate::convert::mapping::{Meaning, map};
use crate::convert::options::Allowed;
use crate::convert::plan::ColumnPlan;
use crate::convert::{Engine, Refusal, TablePlan, check_identifier, quote, quote_table, width};
use crate::schema::{Column, TableName};

pub(super) fn generate(
    description: &TableDescription,
    plan: &TablePlan,
    target: &TableName,
    replica_name: &dyn Fn(&TableName) -> TableName,
) -> Result<GeneratedDdl, Vec<Refusal>> {
    let mut writer = Writer {
        description,
        plan,
        target,
        engine: plan.target(),
        ddl: GeneratedDdl::default(),
    };
    writer.check_names()?;
    writer.namespace();
    writer.table(replica_name);
    writer.constraints();
    if writer.engine != Engine::Sqlite {
        writer.foreign_keys();
    }
    Ok(writer.ddl)
}

struct Writer<'a> {
    description: &'a TableDescription,
    plan: &'a TablePlan,
    target: &'a TableName,
    engine: Engine,
    ddl: GeneratedDdl,
}

impl Writer<'_> {
    fn check_names(&self) -> Result<(), Vec<Refusal>> {
        let mut refusals = Vec::new();
        let mut parts = vec![("name", &self.target.name)];
        if self.engine != Engine::Sqlite {
            parts.push(("schema", &self.target.schema));
        }
        for (part, name) in parts {
            let reserved =
                self.engine == Engine::Sqlite && name.to_ascii_lowercase().starts_with("sqlite_");
            let problem = match check_identifier(self.engine, name) {
                Err(problem) => problem,
                Ok(()) if reserved => "begins with sqlite_, which SQLite keeps for itself".into(),
                Ok(()) => continue,
            };
            refusals.push(Refusal {
                table: self.description.table.clone(),
                column: String::new(),
                source_type: String::new(),
                target: self.engine,
                reason: format!("its {part} at the replica, `{name}`, {problem}"),
                remedy: "give it another name at the replica by a rename, or exclude the table"
                    .into(),
            });
        }
        if refusals.is_empty() {
            Ok(())
        } else {
            Err(refusals)
        }
    }

    fn namespace(&mut self) {
        let schema = &self.target.schema;
        let statement = match self.engine {
            Engine::Sqlite => return,
            Engine::Mysql => format!(
                "CREATE DATABASE IF NOT EXISTS {} CHARACTER SET utf8mb4",
                quote(self.engine, schema)
            ),
            // IF NOT EXISTS would ask for the privilege even where the schema is there.
            Engine::Postgres => {
                let create = format!("CREATE SCHEMA {}", quote(self.engine, schema));
                let name = super::translate::text_literal(self.engine, &quote(self.engine, schema));
                let mut tag = "repl".to_owned();
                while create.contains(&format!("${tag}$")) {
                    tag.push('x');
                }
                format!(
                    "DO ${tag}$ BEGIN IF to_regnamespace({name}) IS NULL THEN {create}; END IF; END ${tag}$"
                )
            }
        };
        self.ddl.before.push(statement);
    }

    fn table(&mut self, replica_name: &dyn Fn(&TableName) -> TableName) {
        let inline_key = self.inline_key();
        let mut parts = Vec::new();
        for column in &self.description.columns {
            if let Some(part) = self.column(column, inline_key.as_deref()) {
                parts.push(part);
            }
        }
        let keyed_in_create = self.engine != Engine::Postgres;
        if keyed_in_create && inline_key.is_none() && self.has_primary_key() {
            let columns = self.quoted(&self.description.primary_key);
            parts.push(format!("PRIMARY KEY ({columns})"));
        }
        parts.extend(self.checks());
        if self.engine == Engine::Sqlite {
            for key in &self.description.foreign_keys {
                if let Some((_, body, tail)) = self.foreign_key(key) {
                    let refers = quote(self.engine, &replica_name(&key.refers).name);
                    parts.push(format!("{body} REFERENCES {refers}{tail}"));
                }
            }
        }
        let options = match self.engine {
            Engine::Mysql => format!(
                " ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE {}",
                self.plan.mysql_flavor().exact_collation()
            ),
            _ => String::new(),
        };
        let name = quote_table(self.engine, self.target);
        self.ddl.create.push(format!(
            "CREATE TABLE {name} ({}){options}",
            parts.join(", ")
        ));
    }

    /// The single integer key that SQLite makes its row number.
    fn inline_key(&self) -> Option<String> {
        match self.description.primary_key.as_slice() {
            [only] if self.engine == Engine::Sqlite => {
                let column = self.plan_of(only)?;
                (column.target_type == "INTEGER").then(|| only.clone())
            }
            _ => None,
        }
    }

    /// Whether the primary key can be one at the target: all its columns are there and never NULL
    /// (SQLite allows NULL in most of its primary keys).
    fn has_primary_key(&self) -> bool {
        !self.description.primary_key.is_empty()
            && self.description.primary_key.iter().all(|name| {
                self.plan_of(name).is_some()
                    && self
                        .described(name)
                        .is_some_and(|column| !column.nullable || column.identity)
            })
    }

    fn described(&self, name: &str) -> Option<&ColumnDescription> {
        self.description
            .columns
            .iter()
            .find(|column| column.name == name)
    }

    fn plan_of(&self, name: &str) -> Option<&ColumnPlan> {
        self.plan
            .columns()
            .iter()
            .find(|column| column.name == name && !column.excluded)
    }

    fn note(&mut self, text: String) {
        self.ddl.notes.push(text);
    }

    fn column(&mut self, column: &ColumnDescription, inline_key: Option<&str>) -> Option<String> {
        if let Some((expression, _)) = &column.generated {
            return self.generated(column, expression);
        }
        let Some(plan) = self.plan_of(&column.name).cloned() else {
            self.note(format!("column `{}` left out: it is excluded", column.name));
            return None;
        };
        let mut part = quote(self.engine, &column.name);
        if !plan.target_type.is_empty() {
            part.push(' ');
            part.push_str(&plan.target_type);
        }
        let key = self.description.primary_key.contains(&column.name);
        if !column.nullable || key && self.has_primary_key() {
            part.push_str(" NOT NULL");
        }
        if inline_key == Some(&column.name) {
            part.push_str(" PRIMARY KEY");
        }
        let drawn = column
            .default
            .as_deref()
            .is_some_and(|default| default.trim_start().starts_with("nextval("));
        if column.identity || drawn {
            part.push_str(&self.numbering(column, &plan));
        } else if let Some(expression) = &column.default {
            match default::translate(expression, self.description.engine, self.engine, &plan) {
                Some(sql) => part.push_str(&format!(" DEFAULT {sql}")),
                None => self.note(format!(
                    "the default of column `{}` left out: {expression} has no equal here",
                    column.name
                )),
            }
        }
        Some(part)
    }

    /// Columns that the engine numbers.
    fn numbering(&mut self, column: &ColumnDescription, plan: &ColumnPlan) -> String {
        let integer = plan.meaning == Meaning::Integer;
        let first_of_key =
            self.has_primary_key() && self.description.primary_key.first() == Some(&column.name);
        match self.engine {
            Engine::Postgres if integer => " GENERATED BY DEFAULT AS IDENTITY".into(),
            // InnoDB numbers one column, the first of a key.
            Engine::Mysql if integer && first_of_key => " AUTO_INCREMENT".into(),
            // The row number, where it is one, numbers itself; numbers are never given out twice, as
            // by a sequence.
            Engine::Sqlite if self.inline_key().as_ref() == Some(&column.name) => {
                " AUTOINCREMENT".into()
            }
            Engine::Sqlite if self.description.primary_key == [column.name.clone()] => {
                String::new()
            }
            _ => {
                self.note(format!(
                    "the numbering of column `{}` left out: {} numbers only the first column of a \
                     primary key",
                    column.name, self.engine
                ));
                String::new()
            }
        }
    }

    /// The source does not send the values of generated columns: the target computes them, or does
    /// without.
    fn generated(&mut self, column: &ColumnDescription, expression: &str) -> Option<String> {
        if self.plan.excludes(&column.name) {
            self.note(format!("column `{}` left out: it is excluded", column.name));
            return None;
        }
        let translated = self.generated_parts(column, expression);
        let Some((type_name, sql)) = translated else {
            self.note(format!(
                "generated column `{}` left out: its expression {expression} has no equal here",
                column.name
            ));
            return None;
        };
        Some(format!(
            "{} {type_name} GENERATED ALWAYS AS ({sql}) STORED",
            quote(self.engine, &column.name)
        ))
    }

    fn generated_parts(
        &self,
        column: &ColumnDescription,
        expression: &str,
    ) -> Option<(String, String)> {
        check_identifier(self.engine, &column.name).ok()?;
        let described = Column {
            name: column.name.clone(),
            type_name: column.type_name.clone(),
            type_id: 0,
            nullable: column.nullable,
            detail: column.detail.clone(),
            composites: None,
        };
        let kind = Kind::of(self.description.engine, &described)?;
        let mut mapped = [map(kind, self.engine, Allowed::default()).ok()?];
        if self.engine == Engine::Mysql {
            width::assign(&mut mapped, &[]).ok()?;
        }
        let expr = parse(expression, self.description.engine)?;
        let [mapped] = mapped;
        let sql = Translator { plan: self.plan }.generated(&expr, mapped.meaning)?;
        // PostgreSQL rounds what it stores, half away from zero. MySQL refuses what it would have to
        // round, but rounds likewise where it is told to.
        let sql = match scale(&mapped.type_name) {
            Some(scale) if mapped.meaning == Meaning::Decimal && self.engine == Engine::Mysql => {
                format!("ROUND({sql}, {scale})")
            }
            _ => sql,
        };
        Some((mapped.type_name, sql))
    }

    fn checks(&mut self) -> Vec<String> {
        let mut parts = Vec::new();
        for check in &self.description.checks {
            let translated = parse(&check.expression, self.description.engine)
                .and_then(|expr| Translator { plan: self.plan }.condition(&expr));
            match translated {
                Some(sql) => parts.push(format!("CHECK {}", enclosed(&sql))),
                None => self.ddl.notes.push(format!(
                    "check constraint {} left out: {} has no certain equal here",
                    named(&check.name),
                    check.expression
                )),
            }
        }
        parts
    }

    /// Keys and indexes that wait until the rows are there.
    fn constraints(&mut self) {
        let table = quote_table(self.engine, self.target);
        if self.has_primary_key() {
            if self.engine == Engine::Postgres {
                let columns = self.quoted(&self.description.primary_key);
                self.ddl
                    .key
                    .push(format!("ALTER TABLE {table} ADD PRIMARY KEY ({columns})"));
            }
        } else if !self.description.primary_key.is_empty() && self.inline_key().is_none() {
            let unique = UniqueDescription {
                name: format!("{}_key", self.target.name),
                columns: self.description.primary_key.clone(),
                nulls_equal: false,
            };
            self.note("the primary key became a unique index: its columns may be NULL".into());
            self.unique(&unique);
        }
        let description = self.description;
        for unique in &description.uniques {
            self.unique(unique);
        }
        for index in &description.indexes {
            self.index(index);
        }
    }

    fn unique(&mut self, unique: &UniqueDescription) {
        if unique.nulls_equal {
            self.note(format!(
                "unique constraint {} left out: NULLS NOT DISTINCT has no equal here",
                named(&unique.name)
            ));
            return;
        }
        let index = IndexDescription {
            name: unique.name.clone(),
            columns: unique.columns.clone(),
            unique: true,
            ..IndexDescription::default()
        };
        self.index(&index);
    }

    fn index(&mut self, index: &IndexDescription) {
        let missing = index
            .columns
            .iter()
            .find(|name| self.plan_of(name).is_none());
        let problem = if index.predicate.is_some() {
            Some("it covers a part of the rows".to_owned())
        } else if let Some(method) = &index.method {
            Some(format!("its method is {method}"))
        } else if index.columns.is_empty() {
            Some("it is over an expression".to_owned())
        } else {
            missing.map(|name| format!("its column `{name}` is not at the replica"))
        };
        if let Some(problem) = problem {
            self.note(format!("index {} left out: {problem}", named(&index.name)));
            return;
        }
        let name = quote(self.engine, &self.index_name(index));
        let unique = if index.unique { "UNIQUE " } else { "" };
        let columns = self.index_columns(index);
        let statement = match self.engine {
            Engine::Sqlite => format!(
                "CREATE {unique}INDEX {}.{name} ON {} ({columns})",
                quote(self.engine, &self.target.schema),
                quote(self.engine, &self.target.name)
            ),
            _ => format!(
                "CREATE {unique}INDEX {name} ON {} ({columns})",
                quote_table(self.engine, self.target)
            ),
        };
        self.ddl.after.push(statement);
    }

    /// Names of indexes are the table's own in MySQL; elsewhere they share a space with all
    /// others, so the table's name goes in front.
    fn index_name(&self, index: &IndexDescription) -> String {
        let own = if index.name.is_empty() {
            format!("{}_key", index.columns.join("_"))
        } else {
            index.name.clone()
        };
        let name = if self.engine == Engine::Mysql || own.starts_with(&self.target.name) {
            own
        } else {
            format!("{}_{own}", self.target.name)
        };
        fitted(self.engine, &name)
    }

    fn index_columns(&self, index: &IndexDescription) -> String {
        if self.engine != Engine::Mysql || index.unique {
            return self.quoted(&index.columns);
        }
        // An index that keeps no rows apart may cover the beginnings of long columns.
        let share = width::KEY_BYTES / index.columns.len().max(1) as u32;
        let columns: Vec<String> = index
            .columns
            .iter()
            .map(|name| {
                let quoted = quote(self.engine, name);
                match self
                    .plan_of(name)
                    .and_then(|column| prefix(&column.target_type, share))
                {
                    Some(length) => format!("{quoted}({length})"),
                    None => quoted,
                }
            })
            .collect();
        columns.join(", ")
    }

    fn quoted(&self, columns: &[String]) -> String {
        let columns: Vec<String> = columns.iter().map(|c| quote(self.engine, c)).collect();
        columns.join(", ")
    }

    fn foreign_keys(&mut self) {
        let description = self.description;
        for key in &description.foreign_keys {
            if let Some((head, body, tail)) = self.foreign_key(key) {
                // The source may hold rows that its foreign key does not fit (SQLite need not
                // enforce them), and tables still joining the stream may for a while.
                let unchecked = if self.engine == Engine::Postgres {
                    " NOT VALID"
                } else {
                    ""
                };
                self.ddl.foreign_keys.push(GeneratedForeignKey {
                    refers: key.refers.clone(),
                    head: format!("{head} ADD {body} REFERENCES "),
                    tail: format!("{tail}{unchecked}"),
                });
            }
        }
    }

    /// `ALTER TABLE …`, `FOREIGN KEY (…)`, and what follows the name of the table referred to.
    fn foreign_key(&mut self, key: &ForeignKeyDescription) -> Option<(String, String, String)> {
        if let Some(name) = key.columns.iter().find(|name| self.plan_of(name).is_none()) {
            let note = format!(
                "foreign key {} left out: its column `{name}` is not at the replica",
                named(&key.name)
            );
            self.note(note);
            return None;
        }
        let mut tail = String::new();
        if !key.referred_columns.is_empty() {
            tail = format!(" ({})", self.quoted(&key.referred_columns));
        } else if self.engine == Engine::Mysql {
            self.note(format!(
                "foreign key {} left out: the columns it refers to are not named",
                named(&key.name)
            ));
            return None;
        }
        for (event, action) in [("UPDATE", key.on_update), ("DELETE", key.on_delete)] {
            tail.push_str(&self.action(key, event, action));
        }
        if key.deferred && self.engine != Engine::Mysql {
            tail.push_str(" DEFERRABLE INITIALLY DEFERRED");
        }
        Some((
            format!("ALTER TABLE {}", quote_table(self.engine, self.target)),
            format!("FOREIGN KEY ({})", self.quoted(&key.columns)),
            tail,
        ))
    }

    fn action(
        &mut self,
        key: &ForeignKeyDescription,
        event: &str,
        action: ForeignKeyAction,
    ) -> String {
        let words = match action {
            ForeignKeyAction::NoAction => return String::new(),
            ForeignKeyAction::Restrict => "RESTRICT",
            ForeignKeyAction::Cascade => "CASCADE",
            ForeignKeyAction::SetNull => "SET NULL",
            ForeignKeyAction::SetDefault if self.engine == Engine::Mysql => {
                self.note(format!(
                    "foreign key {}: ON {event} SET DEFAULT left out, InnoDB does not have it",
                    named(&key.name)
                ));
                return String::new();
            }
            ForeignKeyAction::SetDefault => "SET DEFAULT",
        };
        format!(" ON {event} {words}")
    }
}

/// How much of a MySQL column an index covers, where not the whole.
fn prefix(type_name: &str, share: u32) -> Option<u32> {
    const USUAL: u32 = 191;
    let most = (share / 4).saturating_sub(1).min(USUAL);
    match type_name {
        "longtext" => Some(most),
        "longblob" => Some(share.min(767).saturating_sub(3)),
        _ => {
            let length: u32 = type_name
                .strip_prefix("varchar(")?
                .strip_suffix(')')?
                .parse()
                .ok()?;
            (length > share / 4).then_some(most)
        }
    }
}

fn enclosed(sql: &str) -> String {
    if sql.starts_with('(') {
        sql.to_owned()
    } else {
        format!("({sql})")
    }
}

fn named(name: &str) -> String {
    if name.is_empty() {
        "without a name".to_owned()
    } else {
        format!("`{name}`")
    }
}

/// Digits behind the point of a `decimal(p,s)`.
fn scale(type_name: &str) -> Option<u32> {
    let inside = type_name.strip_prefix("decimal(")?.strip_suffix(')')?;
    inside.split_once(',')?.1.parse().ok()
}
