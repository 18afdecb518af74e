//! `replctl resync`: a replica is brought to what the primary holds by writing what differs, on every
//! engine, while applications write to the primary and read from the replica.

mod resync {
    #[allow(dead_code)]
    #[path = "../validate/ask.rs"]
    mod ask;
    mod checkpoints;
    mod crashes;
    mod differences;
    #[allow(dead_code)]
    #[path = "../cross/group.rs"]
    mod group;
    mod hindrances;
    mod lost_state;
    mod planted;
    mod returns;
    mod sqlite_primary;
    mod tables;
}
