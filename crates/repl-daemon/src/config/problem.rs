//! What is wrong with a configuration, and where: collected, not thrown, so that one run reports everything.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::ops::Range;

/// A place in the configuration file; both numbers count from 1, columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// How much a problem matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration is accepted, but the operator should know.
    Warning,
}

/// One thing wrong with the configuration. It never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Error or warning.
    pub severity: Severity,
    /// The file as the caller named it.
    pub file: String,
    /// Where in the file; absent when the file as a whole is meant.
    pub place: Option<Place>,
    /// The key, as `section.key`; empty when the file as a whole is meant.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// Why that is a problem.
    pub why: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(place) = self.place {
            write!(f, ":{}:{}", place.line, place.column)?;
        }
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, ": {severity}: ")?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(
            f,
            "{}\n    why: {}\n    fix: {}",
            self.what, self.why, self.remedy
        )
    }
}

/// Everything found in a configuration that is refused, in file order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblems {
    /// What makes it unusable; at least one.
    pub errors: Vec<Problem>,
    /// What else the operator should know.
    pub warnings: Vec<Problem>,
}

impl fmt::Display for ConfigProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.errors.iter().chain(&self.warnings).enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigProblems {}

/// What a check has to say, before it is tied to a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    pub what: String,
    pub why: String,
    pub fix: String,
}

impl Complaint {
    /// Offers a word that is accepted besides what the remedy says.
    pub fn or_word(mut self, word: &str) -> Self {
        if !word.is_empty() {
            self.fix.push_str(&format!("; or write \"{word}\""));
        }
        self
    }
}

/// Short for building a [`Complaint`].
pub(super) fn complaint(
    what: impl Into<String>,
    why: impl Into<String>,
    fix: impl Into<String>,
) -> Complaint {
    Complaint {
        what: what.into(),
        why: why.into(),
        fix: fix.into(),
    }
}

/// The collector every reader and check writes to. It also knows where each key stands, so that a
/// check made long after reading still reports the exact place.
pub(super) struct Findings {
    file: String,
    line_starts: Vec<usize>,
    text: String,
    inner: RefCell<Inner>,
}

#[derive(Default)]
struct Inner {
    places: HashMap<String, Range<usize>>,
    labels: HashMap<String, String>,
    known: BTreeMap<String, BTreeSet<&'static str>>,
    unknown: Vec<Unknown>,
    problems: Vec<Problem>,
}

/// A key nothing asked for; judged last, when all sections have told which keys they know.
struct Unknown {
    section: String,
    shape: String,
    key: String,
    span: Range<usize>,
}

impl Findings {
    pub fn new(file: &str, text: &str) -> Self {
        let line_starts = std::iter::once(0)
            .chain(
                text.bytes()
                    .enumerate()
                    .filter(|(_, b)| *b == b'\n')
                    .map(|(i, _)| i + 1),
            )
            .collect();
        Self {
            file: file.to_owned(),
            line_starts,
            text: text.to_owned(),
            inner: RefCell::default(),
        }
    }

    /// Remembers where a key's value stands.
    pub fn set_place(&self, key: &str, span: Range<usize>) {
        self.inner.borrow_mut().places.insert(key.to_owned(), span);
    }

    /// Whether the key is written in the file.
    pub fn is_set(&self, key: &str) -> bool {
        self.inner.borrow().places.contains_key(key)
    }

    /// Shows `path` (such as `node[2]`) under a name the operator knows (`node[replica-1]`).
    pub fn set_label(&self, path: &str, label: String) {
        self.inner
            .borrow_mut()
            .labels
            .insert(path.to_owned(), label);
    }

    /// Registers that sections of this shape (`node.tls`) have this key.
    pub fn set_known(&self, shape: &str, key: &'static str) {
        self.inner
            .borrow_mut()
            .known
            .entry(shape.to_owned())
            .or_default()
            .insert(key);
    }

    /// Registers a key that no reader asked for.
    pub fn set_unknown(&self, section: &str, shape: &str, key: &str, span: Range<usize>) {
        self.inner.borrow_mut().unknown.push(Unknown {
            section: section.to_owned(),
            shape: shape.to_owned(),
            key: key.to_owned(),
            span,
        });
    }

    /// Reports an error at the key's place, or at its section's where the key is absent.
    pub fn error(&self, key: &str, complaint: Complaint) {
        self.push(Severity::Error, key, self.span_of(key), complaint);
    }

    /// Reports an error at a given place.
    pub fn error_at(&self, key: &str, span: Range<usize>, complaint: Complaint) {
        self.push(Severity::Error, key, span, complaint);
    }

    /// Reports a warning at the key's place.
    pub fn warning(&self, key: &str, complaint: Complaint) {
        self.push(Severity::Warning, key, self.span_of(key), complaint);
    }

    /// The line a key stands on, for messages that point at a second place.
    pub fn line_of(&self, key: &str) -> usize {
        self.place(self.span_of(key).start).line
    }

    /// The text at a span, for a key the parser points at.
    pub fn written(&self, span: &Range<usize>) -> String {
        self.text
            .get(span.clone())
            .unwrap_or_default()
            .trim()
            .to_owned()
    }

    /// Every key any section asked for, as `section.key`.
    pub fn known_keys(&self) -> Vec<String> {
        let inner = self.inner.borrow();
        let keys = inner.known.iter().flat_map(|(shape, keys)| {
            keys.iter().map(move |key| {
                if shape.is_empty() {
                    (*key).to_owned()
                } else {
                    format!("{shape}.{key}")
                }
            })
        });
        keys.collect()
    }

    /// Reports the unknown keys and returns (errors, warnings), each in file order.
    pub fn into_lists(self) -> (Vec<Problem>, Vec<Problem>) {
        self.report_unknown();
        let mut problems = self.inner.into_inner().problems;
        problems.sort_by_key(|problem| problem.place);
        problems
            .into_iter()
            .partition(|problem| problem.severity == Severity::Error)
    }

    fn report_unknown(&self) {
        let unknown = std::mem::take(&mut self.inner.borrow_mut().unknown);
        for entry in unknown {
            let fix = self.remedy_for_unknown(&entry);
            let key = join(&entry.section, &entry.key);
            let why = "an unknown key is refused, since a misspelt setting would otherwise be ignored silently";
            self.error_at(&key, entry.span, complaint("unknown key", why, fix));
        }
    }

    fn remedy_for_unknown(&self, entry: &Unknown) -> String {
        if let Some(hint) = foreign_key_hint(&entry.shape, &entry.key) {
            return hint.to_owned();
        }
        let inner = self.inner.borrow();
        let siblings = inner.known.get(&entry.shape);
        let siblings: Vec<&str> = siblings.into_iter().flatten().copied().collect();
        if let Some(near) = nearest(&entry.key, &siblings) {
            return format!("did you mean `{near}`?");
        }
        let elsewhere = inner
            .known
            .iter()
            .find(|(_, keys)| keys.contains(entry.key.as_str()));
        if let Some((shape, _)) = elsewhere {
            return match shape.as_str() {
                "" => format!(
                    "`{}` stands at the top level of the file: move it there",
                    entry.key
                ),
                shape => format!(
                    "`{}` belongs in {}: move it there",
                    entry.key,
                    header(shape)
                ),
            };
        }
        format!("remove it; the keys known here are {}", siblings.join(", "))
    }

    fn push(&self, severity: Severity, key: &str, span: Range<usize>, said: Complaint) {
        let problem = Problem {
            severity,
            file: self.file.clone(),
            place: Some(self.place(span.start)),
            key: self.shown(key),
            what: said.what,
            why: said.why,
            remedy: said.fix,
        };
        // A check that runs once per replica may find the same fault of the group each time.
        let mut inner = self.inner.borrow_mut();
        if !inner.problems.contains(&problem) {
            inner.problems.push(problem);
        }
    }

    fn shown(&self, key: &str) -> String {
        let inner = self.inner.borrow();
        let head = key.find('.').map_or(key, |dot| &key[..dot]);
        match inner.labels.get(head) {
            Some(label) => format!("{label}{}", &key[head.len()..]),
            None => key.to_owned(),
        }
    }

    fn span_of(&self, key: &str) -> Range<usize> {
        let inner = self.inner.borrow();
        let mut path = key;
        loop {
            if let Some(span) = inner.places.get(path) {
                return span.clone();
            }
            match path.rfind(['.', '[']) {
                Some(cut) => path = &path[..cut],
                None => return 0..0,
            }
        }
    }

    fn place(&self, offset: usize) -> Place {
        let line = self
            .line_starts
            .partition_point(|start| *start <= offset)
            .max(1);
        let start = self.line_starts[line - 1];
        let before = self.text.get(start..offset).unwrap_or_default();
        Place {
            line,
            column: before.chars().count() + 1,
        }
    }
}

/// Why a file cannot be used, without its path, which may stand for a secret.
pub(super) fn file_trouble(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "the file does not exist".to_owned(),
        io::ErrorKind::PermissionDenied => "this user may not read the file".to_owned(),
        kind => format!("the file cannot be read: {kind}"),
    }
}

/// `section.key`, or `key` at the top level.
pub(super) fn join(section: &str, key: &str) -> String {
    if section.is_empty() {
        key.to_owned()
    } else {
        format!("{section}.{key}")
    }
}

/// How a section of this shape is opened in the file.
fn header(shape: &str) -> String {
    match shape {
        "node" => "[[node]]".to_owned(),
        "node.tls" => "tls = { … } of a [[node]]".to_owned(),
        shape if shape.ends_with("rename") => format!("an entry of {shape}"),
        shape => format!("[{shape}]"),
    }
}

/// Remedies for keys that people bring along from other programs.
fn foreign_key_hint(shape: &str, key: &str) -> Option<&'static str> {
    match (shape, key) {
        ("", "nodes" | "primary" | "replica" | "replicas") => {
            Some("write one [[node]] section per database, with role = \"primary\" or \"replica\"")
        }
        ("node", "password" | "pass" | "passwd") => Some(
            "keep the password out of this file: use password_file, password_env or password_credential",
        ),
        ("node", "host" | "port" | "user" | "username" | "dbname" | "database" | "path") => {
            Some("it is part of url, for example url = \"postgresql://user@host:5432/database\"")
        }
        ("node", "sslmode" | "ssl" | "tls_mode") => {
            Some("use tls = { mode = \"verify-full\" } in the node")
        }
        _ => None,
    }
}

/// The candidate a person most likely meant, if one is near enough.
pub(crate) fn nearest<'c>(word: &str, candidates: &[&'c str]) -> Option<&'c str> {
    let word = word.to_ascii_lowercase().replace('-', "_");
    let scored = candidates
        .iter()
        .map(|c| (distance(&word, &c.replace('-', "_")), *c));
    let (score, best) = scored.min_by_key(|(score, _)| *score)?;
    let allowed = (word.chars().count().max(best.len()) / 3).max(1);
    if score <= allowed {
        return Some(best);
    }
    // `warning` is far from `warn` by letters alone.
    let begins = |a: &str, b: &str| b.len() >= 3 && a.starts_with(b);
    let extended = |c: &&&str| begins(c, &word) || begins(&word, c);
    candidates.iter().find(extended).copied()
}

/// Edit distance (insert, delete, replace).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_misspellings_and_refuses_strangers() {
        let keys = ["segment_size", "memory_tail", "dir"];
        assert_eq!(nearest("segmnt_size", &keys), Some("segment_size"));
        assert_eq!(nearest("memory-tail", &keys), Some("memory_tail"));
        assert_eq!(nearest("loging", &["log", "logging"]), Some("logging"));
        assert_eq!(nearest("warning", &["error", "warn"]), Some("warn"));
        assert_eq!(nearest("colour", &keys), None);
    }

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let findings = Findings::new("f", "a = 1\nüü = 2\n");
        assert_eq!(findings.place(0), Place { line: 1, column: 1 });
        let second = "a = 1\nüü".len();
        assert_eq!(findings.place(second), Place { line: 2, column: 3 });
    }
}
