//! No parser panics, and each reads back what it wrote.
