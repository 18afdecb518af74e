//! The log's disk: full, failing, damaged.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use repl_api::{IngestState, Membership};
use repl_tests::daemon::Daemon;
use repl_tests::process::{spawn_tied, tail, tied_command};
use repl_tests::scratch::Scratch;
use repl_tests::small_disk::SmallDisk;
use repl_tests::wait::wait_until;

use super::rig::{self, REPLICA, Rig};

#[test]
fn a_full_disk_pauses_ingest_until_space_is_freed() -> Result<()> {
    let scratch = Scratch::new()?;
    let Some(disk) = SmallDisk::mount(&scratch.join("disk"), 8 * 1024)? else {
        return Ok(());
    };
    let log = disk.path().join("log").display().to_string();
    let rig = Rig::start_with(false, |config| config.set("log", "dir", log.as_str()))?;
    // The replica takes nothing, so nothing can be trimmed and the disk fills.
    rig.daemon
        .call(|client| async move { client.pause(REPLICA).await })?;
    let load = rig::spawn_load(&rig.primary, 300, true)?;
    wait_for_ingest(&rig.daemon, IngestState::Paused)?;
    // Truly full: not even the last bytes are left.
    disk.fill()?;
    let started = Instant::now();
    rig.write_some()?;
    ensure!(
        started.elapsed() < Duration::from_secs(3),
        "the primary's writers had to wait"
    );
    let status = rig.daemon.status()?;
    ensure!(
        status.log.ingest_reason.is_some(),
        "no reason is shown: {:?}",
        status.log
    );
    load.interrupt()?;
    disk.free()?;
    disk.resize(256 * 1024)?;
    wait_for_ingest(&rig.daemon, IngestState::Ok)?;
    rig.daemon
        .call(|client| async move { client.resume(REPLICA).await })?;
    rig.check()
}

/// Nobody else may read rows in the log directory, whatever the umask is and whoever made it.
#[test]
fn the_log_directory_is_closed_to_others() -> Result<()> {
    let mut rig = Rig::start()?;
    rig.daemon
        .call(|client| async move { client.pause(REPLICA).await })?;
    let log = rig.scratch.join("log");
    ensure!(
        open_to_others(&log)?.is_empty(),
        "{:?}",
        open_to_others(&log)?
    );
    ensure!(rig.daemon.terminate()?.success(), "the daemon did not stop");
    repl_tests::process::run(Command::new("chmod").args(["-R", "a+rX"]).arg(&log))?;
    ensure!(open_to_others(&log)?.len() > 5, "nothing was opened");
    rig.daemon.start()?;
    ensure!(
        open_to_others(&log)?.is_empty(),
        "{:?}",
        open_to_others(&log)?
    );
    ensure!(rig.daemon.log_contains("it is closed now")?, "no warning");
    rig.daemon
        .call(|client| async move { client.resume(REPLICA).await })?;
    too_few_file_handles(&mut rig)
}

/// What others than the owner may read, list or pass.
fn open_to_others(dir: &Path) -> Result<Vec<PathBuf>> {
    let paths = fs::read_dir(dir)?.map(|entry| Ok(entry?.path()));
    let paths: Vec<PathBuf> = paths.collect::<Result<_>>()?;
    let open = |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.mode() & 0o077 != 0);
    Ok(paths
        .into_iter()
        .chain([dir.to_owned()])
        .filter(open)
        .collect())
}

/// A file that cannot be opened is no failed fsync: nothing is lost, and it goes on when there is room.
fn too_few_file_handles(rig: &mut Rig) -> Result<()> {
    let limit = |soft: &str| {
        let pid = rig.daemon.pid()?.to_string();
        let nofile = format!("--nofile={soft}:");
        repl_tests::process::run(Command::new("prlimit").args(["--pid", &pid, &nofile]))
    };
    limit("8")?;
    let load = rig::spawn_load(&rig.primary, 300, true)?;
    wait_until("the log to say why it waits", rig::ARRIVAL, || {
        rig.daemon.log_contains("too few files may be open")
    })?;
    ensure!(rig.daemon.status().is_err(), "it could open a connection");
    limit("1024")?;
    wait_for_ingest(&rig.daemon, IngestState::Ok)?;
    load.interrupt()?;
    rig.check()
}

fn wait_for_ingest(daemon: &Daemon, state: IngestState) -> Result<()> {
    daemon.wait_status(&format!("ingest to be {state}"), rig::ARRIVAL, |status| {
        (status.log.ingest_state == state).then_some(())
    })
}

#[test]
fn a_daemon_killed_on_a_full_disk_recovers() -> Result<()> {
    let scratch = Scratch::new()?;
    let Some(disk) = SmallDisk::mount(&scratch.join("disk"), 64 * 1024)? else {
        return Ok(());
    };
    let log = disk.path().join("log").display().to_string();
    let mut rig = Rig::start_with(false, |config| config.set("log", "dir", log.as_str()))?;
    disk.fill()?;
    let load = rig::spawn_load(&rig.primary, 300, true)?;
    wait_for_ingest(&rig.daemon, IngestState::Paused)?;
    rig.daemon.kill9()?;
    // It may start on the full disk or refuse to; it must not lose or invent anything.
    rig.daemon.spawn()?;
    std::thread::sleep(Duration::from_secs(1));
    if rig.daemon.try_exit()?.is_none() {
        rig.daemon.kill9()?;
    }
    load.interrupt()?;
    disk.free()?;
    rig.daemon.start()?;
    rig.check()
}

/// A tracer that makes the daemon's disk calls fail.
struct Tracer(Child);

impl Tracer {
    /// Attaches to the daemon; `None`, with the reason printed, where tracing is not possible.
    fn attach(daemon: &Daemon, scratch: &Scratch, inject: &str) -> Result<Option<Tracer>> {
        let output = scratch.join("strace.log");
        let program = Path::new("/usr/bin/strace");
        if !program.exists() {
            eprintln!("NOT TESTED: strace is not installed");
            return Ok(None);
        }
        let mut command = tied_command(program, "KILL", None);
        command
            .args(["-f", "-p", &daemon.pid()?.to_string(), "-e", inject, "-o"])
            .arg(&output);
        let messages = fs::File::create(scratch.join("strace.err"))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(messages);
        let mut child = spawn_tied(command).context("cannot start strace")?;
        let status = format!("/proc/{}/status", daemon.pid()?);
        let attached = wait_until("the tracer", Duration::from_secs(5), || {
            Ok(fs::read_to_string(&status)?.contains(&format!("TracerPid:\t{}", child.id())))
        });
        if attached.is_err() {
            let why = tail(&scratch.join("strace.err"), 3);
            eprintln!("NOT TESTED: strace cannot attach: {why}");
            let _ = child.kill();
            return Ok(None);
        }
        Ok(Some(Tracer(child)))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_failed_fsync_stops_the_daemon() -> Result<()> {
    // Fails once and would succeed ever after: what the device holds is unknown all the same.
    stops_at_a_failed_fsync("inject=fdatasync,fsync:error=EIO:when=20", false)
}

/// The same while the capture waits for that fsync, since no more may be pending.
#[test]
fn a_failed_fsync_that_is_waited_for_stops_the_daemon() -> Result<()> {
    let inject = "inject=fdatasync,fsync:error=EIO:delay_enter=3s:when=20";
    stops_at_a_failed_fsync(inject, true)
}

fn stops_at_a_failed_fsync(inject: &str, bulk: bool) -> Result<()> {
    let mut rig = Rig::start_with(false, |config| {
        config.set("limits", "pending_bytes", "1MiB")
    })?;
    let load = rig::spawn_load(&rig.primary, 200, bulk)?;
    let Some(tracer) = Tracer::attach(&rig.daemon, &rig.scratch, inject)? else {
        return Ok(());
    };
    let status = rig.daemon.wait_exit(Duration::from_secs(20))?;
    ensure!(status.code() == Some(1), "the daemon ended with {status}");
    ensure!(
        rig.daemon.log_contains("sync")?,
        "no reason: {}",
        rig.daemon.log_tail(5)
    );
    drop(tracer);
    rig::check_snapshot(&rig.replica)?;
    rig.daemon.start()?;
    load.interrupt()?;
    rig.check()
}

/// What a transaction had in the log is taken back when more of it cannot be written. Then nothing is
/// left to be written, and still it has to be tried again.
#[test]
fn a_write_that_fails_within_a_large_transaction_is_tried_again() -> Result<()> {
    let mut rig = Rig::start()?;
    let inject = "inject=pwrite64,pwritev:error=EDQUOT";
    let Some(tracer) = Tracer::attach(&rig.daemon, &rig.scratch, inject)? else {
        return Ok(());
    };
    rig.primary.execute(
        "INSERT INTO public.bulk SELECT n, repeat(md5(n::text), 300) FROM generate_series(1, 3000) n \
         ON CONFLICT (id) DO UPDATE SET payload = excluded.payload",
    )?;
    wait_for_ingest(&rig.daemon, IngestState::Paused)?;
    drop(tracer);
    wait_for_ingest(&rig.daemon, IngestState::Ok)?;
    rig.check()?;
    ensure!(rig.daemon.try_exit()?.is_none(), "the daemon ended");
    Ok(())
}

/// A rig that is down with transactions in the log that the replica has not applied.
fn with_backlog() -> Result<Rig> {
    let mut rig = Rig::start()?;
    rig.daemon
        .call(|client| async move { client.pause(REPLICA).await })?;
    for _ in 0..3 {
        rig.write_some()?;
        rig.primary.execute(
            "INSERT INTO public.bulk SELECT n, repeat(md5(random()::text), 1000) \
             FROM generate_series(1, 30) n ON CONFLICT (id) DO UPDATE SET payload = excluded.payload",
        )?;
    }
    let end = rig.primary.query("SELECT pg_current_wal_insert_lsn()")?;
    let logged =
        format!("SELECT count(*) FROM pg_replication_slots WHERE confirmed_flush_lsn >= '{end}'");
    wait_until("the log to hold the backlog", rig::ARRIVAL, || {
        Ok(rig.primary.query_i64(&logged)? == 1)
    })?;
    rig.daemon.kill9()?;
    Ok(rig)
}

fn segments(rig: &Rig) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = fs::read_dir(rig.scratch.join("log"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    files.sort();
    ensure!(!files.is_empty(), "no segments found");
    Ok(files)
}

/// After damage: either the daemon refuses to start, or it shows that the replica cannot go on, or
/// the content is right. It must never stream on with something else.
fn detected_or_equal(rig: &mut Rig, what: &str) -> Result<&'static str> {
    rig.daemon.spawn()?;
    let deadline = Instant::now() + rig::ARRIVAL;
    loop {
        if let Some(status) = rig.daemon.try_exit()? {
            ensure!(
                status.code() == Some(1),
                "{what}: the daemon ended with {status}"
            );
            return Ok("refused to start");
        }
        rig::check_snapshot(&rig.replica).with_context(|| what.to_owned())?;
        if let Ok(status) = rig.daemon.status()
            && let Some(replica) = status.replica(REPLICA)
        {
            let told = matches!(
                replica.membership,
                Membership::NeedsResync | Membership::Paused
            ) && (replica.last_error.is_some() || !status.alerts.is_empty());
            let failing = replica
                .last_error
                .as_ref()
                .is_some_and(|e| e.message.contains("damage"));
            if replica.membership == Membership::Paused && replica.last_error.is_none() {
                // Paused by us before the damage.
                rig.daemon
                    .call(|client| async move { client.resume(REPLICA).await })?;
            } else if told || failing {
                rig.daemon.kill9()?;
                return Ok("shown in status");
            } else if replica.membership == Membership::Streaming
                && replica.applied_seq >= status.log.durable_seq
                && status.primary.state == repl_api::PrimaryState::Streaming
            {
                rig.check()
                    .with_context(|| format!("{what}: streaming, but"))?;
                rig.daemon.kill9()?;
                return Ok("equal");
            }
        }
        ensure!(
            Instant::now() < deadline,
            "{what}: neither detected nor caught up: {}",
            rig.daemon.log_tail(10)
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn flipped_bits_are_never_applied() -> Result<()> {
    let mut rig = with_backlog()?;
    let mut random = rig::Random::from_environment();
    let log = rig.scratch.join("log");
    let good = rig.scratch.join("good");
    copy(&log, &good)?;
    for round in 0..rig::cycles(8, 100) {
        let files = segments(&rig)?;
        let file = &files[random.below(files.len() as u64) as usize];
        let mut bytes = fs::read(file)?;
        let at = match round % 4 {
            // The head, the last bytes, anywhere.
            0 => random.below(64.min(bytes.len() as u64)) as usize,
            1 => bytes.len() - 1 - random.below(64.min(bytes.len() as u64)) as usize,
            _ => random.below(bytes.len() as u64) as usize,
        };
        let bit = random.below(8);
        bytes[at] ^= 1 << bit;
        fs::write(file, &bytes)?;
        let what = format!("bit {bit} of byte {at} of {}", file.display());
        let outcome = detected_or_equal(&mut rig, &what)?;
        println!("{what}: {outcome}");
        // What was detected is put right by putting the file back; what was equal was cut off and
        // fetched again, and the log has gone on since.
        if outcome != "equal" {
            fs::remove_dir_all(&log)?;
            copy(&good, &log)?;
        } else {
            fs::remove_dir_all(&good)?;
            copy(&log, &good)?;
        }
    }
    detected_or_equal(&mut rig, "the whole log")?;
    rig.daemon.start()?;
    rig.check()
}

#[test]
fn torn_tails_are_fetched_again() -> Result<()> {
    let mut rig = Rig::start()?;
    let mut random = rig::Random::from_environment();
    for round in 0..rig::cycles(4, 40) {
        rig.write_some()?;
        rig.settle()?;
        rig.daemon.kill9()?;
        let newest = segments(&rig)?.pop().context("no segment")?;
        let mut bytes = fs::read(&newest)?;
        // What a flush that never returned may leave: garbage, or a piece of a frame.
        let garbage = (0..random.below(300)).map(|_| random.below(256) as u8);
        let tail: Vec<u8> = if round % 2 == 0 {
            garbage.collect()
        } else {
            bytes[bytes.len() / 2..bytes.len() / 2 + 40.min(bytes.len() / 2)].to_vec()
        };
        bytes.extend(tail);
        fs::write(&newest, &bytes)?;
        rig.write_some()?;
        rig.daemon.start()?;
        rig.check().with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    repl_tests::process::run(Command::new("cp").arg("-a").arg("-T").arg(from).arg(to)).map(drop)
}
