//! The test harness: real servers, real processes, real files.
//!
//! Nothing here imitates a database or the daemon. A test boots PostgreSQL servers
//! ([`pg`]) and MariaDB servers ([`mariadb`]), makes SQLite databases ([`sqlite`]), runs the daemon's own binary as its own
//! process ([`daemon`]), loads them with concurrent clients ([`workload`]), breaks things
//! ([`proxy`], [`netns`], [`small_disk`], SIGKILL and SIGSTOP by pid) and then compares what the two sides
//! hold, each side computing its own canonical form ([`content`], across engines [`canon`]).
//!
//! The harness is blocking: tests are threads, servers are child processes. Every child is tied
//! to the test process (see [`process`]) so that nothing outlives a killed test run.
//!
//! Environment variables understood by the harness:
//!
//! | variable | meaning |
//! |---|---|
//! | `REPL_TEST_PG_BIN` | directory with `postgres`, `initdb`, `psql`, `pgbench` (default: the newest `/usr/lib/postgresql/*/bin`) |
//! | `REPL_TEST_BIN` | directory with `repl-daemon` and `replctl` (default: beside the test binary's target directory) |
//! | `REPL_TEST_KEEP` | when set, scratch directories are kept and their paths printed |

pub mod canon;
pub mod content;
pub mod daemon;
pub mod mariadb;
pub mod netns;
pub mod pg;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod scratch;
pub mod small_disk;
pub mod sqlite;
pub mod wait;
pub mod workload;
