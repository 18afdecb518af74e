//! A data directory made once by initdb and copied for every server.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::Role;
use super::binaries::Installation;
use crate::daemon::binaries::target_dir;
use crate::process::{check_output, run, tied_command};
use crate::scratch::Scratch;

/// Raise when what the template holds changes: cached ones of older runs are then not used.
const GENERATION: u32 = 1;

/// Socket connections are trusted (the harness's own), TCP ones must prove themselves by SCRAM
/// (the daemon's and the workloads').
const HBA: &str = "\
local all all trust
local replication all trust
host all all 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
host all all ::1/128 scram-sha-256
host replication all ::1/128 scram-sha-256
";

/// Copies the template to `data_dir`, which must not exist, and hands it to the server's account.
///
/// # Errors
/// When the template cannot be made or copied.
pub fn copy_to(data_dir: &Path) -> Result<()> {
    let installation = Installation::get()?;
    let template = ensure(installation)?;
    copy_tree(&template, data_dir)?;
    installation.give(data_dir)
}

/// Copies a directory tree, sharing blocks where the file system can.
///
/// # Errors
/// When `cp` fails.
pub fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp")
        .args(["-a", "--reflink=auto", "-T"])
        .arg(from)
        .arg(to))
    .map(drop)
}

/// The cached template's path, made first when absent. A file lock keeps test processes that
/// start together from making it twice.
fn ensure(installation: &Installation) -> Result<PathBuf> {
    let cache = target_dir()?;
    let name = format!("pg-template-{}-{GENERATION}", installation.version());
    let template = cache.join(&name);
    fs::create_dir_all(&cache)?;
    let lock = File::create(cache.join(format!("{name}.lock")))?;
    lock.lock()
        .context("cannot lock the data directory template")?;
    if template.exists() {
        return Ok(template);
    }
    // initdb works in a scratch directory: the server's account may not enter the build tree.
    let scratch = Scratch::new()?;
    let fresh = scratch.join("data");
    fs::create_dir(&fresh)?;
    installation.give(&fresh)?;
    initialise(installation, &fresh)
        .with_context(|| format!("cannot make the template {}", template.display()))?;
    let partial = cache.join(format!("{name}.partial"));
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    copy_tree(&fresh, &partial)?;
    fs::rename(&partial, &template)?;
    Ok(template)
}

fn initialise(installation: &Installation, data_dir: &Path) -> Result<()> {
    let mut initdb = tied_command(&installation.program("initdb"), "KILL", installation.user());
    initdb
        .args([
            "--no-sync",
            "--no-instructions",
            "-A",
            "trust",
            "-U",
            "postgres",
        ])
        .args(["--encoding=UTF8", "--locale=C.UTF-8", "-D"])
        .arg(data_dir)
        .current_dir("/");
    run(&mut initdb)?;
    fs::write(data_dir.join("pg_hba.conf"), HBA)?;
    single_user(installation, data_dir, &setup_statements())
}

/// Roles and the database every test server has; one statement per line for single-user mode.
fn setup_statements() -> String {
    let mut text = String::new();
    for role in Role::ALL {
        let verb = if role == Role::Superuser {
            "ALTER"
        } else {
            "CREATE"
        };
        text += &format!(
            "{verb} ROLE {} LOGIN {} PASSWORD '{}'\n",
            role.name(),
            role.attributes(),
            role.password()
        );
    }
    text + &format!("CREATE DATABASE {}\n", super::DATABASE)
}

fn single_user(installation: &Installation, data_dir: &Path, statements: &str) -> Result<()> {
    let mut command = tied_command(
        &installation.program("postgres"),
        "KILL",
        installation.user(),
    );
    command
        .args(["--single", "-F", "-D"])
        .arg(data_dir)
        .arg("postgres")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot start postgres --single")?;
    child
        .stdin
        .take()
        .context("postgres --single has no standard input")?
        .write_all(statements.as_bytes())?;
    let output = child.wait_with_output()?;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    check_output("postgres --single", output)?;
    anyhow::ensure!(
        !complaint.contains("ERROR:") && !complaint.contains("FATAL:"),
        "postgres --single refused a statement:\n{complaint}"
    );
    Ok(())
}
