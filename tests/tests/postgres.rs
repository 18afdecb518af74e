//! The daemon between PostgreSQL servers: what arrives on the replicas, what is refused and how it
//! is mended, what a broken or absent replica does to the others, and what all of it costs.

mod postgres {
    pub mod group;

    mod availability;
    mod boundaries;
    mod changes;
    mod composites;
    mod copy;
    mod copy_keys;
    mod copy_pace;
    mod coverage;
    mod encoding;
    mod enums;
    mod generated;
    mod inheritance;
    mod large;
    mod logins;
    mod partitions;
    mod periods;
    mod refusals;
    mod replica_errors;
    mod row_security;
    mod schema;
    mod selection;
    mod slot;
    mod tls;
    mod types;
    mod waits;
}
