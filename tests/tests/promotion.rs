//! Changes of primary: nobody loses a commit, no two nodes take writes, everybody follows.
//!
//! `REPL_TEST_FULL=1` makes the chains long.

mod promotion {
    mod across;
    mod by_hand;
    mod crashes;
    mod engines;
    mod failover;
    mod files;
    mod forced;
    mod mixed;
    mod modes;
    mod orders;
    mod planned;
    mod probes;
    mod refused;
    mod rejoin;
    mod rig;
    mod touched;
    mod unacknowledged;
}
