//! Asking before something is destroyed.

use std::io::{self, IsTerminal, Write};

use crate::exit::Failure;

/// Makes sure the operator means it: `yes` was given, or `expected` is typed at the terminal.
///
/// Without a terminal nobody can answer, so the command is refused as wrong usage.
pub(crate) fn confirm(yes: bool, consequence: &str, expected: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Failure::usage(
            format!(
                "{consequence}, so it needs a confirmation, and there is no terminal to ask at"
            ),
            "add --yes",
        ));
    }
    eprint!("{consequence}.\nType {expected} to go on: ");
    let mut answer = String::new();
    io::stderr()
        .flush()
        .and_then(|()| io::stdin().read_line(&mut answer))
        .map_err(|error| Failure::failed(format!("cannot read the answer: {error}"), ""))?;
    if answer.trim() == expected {
        return Ok(());
    }
    Err(Failure::failed("not confirmed; nothing was changed", ""))
}
