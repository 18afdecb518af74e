//! Changes of primary: nobody loses a commit, no two nodes take writes, everybody follows.
//!
//! `REPL_TEST_FULL=1` makes the chains long.

mod promotion {
    mod crashes;
    mod engines;
    mod failover;
    mod forced;
    mod modes;
    mod planned;
    mod probes;
    mod refused;
    mod rejoin;
    mod rig;
}
