//! Loads with foreign keys, cascades and hot rows, from PostgreSQL to three engines at once.

use anyhow::{Result, ensure};
use repl_tests::workload::{Load, Until, shop, tpcb};

use super::group::Group;

#[test]
fn tpcb_and_a_shop_end_equal_on_three_engines() -> Result<()> {
    let group = Group::start(true, &["shop"], |primary| {
        tpcb::create(primary, 1)?;
        primary.execute("ALTER TABLE pgbench_history REPLICA IDENTITY FULL")?;
        shop::create(primary)
    })?;
    // While the copies are under way, too.
    tpcb::run(&group.primary, Load::new(3, Until::Transactions(300)))?;
    shop::run(&group.primary, Load::new(3, Until::Transactions(200)))?;
    group.caught_up()?;
    ensure!(group.same_schemas(&["public", "shop"])? == 8);
    tpcb::run(&group.primary, Load::new(3, Until::Transactions(200)))?;
    shop::run(&group.primary, Load::new(3, Until::Transactions(200)))?;
    shop::check_snapshot(&group.primary)?;
    group.caught_up()?;
    group.same_schemas(&["public", "shop"])?;
    group.sqlite.check_integrity()?;
    group.daemon.finish()
}
