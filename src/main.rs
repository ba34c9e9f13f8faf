//! The binary: hands the command line to [`loggos::cli`] and exits with its code.

fn main() -> std::process::ExitCode {
    loggos::cli::main()
}
