//! The binary `headwater`: reads the command line and the environment, does what was asked, and ends with an exit code that says how it
//! went. Everything else is in the library.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
