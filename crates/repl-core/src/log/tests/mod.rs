//! The file log under faults: crashes, damage, a full disk, failing devices.

mod conform;
mod crash;
mod damage;
mod disk_faults;
mod golden;
mod host;
mod model;
mod sim;
mod speed;

#[cfg(feature = "failpoints")]
mod failpoints;
