//! The fault programme: everything that may break while the daemon works, and the proof that what
//! comes out is the primary's content, each transaction whole, in order and once.
//!
//! `REPL_TEST_FULL=1` turns the random crash tests from tens of cycles into hundreds.

mod faults {
    mod copies;
    mod crashes;
    mod daemons;
    mod disk;
    mod failpoints;
    mod history;
    mod isolation;
    mod mariadb;
    mod network;
    mod overlap;
    mod pipeline;
    mod prefix;
    mod replica_commits;
    mod replica_state;
    mod retention;
    mod rig;
    mod sabotage;
    mod silence;
    mod sqlite;
    mod sqlite_rig;
    mod zombie;
}
