#![allow(clippy::print_stdout)]
//! Makes cargo notice new migrations; the embedding macro alone does not.

fn main() {
    println!("cargo::rerun-if-changed=../migrations");
}
