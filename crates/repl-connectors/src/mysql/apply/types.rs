//! Whether a replica's column type holds every value of another.

/// A column type taken apart: `decimal(10,2) unsigned` has the name `decimal`, the arguments
/// `["10", "2"]` and is unsigned.
#[derive(Debug, PartialEq, Eq)]
struct Type {
    name: String,
    arguments: Vec<String>,
    unsigned: bool,
}

/// Reads a type as `information_schema.COLUMNS.COLUMN_TYPE` or a CREATE TABLE gives it. Character
/// set and collation, display widths of integers and the engines' synonyms do not count.
fn parse(text: &str) -> Type {
    let text = text.trim();
    let start = text.find('(').unwrap_or(text.len());
    let end = closing(text, start).unwrap_or(start);
    let inside = text.get(start + 1..end).unwrap_or_default();
    let after = text.get(end..).unwrap_or_default().to_ascii_lowercase();
    let mut words: Vec<String> = text[..start]
        .to_ascii_lowercase()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let cut = words
        .iter()
        .position(|word| matches!(word.as_str(), "character" | "charset" | "collate"))
        .filter(|&at| at > 0);
    words.truncate(cut.unwrap_or(words.len()));
    let unsigned = words.iter().any(|word| word == "unsigned")
        || after.split_whitespace().any(|word| word == "unsigned");
    words.retain(|word| !matches!(word.as_str(), "unsigned" | "signed" | "zerofill"));
    let mut arguments = split(inside);
    let name = match words.join(" ").as_str() {
        "integer" => "int",
        "bool" | "boolean" => "tinyint",
        "dec" | "numeric" | "fixed" => "decimal",
        "double precision" | "real" => "double",
        "character varying" => "varchar",
        "character" => "char",
        other => other,
    }
    .to_owned();
    normalise(&name, &mut arguments);
    Type {
        name,
        arguments,
        unsigned,
    }
}

fn normalise(name: &str, arguments: &mut Vec<String>) {
    let given = !arguments.is_empty();
    match name {
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "year" | "double" | "float" => {
            arguments.clear();
        }
        "decimal" if arguments.len() < 2 => {
            if !given {
                arguments.push("10".into());
            }
            arguments.push("0".into());
        }
        "datetime" | "timestamp" | "time" if !given => arguments.push("0".into()),
        "char" | "binary" | "bit" if !given => arguments.push("1".into()),
        _ => {}
    }
}

/// The parenthesis that closes the one at `start`; texts inside may contain any.
fn closing(text: &str, start: usize) -> Option<usize> {
    let mut quoted = false;
    for (at, byte) in text.bytes().enumerate().skip(start) {
        match byte {
            b'\'' => quoted = !quoted,
            b')' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// Splits arguments at commas outside of texts.
fn split(inside: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    for c in inside.chars() {
        match c {
            ',' if !quoted => {
                parts.push(String::new());
                continue;
            }
            '\'' => quoted = !quoted,
            _ => {}
        }
        if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    let mut parts: Vec<String> = parts.iter().map(|part| part.trim().to_owned()).collect();
    parts.retain(|part| !part.is_empty());
    parts
}

const INTEGERS: [&str; 5] = ["tinyint", "smallint", "mediumint", "int", "bigint"];
/// Bits of the types above.
const BITS: [u32; 5] = [8, 16, 24, 32, 64];

/// Most bytes a text or blob type holds.
fn capacity(ty: &Type) -> Option<u64> {
    let length = || ty.arguments.first().and_then(|n| n.parse::<u64>().ok());
    Some(match ty.name.as_str() {
        // Four bytes per character at most.
        "varchar" => length()? * 4,
        "varbinary" => length()?,
        "tinytext" | "tinyblob" => 255,
        "text" | "blob" => 65_535,
        "mediumtext" | "mediumblob" => 16_777_215,
        "longtext" | "longblob" => u64::from(u32::MAX),
        _ => return None,
    })
}

fn is_text(ty: &Type) -> bool {
    ty.name == "varchar" || ty.name.ends_with("text")
}

fn integer(ty: &Type) -> Option<(u32, bool)> {
    let at = INTEGERS.iter().position(|name| *name == ty.name)?;
    Some((BITS[at], ty.unsigned))
}

/// Whether `replica` is the form of `source` with a length, as indexes need it.
pub(super) fn is_bounded(source: &str, replica: &str) -> bool {
    let (source, replica) = (parse(source), parse(replica));
    matches!(
        (source.name.as_str(), replica.name.as_str()),
        ("longtext", "varchar") | ("longblob", "varbinary")
    )
}

/// Whether every value of type `source` is held exactly by a column of type `replica`.
pub(super) fn holds(source: &str, replica: &str) -> bool {
    let (source, replica) = (parse(source), parse(replica));
    if source == replica {
        return true;
    }
    if let (Some((from, from_unsigned)), Some((to, to_unsigned))) =
        (integer(&source), integer(&replica))
    {
        return match (from_unsigned, to_unsigned) {
            (true, false) => to > from,
            (false, true) => false,
            _ => to >= from,
        };
    }
    // MariaDB's JSON is a text that is checked.
    if source.name == "json" {
        return replica.name == "longtext";
    }
    if let (Some(from), Some(to)) = (capacity(&source), capacity(&replica)) {
        return is_text(&source) == is_text(&replica) && to >= from;
    }
    let argument = |ty: &Type, at: usize| -> Option<u32> { ty.arguments.get(at)?.parse().ok() };
    match (source.name.as_str(), replica.name.as_str()) {
        ("float", "double") => true,
        ("decimal", "decimal") => {
            argument(&source, 1) == argument(&replica, 1)
                && argument(&source, 0) <= argument(&replica, 0)
                && source.unsigned >= replica.unsigned
        }
        ("datetime", "datetime") | ("timestamp", "timestamp") | ("time", "time") => {
            argument(&source, 0) <= argument(&replica, 0)
        }
        ("enum", "enum") | ("set", "set") => source
            .arguments
            .iter()
            .all(|member| replica.arguments.contains(member)),
        _ => false,
    }
}

/// The character set the type itself asks for.
pub(super) fn declared_charset(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let at = lower
        .find("character set ")
        .map(|at| at + "character set ".len())
        .or_else(|| lower.find("charset ").map(|at| at + "charset ".len()))?;
    lower[at..].split_whitespace().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_types_are_accepted() {
        for (source, replica) in [
            ("int", "int(11)"),
            ("INTEGER", "int"),
            ("boolean", "tinyint(1)"),
            ("smallint", "bigint(20)"),
            ("int unsigned", "bigint"),
            ("decimal(10, 2)", "decimal(12,2)"),
            ("varchar(5)", "varchar(9)"),
            ("varchar(5) character set utf8mb4", "text"),
            ("varbinary(16)", "blob"),
            ("json", "longtext"),
            ("datetime(3)", "datetime(6)"),
            ("enum('a','b,)')", "enum('b,)','a','c')"),
            ("float", "double"),
        ] {
            assert!(holds(source, replica), "{source} in {replica}");
        }
        for (source, replica) in [
            ("bigint", "int"),
            ("int", "int unsigned"),
            ("bigint unsigned", "bigint"),
            ("decimal(10,2)", "decimal(12,3)"),
            ("double", "float"),
            ("varchar(9)", "varchar(5)"),
            ("longtext", "text"),
            ("blob", "text"),
            ("datetime(6)", "datetime"),
            ("datetime", "timestamp"),
            ("enum('a','b')", "enum('a')"),
            ("decimal(5,0)", "decimal(5,0) unsigned"),
        ] {
            assert!(!holds(source, replica), "{source} in {replica}");
        }
    }
}
