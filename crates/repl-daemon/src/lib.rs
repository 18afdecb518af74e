//! The daemon's host library.

pub mod admin;

pub mod config;
