//! The binary `headwater`: reads the command line and the environment, does what was asked, and ends with an exit code that says how it
//! went. Everything else is in the library.

mod cli;

use std::process::ExitCode;

/// A step makes and drops many small buffers, on the worker's thread: glibc's allocator was a tenth of its profile.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
