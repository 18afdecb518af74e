//! Replicas of other engines go on when the primary changes.

use anyhow::{Result, ensure};
use repl_api::PromotionState;
use repl_tests::mariadb::MariaDb;
use repl_tests::pg::DATABASE;
use repl_tests::scratch::Scratch;
use repl_tests::sqlite::SqliteDb;

use super::rig::Rig;

#[test]
fn replicas_of_other_engines_follow_whoever_is_primary() -> Result<()> {
    let scratch = Scratch::new()?;
    let file = SqliteDb::at(&scratch.join("replica.db"));
    let server = MariaDb::start_new("replica", &[])?;
    let some = &["public.probe", "public.part_low"][..];
    let rig = Rig::start(|config| {
        config
            .replica("lite", &file.url())
            .replica("maria", &server.url(DATABASE))
            .with("tables.include", some)
    })?;
    for (round, next) in ["r1", "main", "r2"].into_iter().enumerate() {
        let write = |primary: &str, mark: i32| {
            rig.server(primary).execute(&format!(
                "INSERT INTO public.probe (node) VALUES ('{primary}');
                 INSERT INTO public.part VALUES ({mark}, 'x');
                 UPDATE public.item SET amount = amount + 1 WHERE id < 20;
                 DELETE FROM public.item WHERE id = {mark}"
            ))
        };
        let mark = 300 + 10 * i32::try_from(round)?;
        write(&rig.primary()?, mark)?;
        let ended = rig.promote(next)?;
        ensure!(ended.state == PromotionState::Done, "{ended:#?}");
        write(next, mark + 1)?;
        rig.wait_streaming()?;
        rig.check_equal()?;
    }
    let refused = rig.daemon.replctl(&["promote", "maria", "--yes"])?;
    ensure!(refused.status.code() == Some(1), "{refused:?}");
    Ok(())
}
