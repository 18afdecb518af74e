use std::path::Path;

use anyhow::Result;
use repl_tests::daemon::{DaemonConfig, Toml};

#[test]
fn the_configuration_is_rendered_as_toml() -> Result<()> {
    let config = DaemonConfig::new("g1", Path::new("/tmp/log"))
        .set("limits", "batch_transactions", 7)
        .primary("main", "postgresql://u:p%25@127.0.0.1/app")
        .replica("replica-1", "sqlite:///tmp/\"x\".db")
        .with("enabled", false)
        .with("tables.exclude", &["a.*", "b"][..])
        .with("tls", Toml::raw("{ mode = \"disable\" }"));
    let text = config.render();
    for line in [
        "[limits]\nbatch_transactions = 7\n",
        "[log]\ndir = \"/tmp/log\"\n",
        "url = \"sqlite:///tmp/\\\"x\\\".db\"\n",
        "enabled = false\n",
        "tables.exclude = [\"a.*\", \"b\"]\n",
        "tls = { mode = \"disable\" }\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in:\n{text}");
    }
    assert_eq!(text.matches("[[node]]").count(), 2);
    assert_eq!(config.slot_name(), "repl_g1");
    assert_eq!(config.replica_names(), ["replica-1"]);
    Ok(())
}
