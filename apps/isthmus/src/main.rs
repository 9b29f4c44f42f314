//! `isthmus`: arguments to plan, plan to run; nothing else.

fn main() {}
