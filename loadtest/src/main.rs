//! Load tests and measurements of Partyline.

fn main() {}
