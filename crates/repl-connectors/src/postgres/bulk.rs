//! Reading rows by COPY in the form a replica's COPY takes, without looking into them.

use bytes::BytesMut;
use repl_core::ErrorKind;
use repl_core::schema::TableSchema;

use super::snapshot::PIECE_BYTES;
use super::wire::PgClient;
use crate::seam::{BulkForm, BulkInto, BulkPiece, ConnectorError, Result};

/// A COPY under way.
pub(super) struct BulkRead {
    pub(super) form: BulkForm,
    /// Messages received: one for each row, and in the binary form one more, the end's.
    messages: u64,
}

impl BulkRead {
    /// Starts the COPY of `query`, which selects all columns of `schema`.
    pub(super) async fn begin(
        client: &mut PgClient,
        query: &str,
        schema: &TableSchema,
        into: &BulkInto<'_>,
    ) -> Result<BulkRead> {
        let form = form(client.major_version(), schema, into);
        let option = option(form);
        let sql = format!("COPY ({query}) TO STDOUT{option}");
        client.copy_out(&sql).await?;
        Ok(BulkRead { form, messages: 0 })
    }

    fn rows(&self) -> u64 {
        match self.form {
            BulkForm::Text => self.messages,
            BulkForm::Binary => self.messages.saturating_sub(1),
        }
    }
}

/// What a COPY statement ends in for this form.
pub(super) fn option(form: BulkForm) -> &'static str {
    match form {
        BulkForm::Text => "",
        BulkForm::Binary => " (FORMAT binary)",
    }
}

/// The next piece; `read` becomes none behind the last.
pub(super) async fn next_piece(
    client: &mut PgClient,
    read: &mut Option<BulkRead>,
) -> Result<Option<BulkPiece>> {
    let Some(now) = read else {
        return Ok(None);
    };
    // The last message is taken in whole.
    let mut data = BytesMut::with_capacity(PIECE_BYTES + PIECE_BYTES / 4);
    let before = now.rows();
    let sent = client
        .take_copy_data(&mut data, PIECE_BYTES, &mut now.messages)
        .await?;
    let counted = now.rows();
    if let Some(sent) = sent {
        if counted != sent {
            return Err(ConnectorError::new(
                ErrorKind::Internal,
                format!("the primary sent {counted} rows of a table and says they were {sent}"),
            ));
        }
        *read = None;
    }
    let rows = counted - before;
    Ok(Some(BulkPiece { data, rows }))
}

/// Binary where that is sure to mean the same at both ends, since it costs both servers less.
fn form(version: u32, schema: &TableSchema, into: &BulkInto<'_>) -> BulkForm {
    let types = schema.columns.iter().map(|column| &*column.type_name);
    let same = types.clone().eq(into.types.iter().copied());
    if same && version == into.version && types.into_iter().all(is_portable) {
        BulkForm::Binary
    } else {
        BulkForm::Text
    }
}

/// Whether values of the type are the same bytes at every server of a version: built-in types, whose
/// numbers are fixed, and that depend on no setting.
fn is_portable(name: &str) -> bool {
    let name = name.trim_end_matches("[]");
    let Some((head, rest)) = name.split_once('(') else {
        return is_plain(name);
    };
    let Some((_, tail)) = rest.split_once(')') else {
        return false;
    };
    is_plain(&format!("{head}{tail}"))
}

fn is_plain(name: &str) -> bool {
    matches!(
        name,
        "smallint"
            | "integer"
            | "bigint"
            | "real"
            | "double precision"
            | "numeric"
            | "boolean"
            | "text"
            | "character"
            | "character varying"
            | "bytea"
            | "uuid"
            | "date"
            | "time without time zone"
            | "time with time zone"
            | "timestamp without time zone"
            | "timestamp with time zone"
            | "interval"
            | "json"
            | "jsonb"
            | "bit"
            | "bit varying"
            | "inet"
            | "cidr"
            | "macaddr"
            | "macaddr8"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use repl_core::schema::{Column, Identity, SchemaId, TableName};

    fn chosen(source: &[&str], version: u32, types: &[&str]) -> BulkForm {
        let column = |name: &&str| Column::new("c", *name, 0, true);
        let schema = TableSchema {
            id: SchemaId(1),
            engine: "postgres".into(),
            table: TableName::new("public", "t"),
            incarnation: String::new(),
            columns: source.iter().map(column).collect(),
            identity: Identity::FullRow,
            generated: Vec::new(),
        };
        let into = BulkInto {
            engine: "postgres",
            version,
            types,
        };
        form(15, &schema, &into)
    }

    #[test]
    fn binary_only_between_equal_built_in_types_of_one_version() {
        let both = |types: &[&str]| chosen(types, 15, types);
        let portable = [
            "bigint",
            "numeric(10,2)",
            "timestamp(3) with time zone",
            "text[]",
        ];
        assert_eq!(both(&portable), BulkForm::Binary);
        assert_eq!(chosen(&portable, 16, &portable), BulkForm::Text);
        for other in [
            "app.mood",
            "money",
            "xml",
            "app.mood[]",
            "text(",
            "regclass",
            "oidvector",
        ] {
            assert_eq!(both(&["bigint", other]), BulkForm::Text, "{other}");
        }
        assert_eq!(chosen(&["integer"], 15, &["bigint"]), BulkForm::Text);
        assert_eq!(chosen(&["integer"], 15, &[]), BulkForm::Text);
        let (short, long) = (["character varying(5)"], ["character varying(9)"]);
        assert_eq!(chosen(&short, 15, &long), BulkForm::Text);
    }
}
