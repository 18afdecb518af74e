//! A network namespace for the daemon, with one way to the servers' host that can be cut.
//!
//! Cut off, every packet of either side goes to nobody, as behind a broken switch: nothing is refused, and
//! connections stay. Unix sockets are files, and reach across namespaces. Linux, as root.

use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A hardware address that nobody has.
const NOBODY: &str = "02:00:00:00:00:99";

/// The namespace; removed when dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
    /// The pair of interfaces: here, and in the namespace.
    links: [String; 2],
    addresses: [String; 2],
}

impl Netns {
    /// Whether this process may make one: it tries.
    #[must_use]
    pub fn is_possible() -> bool {
        let name = format!("repl-trial-{}", std::process::id());
        let peers = [
            "link", "add", "trial0", "type", "veth", "peer", "name", "trial1",
        ];
        let made = ip(&["netns", "add", &name]);
        let made = made.and_then(|()| ip(&[&["-n", &name][..], &peers].concat()));
        // Fails where nothing was made.
        let _ = ip(&["netns", "del", &name]);
        made.is_ok()
    }

    /// Makes one, connected.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new() -> Result<Netns> {
        let id = std::process::id();
        // For measurements within a network (RFC 2544), so no host here has them.
        let net = format!("198.{}.{}", 18 + (id >> 8) % 2, id % 256);
        let ns = Netns {
            name: format!("repl-test-{id}"),
            links: [format!("rth{id}"), format!("rtd{id}")],
            addresses: [format!("{net}.1"), format!("{net}.2")],
        };
        let ([here, there], [near, far]) = (&ns.links, &ns.addresses);
        let (near, far) = (format!("{near}/30"), format!("{far}/30"));
        ip(&["netns", "add", &ns.name])?;
        ip(&[
            "link", "add", here, "type", "veth", "peer", "name", there, "netns", &ns.name,
        ])?;
        ip(&["address", "add", &near, "dev", here])?;
        ip(&["link", "set", here, "up"])?;
        ip(&["-n", &ns.name, "address", "add", &far, "dev", there])?;
        ip(&["-n", &ns.name, "link", "set", there, "up"])?;
        ip(&["-n", &ns.name, "link", "set", "lo", "up"])?;
        Ok(ns)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where servers of this host are reached from within.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.addresses[0]
    }

    /// Cuts the way, or mends it.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn cut_off(&self, on: bool) -> Result<()> {
        let ([here, there], [near, far]) = (&self.links, &self.addresses);
        if on {
            let lost = ["lladdr", NOBODY, "nud", "permanent"];
            ip(&[&["neigh", "replace", far, "dev", here][..], &lost].concat())?;
            ip(&[
                &["-n", &self.name, "neigh", "replace", near, "dev", there][..],
                &lost,
            ]
            .concat())
        } else {
            ip(&["neigh", "del", far, "dev", here])?;
            ip(&["-n", &self.name, "neigh", "del", near, "dev", there])
        }
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Its interfaces go with it.
        if let Err(error) = ip(&["netns", "del", &self.name]) {
            eprintln!("{error:#}");
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let done = Command::new("ip").args(arguments).output();
    let done = done.context("cannot run ip (iproute2)")?;
    ensure!(
        done.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}
