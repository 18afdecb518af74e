//! Who may speak to the daemon.
//!
//! The socket's file mode is the gate: without write permission nobody connects. This is the second
//! check behind it, against a mode or directory that someone loosened: the kernel's credentials of the
//! peer (SO_PEERCRED) must be those of root, of the daemon's own user, or of a member of the socket's
//! group.

use std::fs;
use std::io;

use super::Actor;

/// The users and the group that may use the API.
#[derive(Debug, Clone, Copy)]
pub struct Authority {
    /// The daemon's own effective user id.
    pub own_uid: u32,
    /// The group of the socket file.
    pub socket_gid: u32,
}

impl Authority {
    /// Whether `actor` may use the API. Looks into `/proc` and `/etc/group` only when the user and
    /// primary group have not decided it.
    pub fn allows(&self, actor: &Actor) -> bool {
        self.allows_with(actor, || supplementary_groups(actor))
    }

    fn allows_with(&self, actor: &Actor, groups: impl FnOnce() -> Vec<u32>) -> bool {
        actor.uid == 0
            || actor.uid == self.own_uid
            || actor.gid == self.socket_gid
            || groups().contains(&self.socket_gid)
    }
}

/// The supplementary groups of a peer: those its process holds, or, where the process cannot be read
/// (`hidepid`, `ProtectProc=`, it has exited), those `/etc/group` gives its user.
fn supplementary_groups(actor: &Actor) -> Vec<u32> {
    let of_process = actor
        .pid
        .and_then(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok())
        .and_then(|status| groups_of_status(&status, actor.uid));
    of_process.unwrap_or_else(|| {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        groups_of_user(&read("/etc/passwd"), &read("/etc/group"), actor.uid)
    })
}

/// Parses `/proc/<pid>/status`. `None` when its effective user is not `uid`: the process id has been
/// re-used by another process since the peer connected.
fn groups_of_status(status: &str, uid: u32) -> Option<Vec<u32>> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let effective: u32 = field("Uid:")?.split_whitespace().nth(1)?.parse().ok()?;
    if effective != uid {
        return None;
    }
    Some(
        field("Groups:")?
            .split_whitespace()
            .filter_map(|gid| gid.parse().ok())
            .collect(),
    )
}

/// The groups that list the user `uid` as a member, from the text of `/etc/passwd` and `/etc/group`.
fn groups_of_user(passwd: &str, group: &str, uid: u32) -> Vec<u32> {
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    });
    let Some(name) = name else { return Vec::new() };
    group
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [_, _, gid, members] = fields[..] else {
                return None;
            };
            members
                .split(',')
                .any(|member| member == name)
                .then(|| gid.parse().ok())?
        })
        .collect()
}

/// The id of a group given by number or by its name in `/etc/group`; `None` when there is no such group.
///
/// # Errors
/// When `/etc/group` cannot be read.
pub fn group_id(group: &str) -> io::Result<Option<u32>> {
    if let Ok(gid) = group.parse() {
        return Ok(Some(gid));
    }
    Ok(fs::read_to_string("/etc/group")?.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == group).then(|| fields.nth(1)?.parse().ok())?
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTHORITY: Authority = Authority {
        own_uid: 500,
        socket_gid: 60,
    };

    fn actor(uid: u32, gid: u32) -> Actor {
        Actor {
            uid,
            gid,
            pid: None,
        }
    }

    #[test]
    fn root_the_own_user_and_group_members_are_allowed() {
        let none = Vec::new;
        assert!(AUTHORITY.allows_with(&actor(0, 0), none));
        assert!(AUTHORITY.allows_with(&actor(500, 500), none));
        assert!(AUTHORITY.allows_with(&actor(1000, 60), none));
        assert!(AUTHORITY.allows_with(&actor(1000, 1000), || vec![4, 60]));
    }

    #[test]
    fn everybody_else_is_denied() {
        assert!(!AUTHORITY.allows_with(&actor(1000, 1000), || vec![4, 600]));
        assert!(
            !AUTHORITY.allows_with(&actor(60, 0), Vec::new),
            "ids of users are not groups"
        );
    }

    #[test]
    fn groups_of_a_process() {
        let status =
            "Name:\tcurl\nUid:\t1000\t1001\t1001\t1001\nGid:\t5\t5\t5\t5\nGroups:\t4 24 60 \n";
        assert_eq!(groups_of_status(status, 1001), Some(vec![4, 24, 60]));
        assert_eq!(
            groups_of_status(status, 1000),
            None,
            "another user's process"
        );
        assert_eq!(groups_of_status("Name:\tx\n", 1000), None);
    }

    #[test]
    fn groups_of_a_user() {
        let passwd = "root:x:0:0::/:/bin/sh\nbroken\nops:x:1000:1000::/home/ops:/bin/sh\n";
        let group = "root:x:0:\nadm:x:4:syslog,ops\nopsx:x:7:opsx\nrepl:x:60:ops\n";
        assert_eq!(groups_of_user(passwd, group, 1000), [4, 60]);
        assert!(groups_of_user(passwd, group, 1001).is_empty());
    }

    #[test]
    fn group_names_and_numbers() {
        assert_eq!(group_id("123").unwrap(), Some(123));
        assert_eq!(group_id("root").unwrap(), Some(0));
        assert_eq!(group_id("no-such-group-here").unwrap(), None);
    }
}
