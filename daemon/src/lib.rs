//! To come.

pub mod engine;

pub use engine::Engine;
