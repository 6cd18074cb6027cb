//! Makes cargo notice new migrations; the embedding macro alone does not.

#![allow(clippy::print_stdout)]

fn main() {
    println!("cargo::rerun-if-changed=../migrations");
}
