//! The daemon's host library.
