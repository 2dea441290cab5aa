//! Arguments -> validated configuration -> runtime -> server.

/// Thousands of short-lived clients fragment the system's allocator; this one gives freed memory back from a
/// background thread of its own (feature `background_threads`) within some twenty seconds.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    pgfunnel::cli::main()
}
