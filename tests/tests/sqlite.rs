//! SQLite to SQLite through the real daemon, and the quickstart as a newcomer runs it.

#[path = "sqlite/changes.rs"]
mod changes;
#[path = "sqlite/group.rs"]
mod group;
#[path = "sqlite/process.rs"]
mod process;
#[path = "sqlite/quickstart.rs"]
mod quickstart;
#[path = "sqlite/schema.rs"]
mod schema;
