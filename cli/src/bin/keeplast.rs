//! The one binary behind all commands; everything is in the library.
fn main() -> std::process::ExitCode {
    cli::run()
}
