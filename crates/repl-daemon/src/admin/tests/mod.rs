//! The admin server in-process, over a real Unix socket, with a small [`Control`].

mod bounds;
mod endpoints;
mod fixture;
mod ownership;
mod roles;
