//! Configuration: one strict TOML file per replication group.
//!
//! [`load`] reads and checks a file and either returns a complete [`Config`] or every problem it
//! has, each with its place, the reason and a remedy. `config.example.toml` documents every key.
//!
//! A file passes through three steps: the TOML tree with places ([`toml::de::DeTable`]), typed
//! sections with defaults (`sections`, `node`, `tables`), and checks that need several sections
//! (`check`). Each step records problems and goes on, so that one run finds them all.

mod check;
mod defaults;
mod draft;
mod failover;
mod model;
mod node;
mod pattern;
mod places;
mod problem;
mod reader;
mod replication;
mod report;
mod secret;
mod sections;
mod tables;
mod units;
mod url;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

pub use model::{
    AllowConfig, ApiConfig, CaptureConfig, CommitMode, Config, ConvertConfig, CopyConfig, Endpoint,
    Engine, ExcludeConfig, FailoverConfig, GroupConfig, LimitsConfig, LogConfig, LogFormat,
    LogLevel, LoggingConfig, NodeConfig, NodeRole, PgHost, PromotionConfig, Rename,
    ReplicaTablesConfig, ReplicationConfig, RetryConfig, Server, TablesConfig, TlsConfig, TlsMode,
    ValidateConfig,
};
pub(crate) use problem::nearest;
pub use problem::{ConfigProblems, Place, Problem, Severity};
pub use replication::{Impossible, default_on_timeout, impossible};
pub use report::check_report;
pub use secret::{Env, Secret};
pub use units::{format_duration, format_size};

use draft::ConfigDraft;
use node::Surroundings;
use problem::{Findings, complaint};

/// Reads and checks a configuration file; secrets come from the places it names.
///
/// # Errors
/// Everything that is wrong with it, or the reason why the file cannot be read.
pub fn load(path: &Path) -> Result<Config, ConfigProblems> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let fix = "give the path of a TOML file that this user can read";
        whole_file(path, format!("the file cannot be read: {error}"), fix)
    })?;
    let readable_by_others =
        std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o044 != 0);
    read(&text, path, &Env::process(), readable_by_others)
}

/// Checks a configuration text. `path` is used in messages and, through its directory, for relative
/// paths; it need not exist. `env` answers `password_env` and `password_credential`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(text: &str, path: &Path, env: &Env) -> Result<Config, ConfigProblems> {
    read(text, path, env, false)
}

/// Every key of the configuration, as `section.key`, sorted.
pub fn known_keys() -> Vec<String> {
    // The smallest file that makes every section be read.
    const SKELETON: &str = "tables.rename = [{}]\n[[node]]\ntables.rename = [{}]\n\
                            convert.allow = [{}]\nconvert.exclude = [{}]\n";
    let findings = Findings::new("", SKELETON);
    let (tree, _) = DeTable::parse_recoverable(SKELETON);
    let env = Env::of([]);
    ConfigDraft::read(
        &findings,
        tree.get_ref(),
        Surroundings {
            base: Path::new("/"),
            env: &env,
        },
    );
    findings.known_keys()
}

fn read(
    text: &str,
    path: &Path,
    env: &Env,
    readable_by_others: bool,
) -> Result<Config, ConfigProblems> {
    let base = base_dir(path).map_err(|error| {
        let fix = "start the daemon in a directory that exists, or give an absolute path";
        whole_file(
            path,
            format!("the file's directory cannot be determined: {error}"),
            fix,
        )
    })?;
    let findings = Findings::new(&path.display().to_string(), text);
    let (tree, syntax) = DeTable::parse_recoverable(text);
    let draft = report_syntax(&findings, &syntax).then(|| {
        let around = Surroundings { base: &base, env };
        let draft = ConfigDraft::read(&findings, tree.get_ref(), around);
        check::run(&findings, &draft);
        if readable_by_others {
            check::warn_of_readable_passwords(&findings, &draft.nodes);
        }
        draft
    });
    let (errors, warnings) = findings.into_lists();
    if !errors.is_empty() {
        return Err(ConfigProblems { errors, warnings });
    }
    let incomplete = || {
        let fix = "report this as a defect, with the file";
        whole_file(
            path,
            "the configuration is incomplete, yet no check said so".to_owned(),
            fix,
        )
    };
    draft
        .and_then(|draft| draft.finish(warnings))
        .ok_or_else(incomplete)
}

/// Directory that relative paths start at.
fn base_dir(path: &Path) -> std::io::Result<PathBuf> {
    let file = std::path::absolute(path)?;
    Ok(file.parent().unwrap_or(&file).to_owned())
}

/// Reports syntax errors; returns whether the rest of the file can still be understood.
///
/// A key given twice leaves the tree whole. After any other error the parser only guesses, so what
/// follows it would be noise, and the first is reported alone.
fn report_syntax(findings: &Findings, errors: &[toml::de::Error]) -> bool {
    const DUPLICATE: &str = "duplicate key";
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        if error.message() == DUPLICATE {
            let key = findings.written(&span);
            let why = "it would be unclear which value counts";
            let fix = "keep one of the two; a section is opened once, with all its keys below";
            findings.error_at(&key, span, complaint("the key is given twice", why, fix));
        } else {
            let what = format!("this is not valid TOML: {}", error.message());
            let why = "the rest of the file was not checked, since its meaning is unclear";
            let fix =
                "mend the line; text values are written in double quotes, as in name = \"shop\"";
            findings.error_at("", span, complaint(what, why, fix));
            return false;
        }
    }
    true
}

/// A problem of the file as a whole.
fn whole_file(path: &Path, what: String, fix: &str) -> ConfigProblems {
    let problem = Problem {
        severity: Severity::Error,
        file: path.display().to_string(),
        place: None,
        key: String::new(),
        what,
        why: "the daemon does not start without a complete configuration".to_owned(),
        remedy: fix.to_owned(),
    };
    ConfigProblems {
        errors: vec![problem],
        warnings: Vec::new(),
    }
}
