//! The binary `headwater`: reads the command line and the environment, does what was asked, and ends with an exit code that says how it
//! went. Everything else is in the library.

mod cli;

use std::process::ExitCode;

/// A step makes and drops many small buffers: this allocator costs a fifth less CPU an event than glibc's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
