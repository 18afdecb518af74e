//! One primary, replicas of three engines at once: what arrives is what was written, in the form
//! docs/TYPES.md promises, or it is refused by name.

mod cross {
    mod check;
    mod chinook;
    mod columns;
    mod generated;
    mod group;
    mod occupied;
    mod protected;
    mod refused;
    mod settings;
    mod sqlite_primary;
    mod types;
    mod types_sqlite;
    mod values;
    mod workloads;
}
