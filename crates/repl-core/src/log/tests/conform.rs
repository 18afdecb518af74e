//! Both implementations against the suite.

use std::path::Path;
use std::sync::Arc;

use super::sim::SimDisk;
use crate::log::conformance::{Subject, run};
use crate::log::memory::MemoryLog;
use crate::log::{EventLog, FileLog, FileLogOptions, HostDisk};
use crate::position::LogId;

#[test]
fn the_memory_log_conforms() {
    run(&|| Subject {
        log: Arc::new(MemoryLog::new(LogId(uuid::Uuid::from_u128(1)))),
        reopen: None,
    });
}

/// Runs the suite over the simulated disk with these sizes.
fn conforms(segment_bytes: u64, index_bytes: u64, tail_bytes: u64) {
    let options = FileLogOptions {
        segment_bytes,
        index_bytes,
        tail_bytes,
        ..FileLogOptions::default()
    };
    run(&|| {
        let disk = SimDisk::new();
        let options = options.clone();
        let open = move || -> Arc<dyn EventLog> {
            let disk = Arc::new(disk.clone());
            FileLog::open(Path::new("/log"), options.clone(), disk)
                .unwrap()
                .log
        };
        Subject {
            log: open(),
            reopen: Some(Box::new(open)),
        }
    });
}

#[test]
fn the_file_log_conforms_with_tiny_segments() {
    conforms(1, 1, 0);
    conforms(2_000, 300, 500);
}

#[test]
fn the_file_log_conforms_with_one_large_segment() {
    conforms(1 << 30, 256 * 1024, 1 << 30);
    conforms(1 << 30, 1_000, 0);
}

#[test]
fn the_file_log_conforms_on_the_host() {
    let options = FileLogOptions {
        segment_bytes: 4_000,
        index_bytes: 1_000,
        tail_bytes: 3_000,
        ..FileLogOptions::default()
    };
    run(&|| {
        let dir = tempfile::tempdir().unwrap();
        let options = options.clone();
        let open = move || -> Arc<dyn EventLog> {
            FileLog::open(dir.path(), options.clone(), Arc::new(HostDisk))
                .unwrap()
                .log
        };
        Subject {
            log: open(),
            reopen: Some(Box::new(open)),
        }
    });
}
