//! The `onecluster` command; everything is in the library.
fn main() -> std::process::ExitCode {
    cli::run("onecluster")
}
