//! Tests of the harness itself: what it starts, breaks and compares is real.

mod harness {
    mod content;
    mod daemon;
    mod fixtures;
    mod postgres;
    mod proxy;
    mod sqlite;
    mod workload;
}
