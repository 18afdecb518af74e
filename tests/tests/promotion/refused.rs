//! Promotions that are refused, or taken back because somebody is in the way.

use anyhow::{Result, ensure};
use repl_api::{ClientError, PromoteRequest, PromotionState};
use repl_tests::pg::{DATABASE, Role};

use super::rig::Rig;

/// What `replctl promote r1` is refused with.
fn refusal(rig: &Rig) -> Result<String> {
    let request = PromoteRequest {
        replica: "r1".to_owned(),
        ..PromoteRequest::default()
    };
    let answer = rig
        .daemon
        .call(|client| async move { client.promote(&request).await });
    match answer {
        Err(ClientError::Refused(error)) => Ok(error.message),
        other => anyhow::bail!("not refused: {other:?}"),
    }
}

#[test]
fn what_speaks_against_it_is_named_and_the_primary_goes_on() -> Result<()> {
    let rig = Rig::start(|config| config.set("promotion", "fence_timeout", "1s"))?;
    let (main, r1) = (rig.server("main"), rig.server("r1"));
    main.execute(
        "BEGIN; INSERT INTO public.item (name) VALUES ('p'); PREPARE TRANSACTION 'gid-7'",
    )?;
    let why = refusal(&rig)?;
    ensure!(why.contains("gid-7"), "{why}");
    main.execute("ROLLBACK PREPARED 'gid-7'")?;
    // A rule by which the proof that writes are refused never reaches the table, on either side.
    main.execute("CREATE RULE kept AS ON DELETE TO public.item DO INSTEAD NOTHING")?;
    let why = refusal(&rig)?;
    ensure!(why.contains("rule kept ON DELETE"), "{why}");
    main.execute("DROP RULE kept ON public.item")?;
    let rule = |statement: &str| {
        r1.execute(&format!(
            "SET default_transaction_read_only = off; {statement}"
        ))
    };
    rule("CREATE RULE \"Here\" AS ON DELETE TO public.item DO INSTEAD SELECT 1")?;
    let why = refusal(&rig)?;
    ensure!(why.contains("rule \"Here\" ON DELETE"), "{why}");
    rule("DROP RULE \"Here\" ON public.item")?;
    let alter = |amount: &str| {
        r1.execute(&format!(
            "SET default_transaction_read_only = off;
             ALTER TABLE public.item ALTER COLUMN amount TYPE {amount}"
        ))
    };
    alter("numeric(12,2)")?;
    let why = refusal(&rig)?;
    ensure!(
        why.contains("amount") && why.contains("numeric(12,2)"),
        "{why}"
    );
    alter("numeric(10,2)")?;
    let more = |change: &str| {
        r1.execute(&format!(
            "SET default_transaction_read_only = off; ALTER TABLE public.item {change}"
        ))
    };
    more("ADD COLUMN dropped_at_the_primary int")?;
    let why = refusal(&rig)?;
    ensure!(why.contains("dropped_at_the_primary"), "{why}");
    more("DROP COLUMN dropped_at_the_primary")?;
    rig.daemon
        .call(|client| async move { client.pause("r1").await })?;
    let why = refusal(&rig)?;
    ensure!(why.contains("paused"), "{why}");
    rig.daemon
        .call(|client| async move { client.resume("r1").await })?;
    rig.wait_streaming()?;

    // Someone writes and does not end.
    let mut open = main.session(DATABASE, Role::Superuser)?;
    open.execute("SET application_name = 'nightly'; BEGIN; DELETE FROM public.item WHERE id = 1")?;
    let ended = rig.promote("r1")?;
    ensure!(ended.state == PromotionState::RolledBack, "{ended:#?}");
    let why = ended.failure.unwrap_or_default();
    ensure!(why.contains("nightly"), "{why}");
    open.execute("COMMIT")?;
    main.execute("INSERT INTO public.item (name) VALUES ('goes on')")?;
    main.execute("CREATE FUNCTION public.own() RETURNS int LANGUAGE sql AS 'SELECT 1'")?;
    let dry = rig.daemon.replctl(&["promote", "r1", "--dry-run"])?;
    let text = String::from_utf8_lossy(&dry.stdout).into_owned();
    ensure!(
        dry.status.success() && text.contains("public.own()"),
        "{text}"
    );
    let unknown = rig.daemon.replctl(&["promote", "r9", "--yes"])?;
    ensure!(unknown.status.code() == Some(1), "{unknown:?}");
    let ended = rig.promote("r1")?;
    ensure!(ended.state == PromotionState::Done, "{ended:#?}");
    rig.wait_streaming()?;
    rig.check_equal()
}

#[test]
fn a_fence_holds_against_whoever_does_not_take_it_down() -> Result<()> {
    let rig = Rig::start(|config| config)?;
    let r1 = rig.server("r1");
    for statement in [
        "INSERT INTO public.item (name) VALUES ('x')",
        "UPDATE public.item SET amount = 1 WHERE false",
        "DELETE FROM public.part WHERE k = 1",
        "DELETE FROM public.part_low WHERE k = 1",
        "TRUNCATE public.keyless",
        "COPY public.keyless FROM PROGRAM 'echo 1'",
        "SET session_replication_role = replica; DELETE FROM public.item",
        "BEGIN READ WRITE; DELETE FROM public.item; COMMIT",
        "MERGE INTO public.keyless k USING (SELECT 1) s ON false WHEN NOT MATCHED THEN INSERT VALUES (1)",
    ] {
        for prefix in ["", "SET default_transaction_read_only = off; "] {
            let done = r1.execute(&format!("{prefix}{statement}"));
            ensure!(done.is_err(), "{prefix}{statement} was not refused");
        }
    }
    r1.query("SELECT count(*) FROM public.item")?;
    rig.server("main")
        .execute("TRUNCATE public.keyless; INSERT INTO public.keyless VALUES (1), (1)")?;
    rig.check_equal()
}
