//! What a promotion names beforehand, and what people can do without the daemon.

use anyhow::{Context, Result, ensure};
use repl_api::{ClientError, PromoteRequest};
use repl_tests::pg::{DATABASE, Role};
use repl_tests::wait::wait_until;

use super::mixed::{Kind, Mixed};
use super::rig::{PATIENCE, Rig};

/// What `replctl promote NODE` is refused with.
fn refusal(rig: &Rig, node: &str) -> Result<String> {
    let request = PromoteRequest {
        replica: node.to_owned(),
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

/// Of each kind one: only the first primary has it.
const BESIDE: &str = "
    CREATE FUNCTION public.own() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TRIGGER acts BEFORE INSERT ON public.item FOR EACH ROW EXECUTE FUNCTION public.own();
    CREATE VIEW public.seen AS SELECT id FROM public.item;
    CREATE ROLE clerk LOGIN; GRANT SELECT ON public.item TO clerk;
    CREATE EXTENSION btree_gist;
    ALTER TABLE public.part ALTER COLUMN v SET DEFAULT 'later';
    ALTER TABLE public.item ADD COLUMN other int;
    ALTER TABLE public.item ADD CONSTRAINT later_key FOREIGN KEY (other) REFERENCES public.item (id)";

/// Gives r2's role what replicas need, and no more.
fn apply_as_an_ordinary_role(rig: &mut Rig) -> Result<()> {
    let r2 = rig.server("r2");
    r2.execute(&format!(
        "GRANT CREATE ON DATABASE {DATABASE} TO repl_apply; GRANT CREATE ON SCHEMA public TO repl_apply;
         GRANT SET ON PARAMETER session_replication_role TO repl_apply;
         ALTER TABLE public.part OWNER TO repl_apply; ALTER TABLE public.part_low OWNER TO repl_apply"
    ))?;
    let url = r2.url(DATABASE, Role::Apply);
    let config = rig.daemon.config().clone();
    rig.daemon
        .set_config(config.with_of("r2", "url", url.as_str()))
}

/// r1 streams, and is too far behind.
fn lagging(rig: &Rig) -> Result<()> {
    let mut held = rig.server("r1").session(DATABASE, Role::Superuser)?;
    held.execute("BEGIN; LOCK TABLE public.item IN SHARE MODE")?;
    rig.server("main")
        .execute("UPDATE public.item SET amount = amount + 1 WHERE id = 2")?;
    rig.daemon
        .wait_replica("r1", "to lag", PATIENCE, |r1| r1.lag_ms > Some(700))?;
    let why = refusal(rig, "r1")?;
    ensure!(why.contains("promotion.max_lag"), "{why}");
    held.execute("COMMIT")?;
    rig.daemon
        .wait_replica("r1", "to have caught up", PATIENCE, |r1| {
            r1.queue_transactions == 0
        })
        .map(drop)
}

#[test]
fn what_speaks_against_a_replica_and_what_is_not_carried_over_is_named() -> Result<()> {
    let mut rig = Rig::prepare(|config| {
        config
            .with_of("r2", "tables.exclude", &["public.keyless"][..])
            .set("promotion", "max_lag", "500ms")
            .set("copy", "max_rows_per_second", 400)
            .set("capture", "table_refresh_interval", "500ms")
    })?;
    let poor = rig.server("r2").major()? >= 15;
    if poor {
        apply_as_an_ordinary_role(&mut rig)?;
    }
    rig.daemon.start()?;
    rig.wait_streaming()?;
    rig.server("main").execute(BESIDE)?;
    // A replica hears of the column with the first row that has it.
    rig.server("main")
        .execute("UPDATE public.item SET amount = amount + 1 WHERE id = 1")?;
    // Until the catalog was looked at again, a comparison cannot tell.
    wait_until("all nodes to be equal", PATIENCE, || {
        Ok(rig.check_equal().is_ok())
    })?;
    let dry = rig.daemon.replctl(&["promote", "r1", "--dry-run"])?;
    let text = String::from_utf8_lossy(&dry.stdout).into_owned();
    ensure!(dry.status.success(), "{text}");
    for wanted in [
        "trigger: public.item: acts",
        "function: public.own()",
        "view: public.seen",
        "foreign key: public.item: later_key",
        "default: public.part.v",
        "grant: public.item: SELECT to clerk",
        "extension: btree_gist",
        "login role: clerk",
    ] {
        ensure!(text.contains(wanted), "{wanted} is not in {text}");
    }
    let dry = rig.daemon.replctl(&["promote", "r2", "--dry-run"])?;
    let text = String::from_utf8_lossy(&dry.stdout).into_owned();
    ensure!(dry.status.code() == Some(1), "{text}");
    ensure!(text.contains("a part of the tables"), "{text}");
    if poor {
        for remedy in [
            "ALTER ROLE \"repl_apply\" REPLICATION",
            "GRANT pg_signal_backend TO \"repl_apply\"",
        ] {
            ensure!(text.contains(remedy), "{remedy} is not in {text}");
        }
    }
    lagging(&rig)?;
    // What another replica is being copied from is not taken away.
    let resync = rig.daemon.replctl(&["resync", "r2", "--full", "--yes"])?;
    ensure!(resync.status.success(), "{resync:?}");
    let why = refusal(&rig, "r1")?;
    ensure!(why.contains("being copied"), "{why}");
    rig.wait_streaming()?;
    // Found to differ, and brought into line again.
    rig.server("r1").execute(
        "SET session_replication_role = replica; SET repl.applier = on;
         SET default_transaction_read_only = off; UPDATE public.item SET amount = -1 WHERE id = 7",
    )?;
    let compared = rig.daemon.replctl(&["validate", "--deep"])?;
    ensure!(compared.status.code() == Some(1), "{compared:?}");
    let why = refusal(&rig, "r1")?;
    ensure!(
        why.contains("found to differ") && why.contains("public.item"),
        "{why}"
    );
    let repaired = rig
        .daemon
        .replctl(&["validate", "--deep", "--repair", "--yes"])?;
    ensure!(repaired.status.success(), "{repaired:?}");
    rig.check_equal()?;
    let dry = rig.daemon.replctl(&["promote", "r1", "--dry-run"])?;
    ensure!(dry.status.success(), "{dry:?}");
    Ok(())
}

/// What ends it then, ends what is promised: it is in PROMOTION.md word by word.
#[test]
fn nobody_takes_writes_while_the_daemon_is_down_in_the_middle_until_somebody_opens_a_node()
-> Result<()> {
    let mut rig = Rig::start(|config| config)?;
    // Clients find the new primary because they are sent away, by the old one and by the new one.
    let mut clients = ["main", "r1"]
        .map(|node| rig.server(node).session(DATABASE, Role::Superuser))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let ended = rig.promote("r1")?;
    ensure!(ended.state == repl_api::PromotionState::Done, "{ended:#?}");
    rig.wait_streaming()?;
    for (client, node) in clients.iter_mut().zip(["main", "r1"]) {
        ensure!(
            client.execute("SELECT 1").is_err(),
            "a session at {node} outlived the change"
        );
    }
    let triggers = "SELECT count(*) FROM pg_trigger WHERE tgname = 'write_fence_promo'";
    ensure!(
        rig.server("r1").query_i64(triggers)? > 0,
        "the triggers are kept"
    );

    rig.daemon.terminate()?;
    rig.daemon.set_failpoints("promotion.drain.begun=kill");
    rig.daemon.start()?;
    rig.wait_streaming()?;
    let request = PromoteRequest {
        replica: "r2".to_owned(),
        ..PromoteRequest::default()
    };
    // The answer may be lost with the daemon.
    let _ = rig
        .daemon
        .call(|client| async move { client.promote(&request).await });
    rig.daemon.wait_killed(PATIENCE)?;
    let write = |rig: &Rig, node: &str| {
        rig.server(node)
            .execute("INSERT INTO public.item (name) VALUES ('by hand')")
    };
    for node in ["main", "r1", "r2"] {
        let refused = write(&rig, node).err().map(|error| format!("{error:#}"));
        let refused = refused.with_context(|| format!("{node} takes writes"))?;
        ensure!(
            refused.contains("25006") || refused.contains("read-only"),
            "{refused}"
        );
    }
    let manual = std::fs::read_to_string(
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/PROMOTION.md"),
    )?;
    let manual = manual.split_whitespace().collect::<Vec<_>>().join(" ");
    let said = |behind: &str| -> Result<String> {
        let found = manual.split_once(behind).context(behind.to_owned())?.1;
        let statements = found.split('`').nth(1).context("no statement")?;
        Ok(statements.to_owned())
    };
    let open = said("By hand:")?;
    let numbers = said("set each before clients write, by")?;
    let places = [("<group>", "promo"), ("<db>", DATABASE)];
    let table = [("<table>", "public.item"), ("<column>", "id")];
    let filled = |text: String, with: [(&str, &str); 2]| -> Result<String> {
        let named = with.iter().all(|(place, _)| text.contains(place));
        ensure!(named, "{with:?} are not in {text}");
        Ok(with
            .iter()
            .fold(text, |text, (place, name)| text.replace(place, name)))
    };
    rig.server("r2").execute(&format!(
        "SET default_transaction_read_only = off; {} {}",
        filled(open, places)?,
        filled(numbers, table)?
    ))?;
    write(&rig, "r2")
}

#[test]
fn what_speaks_against_a_file_and_what_is_not_carried_over_is_named() -> Result<()> {
    let schema = "CREATE TABLE probe (id INTEGER PRIMARY KEY AUTOINCREMENT, node TEXT NOT NULL);
                  CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT);";
    let nodes = [("main", Kind::Lite), ("r1", Kind::Lite)];
    let group = Mixed::start(&nodes, schema, |config, _| config)?;
    group.place("main")?.execute(
        "CREATE VIEW seen AS SELECT id FROM item; CREATE VIRTUAL TABLE words USING fts5 (body);
         CREATE TRIGGER acts AFTER INSERT ON item BEGIN SELECT 1; END",
    )?;
    let dry = |group: &Mixed| -> Result<(bool, String)> {
        let dry = group.daemon.replctl(&["promote", "r1", "--dry-run"])?;
        let text = String::from_utf8_lossy(&dry.stdout).into_owned();
        Ok((dry.status.success(), text))
    };
    let (ready, text) = dry(&group)?;
    ensure!(ready, "{text}");
    for wanted in [
        "trigger: main.item: acts",
        "view: main.seen",
        "virtual table: main.words",
    ] {
        ensure!(text.contains(wanted), "{wanted} is not in {text}");
    }
    let r1 = group.place("r1")?;
    r1.execute("ALTER TABLE item ADD COLUMN more")?;
    let (ready, text) = dry(&group)?;
    ensure!(!ready && text.contains("a column more"), "{text}");
    r1.execute("ALTER TABLE item DROP COLUMN more")?;
    group.promote("r1")?;
    group.settle()?;
    // Nothing of the capture is left at the old primary.
    let left = "SELECT count(*) FROM sqlite_schema WHERE name = '_repl_changes' OR name LIKE '\\_repl\\_capture%' ESCAPE '\\'";
    ensure!(group.place("main")?.query_i64(left)? == 0);
    group.check_equal()
}
