//! Which of several matches wins: the order of the specification, as `Ord`. Greater wins.
