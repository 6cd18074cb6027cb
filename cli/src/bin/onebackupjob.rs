//! The `onebackupjob` command; everything is in the library.
fn main() -> std::process::ExitCode {
    cli::run("onebackupjob")
}
