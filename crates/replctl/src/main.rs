//! `replctl`: operates a replication daemon over its Unix socket.

use std::process::ExitCode;

fn main() -> ExitCode {
    replctl::run()
}
