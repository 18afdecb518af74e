//! What the operator declares about conversion, as plain data.

use crate::schema::TableName;
use crate::select::TablePattern;

/// How rows and tables of one replica are converted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConvertOptions {
    /// Declared losses and other forms; nothing is lost without one.
    pub allow: Vec<Allowance>,
    /// Columns the replica does not get.
    pub exclude: Vec<Exclusion>,
    /// Which of the two a MySQL target is; they name their exact collations differently.
    pub mysql: MysqlFlavor,
}

/// MySQL or MariaDB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MysqlFlavor {
    /// MariaDB 10.6 or newer.
    #[default]
    MariaDb,
    /// MySQL 8.0.17 or newer.
    Mysql,
}

impl MysqlFlavor {
    /// The collation under which strings are equal exactly when their characters are, trailing
    /// blanks included; `utf8mb4_bin` would ignore those.
    pub fn exact_collation(self) -> &'static str {
        match self {
            MysqlFlavor::MariaDb => "utf8mb4_nopad_bin",
            MysqlFlavor::Mysql => "utf8mb4_0900_bin",
        }
    }

    /// Columns an index can have.
    pub(super) fn most_key_columns(self) -> usize {
        match self {
            MysqlFlavor::MariaDb => 32,
            MysqlFlavor::Mysql => 16,
        }
    }
}

/// A declaration that some columns may be carried another way. A selector left out matches
/// everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Tables, by their names at the source.
    pub table: Option<TablePattern>,
    /// Column name, exactly.
    pub column: Option<String>,
    /// Type at the source, with or without its modifiers, whatever the case.
    pub source_type: Option<String>,
    /// What is allowed.
    pub rule: Rule,
}

/// What an [`Allowance`] allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The column holds the source's text form instead of the nearest type of the target.
    Text,
    /// A value outside the target type's range or precision becomes the nearest one inside:
    /// numbers and times are clamped and decimals rounded half away from zero, characters that
    /// cannot be stored become U+FFFD. Has no effect on key columns, since different keys could
    /// become equal; naming one is refused.
    Nearest,
    /// A value that cannot be represented becomes NULL. Has no effect on key and NOT NULL
    /// columns; naming one is refused.
    Null,
}

impl Rule {
    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Rule::Text => "text",
            Rule::Nearest => "nearest",
            Rule::Null => "null",
        }
    }

    /// The rule of that name.
    pub fn from_name(name: &str) -> Option<Rule> {
        [Rule::Text, Rule::Nearest, Rule::Null]
            .into_iter()
            .find(|rule| rule.name() == name)
    }
}

/// A column that a replica does not get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exclusion {
    /// Tables, by their names at the source; all when left out.
    pub table: Option<TablePattern>,
    /// Column name, exactly.
    pub column: String,
}

/// The rules that hold for one column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Allowed {
    pub(super) text: bool,
    pub(super) nearest: bool,
    pub(super) null: bool,
    /// The column was named, not only its table or type.
    pub(super) named: bool,
}

impl ConvertOptions {
    pub(super) fn excludes(&self, table: &TableName, column: &str) -> bool {
        self.exclude.iter().any(|exclusion| {
            exclusion.column == column && exclusion.table.as_ref().is_none_or(|p| p.matches(table))
        })
    }

    pub(super) fn allowed(&self, table: &TableName, column: &str, type_name: &str) -> Allowed {
        let mut allowed = Allowed::default();
        for allowance in &self.allow {
            let applies = allowance.table.as_ref().is_none_or(|p| p.matches(table))
                && allowance.column.as_deref().is_none_or(|c| c == column)
                && allowance
                    .source_type
                    .as_deref()
                    .is_none_or(|wanted| same_type(wanted, type_name));
            if applies {
                allowed.named |= allowance.column.is_some();
                match allowance.rule {
                    Rule::Text => allowed.text = true,
                    Rule::Nearest => allowed.nearest = true,
                    Rule::Null => allowed.null = true,
                }
            }
        }
        allowed
    }
}

fn same_type(wanted: &str, type_name: &str) -> bool {
    let plain = super::kind::TypeWords::of(type_name).word;
    wanted.eq_ignore_ascii_case(type_name) || wanted.eq_ignore_ascii_case(&plain)
}
