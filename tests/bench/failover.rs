//! How long nobody takes writes when the primary changes: by death, here and with Patroni, and as planned.
//!
//! Clients try one server after the other until one acknowledges a write. Ours is three nodes in `sync`
//! mode, so nothing acknowledged is lost; Patroni two, asynchronous. Both with their default times.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use repl_api::{Membership, ModeState, PromoteRequest};
use repl_tests::pg::{DATABASE, PgServer, Role, Session};
use repl_tests::wait::wait_for;

use crate::client::{Clients, TABLE};
use crate::options::Options;
use crate::ours::Service;
use crate::patroni::Patroni;
use crate::report::{Kind, Report};
use crate::run::Memory;
use crate::stats::Spread;

const SCENARIO: &str = "failover";
const NODES: [&str; 3] = ["main", "r1", "r2"];
/// Deaths and planned changes of ours in a round; Patroni has one death.
const CHANGES: u32 = 5;
/// They write some 1,000 times a second where they are let.
const CLIENTS: usize = 6;
/// How long everything may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the scenario.
///
/// # Errors
/// When a server, the daemon or Patroni fails, or an acknowledged write is lost.
pub fn run(options: &Options, report: &mut Report, memory: &mut Memory) -> Result<()> {
    let mut ours = Ours::start()?;
    let (mut deaths, mut planned) = (Vec::new(), Vec::new());
    for round in 0..options.rounds * CHANGES {
        deaths.push(
            ours.death()
                .with_context(|| format!("death {}", round + 1))?,
        );
        planned.push(
            ours.switch()
                .with_context(|| format!("change {}", round + 1))?,
        );
        eprintln!(
            "  change {}: {:.2} s after a death, {:.0} ms as planned",
            round + 1,
            deaths[deaths.len() - 1],
            planned[planned.len() - 1]
        );
    }
    let longest = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    report.absolute(SCENARIO, "kill -9 to a write", "s", &deaths);
    report.absolute(
        SCENARIO,
        "kill -9 to a write, longest",
        "s",
        &[longest(&deaths)],
    );
    report.absolute(SCENARIO, "planned, without writes", "ms", &planned);
    report.absolute(SCENARIO, "planned, longest", "ms", &[longest(&planned)]);
    ours.end(memory)?;
    if options.ours_only {
        return Ok(());
    }
    let Some(mut patroni) = Patroni::start()? else {
        report.note("failover: patroni and etcd-server are not installed: ours alone was measured");
        return Ok(());
    };
    let theirs = (0..options.rounds).map(|_| patroni_death(&mut patroni));
    let theirs = theirs.collect::<Result<Vec<f64>>>()?;
    report.absolute(SCENARIO, "patroni, kill -9 to a write", "s", &theirs);
    let of_round = |round: usize| &deaths[round * CHANGES as usize..][..CHANGES as usize];
    let medians: Vec<f64> = (0..theirs.len())
        .filter_map(|round| Some(Spread::of(of_round(round))?.median))
        .collect();
    let kind = Kind::RatioLowerBetter;
    report.ratio(SCENARIO, "ours / patroni", kind, &medians, &theirs);
    Ok(())
}

/// The daemon, three servers, and clients.
struct Ours {
    service: Service,
    servers: Vec<PgServer>,
    clients: Clients,
}

impl Ours {
    fn start() -> Result<Self> {
        let server = |name: &&str| {
            let builder = PgServer::builder(name).durable(true);
            builder
                .setting("synchronous_commit", "remote_apply")
                .start()
        };
        let servers: Vec<PgServer> = NODES.iter().map(server).collect::<Result<_>>()?;
        servers[0].execute(TABLE)?;
        let urls: Vec<String> = servers
            .iter()
            .map(|server| server.url(DATABASE, Role::Superuser))
            .collect();
        let service = Service::launch("failover", |config| {
            config
                .set("replication", "mode", "sync")
                .set("failover", "automatic", true)
                .set("failover", "relies_on", "commits")
                // Another death follows at once.
                .set("failover", "cool_down", "0s")
                .primary(NODES[0], &urls[0])
                .replica(NODES[1], &urls[1])
                .with("protect", true)
                .replica(NODES[2], &urls[2])
                .with("protect", true)
        })?;
        let ours = Self {
            service,
            servers,
            clients: Clients::start(&urls, CLIENTS),
        };
        ours.settle()?;
        Ok(ours)
    }

    /// Waits until everybody follows and commits wait for all; what the log never saw of a former primary
    /// is given up.
    fn settle(&self) -> Result<()> {
        let daemon = self.service.daemon();
        let mut told = false;
        wait_for("everybody to follow", PATIENCE, || {
            let status = daemon.status()?;
            for one in &status.replicas {
                let held = one.membership == Membership::Diverged;
                if held && !std::mem::replace(&mut told, true) {
                    let done = daemon.replctl(&["rejoin", &one.name, "--yes"])?;
                    // Not before it was looked at.
                    told = done.status.success();
                }
            }
            let mut all = status.replicas.iter();
            let follow = all.all(|one| one.membership == Membership::Streaming);
            let holds = status
                .commits
                .as_ref()
                .is_some_and(|now| now.state == ModeState::InForce);
            Ok((follow && holds && status.promotion.is_none()).then_some(()))
        })?;
        // The death of the primary from now on loses nothing: the daemon has noted it.
        wait_for("the promise to be noted", PATIENCE, || {
            let request = PromoteRequest {
                force: true,
                ..PromoteRequest::default()
            };
            let asked =
                daemon.call(|client| async move { client.check_promotion(&request).await })?;
            Ok(asked.may_lose.filter(|loss| loss.nothing).map(drop))
        })
    }

    fn primary(&self) -> Result<usize> {
        let name = self.service.daemon().status()?.primary.name;
        let at = NODES.iter().position(|node| *node == name);
        at.with_context(|| format!("{name} is none of the nodes"))
    }

    /// Seconds from the primary's death to a write that another acknowledged.
    fn death(&mut self) -> Result<f64> {
        let old = self.primary()?;
        self.clients.first(Instant::now(), None, PATIENCE)?;
        let died = Instant::now();
        self.servers[old].kill9()?;
        let first = self.clients.first(died, Some(old), PATIENCE)?;
        self.servers[old].start()?;
        self.settle()?;
        Ok((first.at - died).as_secs_f64())
    }

    /// Milliseconds in which nobody acknowledged a write while the primary changed as planned.
    fn switch(&mut self) -> Result<f64> {
        let old = self.primary()?;
        let next = NODES[(old + 1) % NODES.len()];
        let begun = Instant::now();
        let done = self.service.daemon().replctl(&["promote", next, "--yes"])?;
        if !done.status.success() {
            bail!("{}", String::from_utf8_lossy(&done.stderr));
        }
        self.clients.first(begun, Some(old), PATIENCE)?;
        self.settle()?;
        let change = self.clients.change(begun, old);
        let (last, first) = change.context("no change was seen")?;
        ensure!(last < first, "two servers took writes");
        Ok((first - last).as_secs_f64() * 1000.0)
    }

    /// Ends it; every acknowledged write is on every node.
    fn end(self, memory: &mut Memory) -> Result<()> {
        let written = self.clients.stop()?;
        let primary = NODES
            .iter()
            .position(|node| {
                let status = self.service.daemon().status();
                status.is_ok_and(|status| status.primary.name == *node)
            })
            .context("nobody is the primary")?;
        self.service
            .daemon()
            .wait_caught_up(&self.servers[primary], PATIENCE)?;
        for server in &self.servers {
            let rows = server.query_i64("SELECT count(*) FROM public.beat")?;
            // One that was cut off in its COMMIT may be there as well.
            ensure!(
                rows >= written as i64,
                "{}: {rows} of {written} writes",
                server.name()
            );
        }
        memory.note(SCENARIO, &self.service);
        Ok(())
    }
}

fn patroni_death(patroni: &mut Patroni) -> Result<f64> {
    let urls = patroni.urls();
    let made = urls.iter().any(|url| {
        let open = Session::open(url);
        open.is_ok_and(|mut open| open.execute(TABLE).is_ok())
    });
    ensure!(made, "no node of Patroni takes writes");
    let clients = Clients::start(&urls, CLIENTS);
    let old = clients.first(Instant::now(), None, PATIENCE)?.server;
    // Well within its rhythm, whatever that is.
    thread::sleep(Duration::from_secs(15));
    let died = Instant::now();
    patroni.kill(old)?;
    let first = clients.first(died, Some(old), PATIENCE)?;
    clients.stop()?;
    patroni.rejoin(old)?;
    let seconds = (first.at - died).as_secs_f64();
    eprintln!("  patroni: {seconds:.2} s after a death");
    Ok(seconds)
}
