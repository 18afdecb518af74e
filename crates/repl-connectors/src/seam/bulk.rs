//! Rows that pass untouched from a source to a replica of the same engine.

use bytes::BytesMut;

/// What a loader takes rows in bulk into.
#[derive(Clone, Copy, Debug)]
pub struct BulkInto<'a> {
    /// Its engine, as schemas name it.
    pub engine: &'a str,
    /// Major version of its server.
    pub version: u32,
    /// Types of the columns with their lengths, in the order of the images.
    pub types: &'a [&'a str],
}

/// How rows are written in bulk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BulkForm {
    /// As text, which says the same whatever the version and type.
    Text,
    /// As the engine's binary form, which asks for equal types at both ends.
    Binary,
}

/// Some rows in bulk. Whatever precedes the first row and follows the last in their form is among
/// the data.
#[derive(Debug)]
pub struct BulkPiece {
    /// The bytes, to be loaded one piece behind the other.
    pub data: BytesMut,
    /// How many rows they are.
    pub rows: u64,
}
