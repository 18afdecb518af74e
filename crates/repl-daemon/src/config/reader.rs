//! A typed reader over a parsed TOML tree. Every getter records what is wrong and goes on with the
//! default, so one pass finds everything; keys nobody asked for are flagged when a section is done.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Complaint, Findings, complaint, join, nearest};
use super::units::{
    format_duration, format_size, parse_duration, parse_size, plain_duration, plain_size,
};

/// Accepted in place of a duration where the thing need not be done at all.
const OFF: &str = "off";

/// The word for "no limit".
const UNLIMITED: &str = "unlimited";

/// How a quantity is read and shown.
struct Kind<T> {
    parse: fn(&str) -> Result<T, Complaint>,
    /// What to say of a number without a unit.
    plain: fn(&str) -> Complaint,
    show: fn(T) -> String,
    example: &'static str,
}

const DURATION: Kind<Duration> = Kind {
    parse: parse_duration,
    plain: plain_duration,
    show: format_duration,
    example: "write a string with a unit, for example \"10s\"",
};

const SIZE: Kind<u64> = Kind {
    parse: parse_size,
    plain: plain_size,
    show: format_size,
    example: "write a string with a unit, for example \"64MiB\"",
};

impl<T: PartialOrd + Copy> Kind<T> {
    fn within(&self, value: T, range: RangeInclusive<T>) -> Result<T, Complaint> {
        if range.contains(&value) {
            return Ok(value);
        }
        let (from, to) = ((self.show)(*range.start()), (self.show)(*range.end()));
        let what = format!("{} is out of range", (self.show)(value));
        let why = "outside its range the daemon could not work sensibly";
        Err(complaint(what, why, format!("choose from {from} to {to}")))
    }
}

fn with_nul(key: &str) -> Complaint {
    complaint(
        "the value holds a NUL character",
        "no path, name or text of a database can hold one",
        format!("remove \\u0000 from `{key}`"),
    )
}

/// One table of the file, present or not.
pub(super) struct Section<'r> {
    findings: &'r Findings,
    table: Option<&'r DeTable<'r>>,
    /// Where it is, such as `node[2].tls`.
    path: String,
    /// The same without indices, such as `node.tls`.
    shape: String,
    known: Vec<&'static str>,
}

impl<'r> Section<'r> {
    /// The whole file.
    pub fn root(findings: &'r Findings, table: &'r DeTable<'r>) -> Self {
        let (path, shape) = (String::new(), String::new());
        Self {
            findings,
            table: Some(table),
            path,
            shape,
            known: Vec::new(),
        }
    }

    pub fn findings(&self) -> &'r Findings {
        self.findings
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    /// The full path of one of its keys.
    pub fn key(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Whether the key is written, whatever its value.
    pub fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// A nested table; an absent one reads as all defaults.
    pub fn section(&mut self, key: &'static str) -> Section<'r> {
        let item = self.item(key);
        let table = item.and_then(|item| {
            let table = item.get_ref().as_table();
            if table.is_none() {
                self.wrong_type(key, item, "a table", &self.table_example(key));
            }
            table
        });
        self.child(table, self.key(key), join(&self.shape, key))
    }

    /// The tables of an array (`[[key]]`); none when it is absent.
    pub fn sections(&mut self, key: &'static str) -> Vec<Section<'r>> {
        let Some(item) = self.item(key) else {
            return Vec::new();
        };
        let Some(array) = item.get_ref().as_array() else {
            self.wrong_type(key, item, "an array of tables", &self.array_example(key));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for element in array.iter() {
            // Counted by what is kept, so that the numbers agree with the list made from it.
            let path = format!("{}[{}]", self.key(key), sections.len() + 1);
            self.findings.set_place(&path, element.span());
            match element.get_ref().as_table() {
                Some(table) => sections.push(self.child(Some(table), path, join(&self.shape, key))),
                None => self.wrong_type(key, element, "a table", &self.array_example(key)),
            }
        }
        sections
    }

    pub fn string(&mut self, key: &'static str) -> Option<String> {
        let item = self.item(key)?;
        let Some(text) = item.get_ref().as_str() else {
            self.wrong_type(key, item, "a string", &format!("write {key} = \"…\""));
            return None;
        };
        if text.is_empty() {
            let fix = format!("give `{key}` a value, or remove the key");
            self.fail(
                key,
                complaint(
                    "the value is empty",
                    "an empty string means nothing here",
                    fix,
                ),
            );
            return None;
        }
        if text.contains('\0') {
            self.fail(key, with_nul(key));
            return None;
        }
        Some(text.to_owned())
    }

    /// A string that must be there.
    pub fn required(&mut self, key: &'static str, why: &str, fix: &str) -> Option<String> {
        if !self.has(key) {
            self.fail(key, complaint("required key is missing", why, fix));
        }
        self.string(key)
    }

    /// A list of strings; the place of each is kept under `key[1]`, `key[2]` …
    pub fn strings(&mut self, key: &'static str) -> Option<Vec<String>> {
        let item = self.item(key)?;
        let fix = format!("write {key} = [\"…\", \"…\"]");
        let Some(array) = item.get_ref().as_array() else {
            self.wrong_type(key, item, "an array of strings", &fix);
            return None;
        };
        let mut strings = Vec::new();
        for element in array.iter() {
            match element.get_ref().as_str() {
                Some(text) if text.contains('\0') => self.fail(key, with_nul(key)),
                Some(text) => {
                    strings.push(text.to_owned());
                    let path = format!("{}[{}]", self.key(key), strings.len());
                    self.findings.set_place(&path, element.span());
                }
                None => self.wrong_type(key, element, "a string", &fix),
            }
        }
        Some(strings)
    }

    pub fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        let Some(item) = self.item(key) else {
            return default;
        };
        item.get_ref().as_bool().unwrap_or_else(|| {
            let fix = format!("write {key} = true or {key} = false, without quotes");
            self.wrong_type(key, item, "true or false", &fix);
            default
        })
    }

    pub fn integer(&mut self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let Some(item) = self.item(key) else {
            return default;
        };
        let fix = format!(
            "write a whole number from {} to {}",
            range.start(),
            range.end()
        );
        let DeValue::Integer(number) = item.get_ref() else {
            self.wrong_type(key, item, "an integer", &fix);
            return default;
        };
        let value = i128::from_str_radix(number.as_str(), number.radix()).ok();
        match value.and_then(|value| u64::try_from(value).ok()) {
            Some(value) if range.contains(&value) => value,
            _ => {
                let what = format!("{number} is out of range");
                self.fail(key, complaint(what, "the value would make no sense", fix));
                default
            }
        }
    }

    /// A whole number, or none for `word`; nothing when it is absent or wrong.
    pub fn integer_or_word(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        word: &str,
    ) -> Option<Option<u64>> {
        let item = self.item(key)?;
        match item.get_ref() {
            DeValue::String(text) if text.as_ref() == word => Some(None),
            DeValue::Integer(_) => Some(Some(self.integer(key, *range.start(), range))),
            _ => {
                let fix = format!("write {key} = {}, or \"{word}\"", range.start());
                self.wrong_type(key, item, "an integer", &fix);
                None
            }
        }
    }

    /// A share of one.
    pub fn fraction(&mut self, key: &'static str, default: f64) -> f64 {
        let Some(item) = self.item(key) else {
            return default;
        };
        let text = match item.get_ref() {
            DeValue::Float(number) => number.as_str(),
            DeValue::Integer(number) => number.as_str(),
            _ => {
                self.wrong_type(key, item, "a number", "write a number from 0 to 1");
                return default;
            }
        };
        match text.parse::<f64>() {
            Ok(value) if (0.0..=1.0).contains(&value) => value,
            _ => {
                let what = format!("{text} is out of range");
                let fix = "write a number from 0 to 1";
                self.fail(key, complaint(what, "it is a share of the whole", fix));
                default
            }
        }
    }

    pub fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        self.quantity(key, &DURATION, range, "").unwrap_or(default)
    }

    pub fn size(&mut self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.quantity(key, &SIZE, range, "").unwrap_or(default)
    }

    /// A size, or none for `unlimited` (also the default).
    pub fn size_or_unlimited(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        self.quantity(key, &SIZE, range, UNLIMITED)
    }

    /// A duration, or none for `unlimited` (also the default).
    pub fn duration_or_unlimited(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        self.quantity(key, &DURATION, range, UNLIMITED)
    }

    /// A duration, or none for `off` (also the default).
    pub fn duration_or_off(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        self.quantity(key, &DURATION, range, OFF)
    }

    /// One word of a fixed set.
    pub fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.string(key)?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(*value);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let all = format!("accepted: {}", names.join(", "));
        let fix = match nearest(&text, &names) {
            Some(near) => format!("did you mean \"{near}\"? {all}"),
            None => all,
        };
        let what = format!("`{text}` is not one of the accepted values");
        self.fail(key, complaint(what, "its meaning is not known", fix));
        None
    }

    /// Reports an error at one of its keys.
    pub fn fail(&self, key: &str, complaint: Complaint) {
        self.findings.error(&self.key(key), complaint);
    }

    /// Flags the keys nobody asked for.
    pub fn finish(self) {
        for (key, _) in self.table.into_iter().flat_map(|table| table.iter()) {
            if !self.known.contains(&key.get_ref().as_ref()) {
                self.findings
                    .set_unknown(&self.path, &self.shape, key.get_ref(), key.span());
            }
        }
    }

    fn child(&self, table: Option<&'r DeTable<'r>>, path: String, shape: String) -> Section<'r> {
        Section {
            findings: self.findings,
            table,
            path,
            shape,
            known: Vec::new(),
        }
    }

    fn item(&mut self, key: &'static str) -> Option<&'r Spanned<DeValue<'r>>> {
        self.known.push(key);
        self.findings.set_known(&self.shape, key);
        let item = self.table?.get(key)?;
        self.findings.set_place(&self.key(key), item.span());
        Some(item)
    }

    /// Reads a quantity; `word` (unless empty) stands for none and is offered in remedies.
    fn quantity<T: PartialOrd + Copy>(
        &mut self,
        key: &'static str,
        kind: &Kind<T>,
        range: RangeInclusive<T>,
        word: &str,
    ) -> Option<T> {
        let item = self.item(key)?;
        let read = match item.get_ref() {
            DeValue::String(text) if !word.is_empty() && text.as_ref() == word => return None,
            DeValue::String(text) => (kind.parse)(text),
            DeValue::Integer(number) => Err((kind.plain)(number.as_str())),
            DeValue::Float(number) => Err((kind.plain)(number.as_str())),
            _ => {
                self.wrong_type(key, item, "a string with a unit", kind.example);
                return None;
            }
        };
        let bounded = read.and_then(|value| kind.within(value, range));
        bounded
            .map_err(|complaint| self.fail(key, complaint.or_word(word)))
            .ok()
    }

    fn wrong_type(&self, key: &str, item: &Spanned<DeValue<'_>>, wanted: &str, fix: &str) {
        let span: Range<usize> = item.span();
        let what = format!(
            "expected {wanted}, found {}",
            article(item.get_ref().type_str())
        );
        let why = "values are not converted between types, so that none is misread";
        self.findings
            .error_at(&self.key(key), span, complaint(what, why, fix));
    }

    fn table_example(&self, key: &str) -> String {
        match self.path.as_str() {
            "" => format!("open a section with [{key}] on a line of its own"),
            _ => format!("write {key} = {{ … }}"),
        }
    }

    fn array_example(&self, key: &str) -> String {
        match self.path.as_str() {
            "" => format!("open each entry with [[{key}]], in double brackets"),
            _ => format!("write {key} = [ {{ … }}, {{ … }} ]"),
        }
    }
}

fn article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'i']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {noun}")
}
