//! What the daemon's role needs at a primary whose commits wait for it, if it is no superuser.

use anyhow::{Context, Result, ensure};
use repl_api::{Mode, ModeRequest, ModeState};
use repl_tests::pg::binaries::Installation;
use repl_tests::pg::{DATABASE, Role};

use super::rig::{PATIENCE, Rig, mode};

/// The statements of a remedy, without what is said between them.
fn grants(remedy: &str) -> Vec<String> {
    let parts = remedy.split("GRANT ").skip(1);
    parts
        .filter_map(|part| Some(format!("GRANT {}", part.split_once(';')?.0)))
        .collect()
}

#[test]
fn each_missing_privilege_is_named_by_the_statement_that_grants_it() -> Result<()> {
    if Installation::get()?.major()? < 15 {
        println!("PostgreSQL 14 cannot grant ALTER SYSTEM: it needs a superuser");
        return Ok(());
    }
    let mut rig = Rig::prepare_as(Role::Capture, false, |config| mode(config, "sync"))?;
    rig.primary.execute(&format!(
        "ALTER TABLE public.history OWNER TO app_owner;
         ALTER TABLE public.unpublished OWNER TO app_owner;
         GRANT app_owner TO repl_capture;
         GRANT CREATE ON DATABASE {DATABASE} TO repl_capture;"
    ))?;
    rig.daemon.start()?;
    let mut granted = Vec::new();
    loop {
        let missing = rig
            .daemon
            .wait_status("a remedy, or the mode", PATIENCE, |status| {
                let commits = status.commits.as_ref()?;
                let remedies = commits.problems.iter().map(|problem| &problem.remedy);
                let new: Vec<String> = remedies
                    .flat_map(|remedy| grants(remedy))
                    .filter(|grant| !granted.contains(grant))
                    .collect();
                (!new.is_empty() || commits.state == ModeState::InForce).then_some(new)
            })?;
        if missing.is_empty() {
            break;
        }
        for grant in missing {
            println!("{grant}");
            rig.primary.execute(&grant)?;
            granted.push(grant);
        }
    }
    let named = |what: &str| granted.iter().any(|grant| grant.contains(what));
    ensure!(
        named("ALTER SYSTEM ON PARAMETER synchronous_standby_names")
            && named("pg_reload_conf()")
            && named("pg_read_all_stats"),
        "{granted:?}"
    );
    // With these, and no more, the gate is kept: commits wait, are seen to, and are let go.
    rig.wait_in_force()?;
    rig.pg.freeze()?;
    let clients = rig.clients(2)?;
    rig.expect_blocked(&clients)?;
    let commits = rig.commits();
    rig.pg.thaw()?;
    ensure!(commits?.waiting == 2, "not seen who waits");
    rig.wait_progress(&clients, 20)?;
    rig.order(ModeRequest::new(Mode::Async))?;
    rig.wait_state(ModeState::Off)?;
    let names = rig
        .primary
        .query("SELECT current_setting('synchronous_standby_names')")
        .context("the standbys' names")?;
    ensure!(names.is_empty(), "{names}");
    rig.check_end(clients)
}
