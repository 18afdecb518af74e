//! Enum types, whose labels are added to without a word in any stream.

/// An enum type of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnumType {
    /// Its qualified name, quoted as SQL needs it.
    pub name: String,
    /// Its labels, in its order.
    pub labels: Vec<String>,
}

/// What became of a replica's enum types.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FollowedEnums {
    /// The statements that added the labels a replica lacked.
    pub added: Vec<String>,
    /// Types with labels that the source has not, or has in another order, so that what they are now is
    /// not known: nothing was done with them. For people.
    pub differing: Vec<String>,
}
