//! Making a [`TablePlan`]: names, types, rules and key lengths of one table.

use std::collections::HashMap;

use super::encode::Encoder;
use super::identifier::{check_identifier, folded_column};
use super::kind::Kind;
use super::mapping::{Fidelity, Mapped, Unmapped, map};
use super::options::{Allowed, ConvertOptions};
use super::plan::{ColumnPlan, Refusal, TablePlan, allow_line, exclude_line};
use super::{Engine, width};
use crate::schema::{Column, Identity, TableSchema};

/// A plan being made.
pub(super) struct Draft<'a> {
    pub(super) schema: &'a TableSchema,
    pub(super) target: Engine,
    pub(super) options: &'a ConvertOptions,
}

impl Draft<'_> {
    pub(super) fn plan(
        &self,
        source: Engine,
        keys: &[Vec<String>],
    ) -> Result<TablePlan, Vec<Refusal>> {
        let same = source == self.target;
        let mut refusals = Vec::new();
        let excluded: Vec<bool> = self
            .schema
            .columns
            .iter()
            .map(|column| self.options.excludes(&self.schema.table, &column.name))
            .collect();
        self.check_excluded_keys(&excluded, &mut refusals);
        if !same {
            self.check_names(&excluded, &mut refusals);
        }
        let mut mapped = Vec::new();
        for column in &self.schema.columns {
            match self.map_column(source, column) {
                Ok(found) => mapped.push(found),
                // Whatever would be found is not used for a column that is left out.
                Err(_) if excluded[mapped.len()] => {
                    mapped.push(as_it_is(column, Allowed::default()))
                }
                Err(refusal) => {
                    refusals.push(*refusal);
                    mapped.push(as_it_is(column, Allowed::default()));
                }
            }
        }
        if !same && self.target == Engine::Mysql {
            self.bound_keys(&mut mapped, keys, &mut refusals);
        }
        if !refusals.is_empty() {
            return Err(refusals);
        }
        Ok(self.finish(source, mapped, &excluded))
    }

    fn finish(
        &self,
        source: Engine,
        mapped: Vec<(Mapped, Option<Kind>, Allowed)>,
        excluded: &[bool],
    ) -> TablePlan {
        let columns: Vec<ColumnPlan> = self
            .schema
            .columns
            .iter()
            .zip(mapped)
            .zip(excluded)
            .map(
                |((column, (mapped, kind, allowed)), &excluded)| ColumnPlan {
                    name: column.name.clone(),
                    source_type: column.type_name.clone(),
                    target_type: mapped.type_name,
                    fidelity: mapped.fidelity,
                    note: mapped.note.to_owned(),
                    excluded,
                    encoder: mapped.encoder,
                    meaning: mapped.meaning,
                    kind,
                    allowed,
                },
            )
            .collect();
        let kept = excluded.iter().filter(|excluded| !**excluded).count();
        TablePlan {
            source,
            target: self.target,
            flavor: self.options.mysql,
            exclude: self.options.exclude.clone(),
            identity: source == self.target && kept == columns.len(),
            schema: self.target_schema(source, &columns),
            columns,
            kept,
        }
    }

    fn target_schema(&self, source: Engine, columns: &[ColumnPlan]) -> TableSchema {
        if source == self.target && columns.iter().all(|column| !column.excluded) {
            return self.schema.clone();
        }
        let mut places = HashMap::new();
        let mut kept = Vec::new();
        for (place, (column, plan)) in self.schema.columns.iter().zip(columns).enumerate() {
            if !plan.excluded {
                places.insert(place, kept.len());
                let same = source == self.target;
                kept.push(Column {
                    name: column.name.clone(),
                    type_name: plan.target_type.clone(),
                    type_id: if same { column.type_id } else { 0 },
                    nullable: column.nullable,
                    detail: column.detail.clone().filter(|_| same),
                    composites: column.composites.clone().filter(|_| same),
                });
            }
        }
        TableSchema {
            id: self.schema.id,
            engine: self.target.name().to_owned(),
            table: self.schema.table.clone(),
            incarnation: self.schema.incarnation.clone(),
            columns: kept,
            identity: match &self.schema.identity {
                Identity::FullRow => Identity::FullRow,
                Identity::Key(key) => Identity::Key(
                    key.iter()
                        .filter_map(|place| places.get(place).copied())
                        .collect(),
                ),
            },
            generated: self
                .schema
                .generated
                .iter()
                .filter(|column| !self.options.excludes(&self.schema.table, &column.name))
                .cloned()
                .collect(),
        }
    }

    fn map_column(
        &self,
        source: Engine,
        column: &Column,
    ) -> Result<(Mapped, Option<Kind>, Allowed), Box<Refusal>> {
        if source == self.target {
            return Ok(as_it_is(column, Allowed::default()));
        }
        let Some(kind) = Kind::of(source, column) else {
            return Err(self.refuse_boxed(
                column,
                format!("rows of {source} cannot be converted by this release"),
                "use a replica of the same engine".into(),
            ));
        };
        let declared = self
            .options
            .allowed(&self.schema.table, &column.name, &column.type_name);
        let key = self.is_key(&column.name);
        let allowed = Allowed {
            nearest: declared.nearest && !key,
            null: declared.null && !key && column.nullable,
            ..declared
        };
        let mapped = map(kind, self.target, allowed).map_err(|Unmapped { reason, text_helps }| {
            let exclude = exclude_line(&self.schema.table, &column.name);
            let remedy = if text_helps {
                let allow = allow_line(&self.schema.table, &column.name, "text");
                format!("declare that its text form may be carried: {allow}, or leave the column out: {exclude}")
            } else {
                format!("leave the column out: {exclude}")
            };
            self.refuse_boxed(column, reason, remedy)
        })?;
        self.check_rules(column, declared, &mapped)?;
        Ok((mapped, Some(kind), allowed))
    }

    /// A rule given for this very column that could not be followed is refused; one for many
    /// columns just does not concern it.
    fn check_rules(
        &self,
        column: &Column,
        declared: Allowed,
        mapped: &Mapped,
    ) -> Result<(), Box<Refusal>> {
        let lossless = matches!(mapped.fidelity, Fidelity::Lossless | Fidelity::Stated);
        if lossless || !declared.named {
            return Ok(());
        }
        let rule = if declared.nearest { "nearest" } else { "null" };
        if self.is_key(&column.name) && (declared.nearest || declared.null) {
            return Err(self.refuse_boxed(
                column,
                format!("the rule {rule:?} could make different keys equal"),
                format!(
                    "remove the rule {rule:?} for this column from `allow`; for a key the rule \
                     \"text\" is possible"
                ),
            ));
        }
        if declared.null && !column.nullable {
            return Err(self.refuse_boxed(
                column,
                "the rule \"null\" is declared for it, but it is NOT NULL".into(),
                "remove the rule \"null\" for this column from `allow`, or use \"nearest\"".into(),
            ));
        }
        Ok(())
    }

    fn is_key(&self, name: &str) -> bool {
        self.schema.key_columns().iter().any(|&place| {
            self.schema
                .columns
                .get(place)
                .is_some_and(|c| c.name == name)
        })
    }

    fn check_excluded_keys(&self, excluded: &[bool], refusals: &mut Vec<Refusal>) {
        for &place in self.schema.key_columns() {
            if let (Some(true), Some(column)) =
                (excluded.get(place), self.schema.columns.get(place))
            {
                refusals.push(self.refuse(
                    column,
                    "it is excluded, but rows are identified by it".into(),
                    "remove it from `exclude`, or exclude the whole table".into(),
                ));
            }
        }
        if !excluded.is_empty() && excluded.iter().all(|excluded| *excluded) {
            refusals.push(self.refuse_table(
                "every column is excluded".into(),
                "exclude the table instead".into(),
            ));
        }
    }

    fn check_names(&self, excluded: &[bool], refusals: &mut Vec<Refusal>) {
        let mut seen: HashMap<String, &str> = HashMap::new();
        let mut kept = 0;
        for (column, _) in self
            .schema
            .columns
            .iter()
            .zip(excluded)
            .filter(|(_, e)| !**e)
        {
            kept += 1;
            let rename = format!(
                "rename the column at the source, or leave it out: {}",
                exclude_line(&self.schema.table, &column.name)
            );
            if let Err(reason) = check_identifier(self.target, &column.name) {
                refusals.push(self.refuse(column, format!("its name {reason}"), rename));
                continue;
            }
            let folded = folded_column(self.target, &column.name);
            if let Some(other) = seen.insert(folded, &column.name) {
                let reason = format!("its name and `{other}` differ in case only");
                refusals.push(self.refuse(column, reason, rename));
            }
        }
        let most = match self.target {
            Engine::Mysql => 1017,
            Engine::Postgres => 1600,
            Engine::Sqlite => 2000,
        };
        if kept > most || kept == 0 {
            let reason = if kept == 0 {
                "it has no columns".to_owned()
            } else {
                format!("it has {kept} columns; {} allows {most}", self.target)
            };
            refusals.push(self.refuse_table(reason, "exclude columns or the table".into()));
        }
    }

    fn bound_keys(
        &self,
        mapped: &mut [(Mapped, Option<Kind>, Allowed)],
        keys: &[Vec<String>],
        refusals: &mut Vec<Refusal>,
    ) {
        let place = |name: &String| self.schema.columns.iter().position(|c| c.name == *name);
        let mut places: Vec<Vec<usize>> = vec![self.schema.key_columns().to_vec()];
        places.extend(
            keys.iter()
                .map(|key| key.iter().filter_map(place).collect()),
        );
        let most = self.options.mysql.most_key_columns();
        if places.iter().any(|key| key.len() > most) {
            refusals.push(self.refuse_table(
                format!("a key of it has more than {most} columns, the target's limit"),
                "identify its rows by a shorter key, or exclude the table".into(),
            ));
            return;
        }
        places.retain(|key| key.iter().all(|place| *place < mapped.len()));
        let mut columns: Vec<Mapped> = mapped.iter().map(|(found, _, _)| found.clone()).collect();
        match width::assign(&mut columns, &places) {
            Ok(()) => {
                for (entry, sized) in mapped.iter_mut().zip(columns) {
                    entry.0 = sized;
                }
            }
            Err(failed) => {
                for width::KeyTooWide(place) in failed {
                    refusals.push(self.refuse(
                        &self.schema.columns[place],
                        format!(
                            "its key has too many or too long columns for an index entry of {} bytes",
                            width::KEY_BYTES
                        ),
                        "identify the table's rows by a shorter key, or exclude the table".into(),
                    ));
                }
            }
        }
    }

    fn refuse_boxed(&self, column: &Column, reason: String, remedy: String) -> Box<Refusal> {
        Box::new(self.refuse(column, reason, remedy))
    }

    fn refuse(&self, column: &Column, reason: String, remedy: String) -> Refusal {
        Refusal {
            table: self.schema.table.clone(),
            column: column.name.clone(),
            source_type: column.type_name.clone(),
            target: self.target,
            reason,
            remedy,
        }
    }

    pub(super) fn refuse_table(&self, reason: String, remedy: String) -> Refusal {
        Refusal {
            table: self.schema.table.clone(),
            column: String::new(),
            source_type: String::new(),
            target: self.target,
            reason,
            remedy,
        }
    }
}

fn as_it_is(column: &Column, allowed: Allowed) -> (Mapped, Option<Kind>, Allowed) {
    let mapped = Mapped::new(column.type_name.clone(), Encoder::Same, width::UNBOUNDED);
    (mapped, None, allowed)
}
