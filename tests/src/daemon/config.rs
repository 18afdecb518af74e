//! Building the daemon's TOML configuration.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A value in the configuration, already in TOML's notation.
#[derive(Debug, Clone)]
pub struct Toml(String);

impl Toml {
    /// A value given in TOML's own notation, such as an inline table.
    #[must_use]
    pub fn raw(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<&str> for Toml {
    fn from(text: &str) -> Self {
        // JSON's string notation is a subset of TOML's basic strings.
        Self(serde_json::Value::from(text).to_string())
    }
}

impl From<i64> for Toml {
    fn from(number: i64) -> Self {
        Self(number.to_string())
    }
}

impl From<bool> for Toml {
    fn from(flag: bool) -> Self {
        Self(flag.to_string())
    }
}

impl From<&[&str]> for Toml {
    fn from(items: &[&str]) -> Self {
        let items: Vec<String> = items.iter().map(|&item| Self::from(item).0).collect();
        Self(format!("[{}]", items.join(", ")))
    }
}

type Keys = BTreeMap<String, Toml>;

/// The configuration of one daemon in a test.
#[derive(Debug, Clone)]
pub struct DaemonConfig {
    log_dir: PathBuf,
    sections: BTreeMap<String, Keys>,
    nodes: Vec<Keys>,
}

impl DaemonConfig {
    /// A group `group` whose event log is in `log_dir`. Retries are quick and the log format is
    /// JSON, which the harness reads.
    #[must_use]
    pub fn new(group: &str, log_dir: &Path) -> Self {
        let config = Self {
            log_dir: log_dir.to_owned(),
            sections: BTreeMap::new(),
            nodes: Vec::new(),
        };
        config
            .set("group", "name", group)
            .set("log", "dir", log_dir.display().to_string().as_str())
            .set("logging", "format", "json")
            .set("logging", "level", "info")
            .set("retry", "initial", "50ms")
            .set("retry", "max", "1s")
            .set("capture", "heartbeat_interval", "1s")
            .set("capture", "table_refresh_interval", "500ms")
    }

    /// Sets a key of a section, for example `.set("limits", "batch_bytes", "1MiB")`.
    #[must_use]
    pub fn set(mut self, section: &str, key: &str, value: impl Into<Toml>) -> Self {
        self.sections
            .entry(section.to_owned())
            .or_default()
            .insert(key.to_owned(), value.into());
        self
    }

    /// Adds the primary.
    #[must_use]
    pub fn primary(self, name: &str, url: &str) -> Self {
        self.node(name, "primary", url)
    }

    /// Adds a replica.
    #[must_use]
    pub fn replica(self, name: &str, url: &str) -> Self {
        self.node(name, "replica", url)
    }

    /// Sets a key of the node added last; `tables.include` and the like address its sub-table.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Toml>) -> Self {
        if let Some(node) = self.nodes.last_mut() {
            node.insert(key.to_owned(), value.into());
        }
        self
    }

    /// [`DaemonConfig::with`] for the node `name`, wherever it was added; an unknown one is left
    /// for the daemon to refuse.
    #[must_use]
    pub fn with_of(mut self, name: &str, key: &str, value: impl Into<Toml>) -> Self {
        let name = Toml::from(name).0;
        let is_named = |node: &&mut Keys| node.get("name").is_some_and(|found| found.0 == name);
        if let Some(node) = self.nodes.iter_mut().find(is_named) {
            node.insert(key.to_owned(), value.into());
        }
        self
    }

    /// The event log's directory.
    #[must_use]
    pub fn log_dir(&self) -> &Path {
        &self.log_dir
    }

    /// The replication slot's name for this group.
    #[must_use]
    pub fn slot_name(&self) -> String {
        let group = self.sections.get("group").and_then(|keys| keys.get("name"));
        format!("repl_{}", group.map_or("", |name| name.0.trim_matches('"')))
    }

    /// The names of the replicas.
    #[must_use]
    pub fn replica_names(&self) -> Vec<String> {
        let is_replica =
            |node: &&Keys| node.get("role").is_some_and(|role| role.0 == "\"replica\"");
        let name = |node: &Keys| {
            node.get("name")
                .map(|name| name.0.trim_matches('"').to_owned())
        };
        self.nodes
            .iter()
            .filter(is_replica)
            .filter_map(name)
            .collect()
    }

    /// The TOML text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        for (section, keys) in &self.sections {
            let _ = writeln!(text, "[{section}]");
            write_keys(&mut text, keys);
        }
        for node in &self.nodes {
            text += "[[node]]\n";
            write_keys(&mut text, node);
        }
        text
    }

    fn node(mut self, name: &str, role: &str, url: &str) -> Self {
        let keys = [("name", name), ("role", role), ("url", url)];
        self.nodes.push(
            keys.map(|(key, value)| (key.to_owned(), Toml::from(value)))
                .into(),
        );
        self
    }
}

fn write_keys(text: &mut String, keys: &Keys) {
    for (key, value) in keys {
        let _ = writeln!(text, "{key} = {}", value.0);
    }
    text.push('\n');
}
