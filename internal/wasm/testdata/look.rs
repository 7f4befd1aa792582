//! The least that a module does in Rust with the events of a stream: it looks at
//! each, and lets it pass. Benchmarks measure on-chunk with it.
#[macro_use]
#[path = "../scaffold/files/rust/sluice.rs"]
mod sluice;
use sluice::Chunk;

fn chunk(event: &[u8]) -> Chunk {
    if event.ends_with(b"data: [STOP]\n\n") {
        return Chunk::Finish(Vec::new());
    }
    Chunk::Pass
}
on_chunk!(chunk);
