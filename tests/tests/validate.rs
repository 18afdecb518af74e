//! `replctl validate`: equality is proved while everything is written to, planted faults of every
//! kind are found, located and repaired on every engine.

mod validate {
    mod ask;
    mod background;
    mod faults;
    #[allow(dead_code)]
    #[path = "../cross/group.rs"]
    mod group;
    mod hindrances;
    mod load;
    mod speed;
    mod sqlite_primary;
}
