//! The configuration as an operator meets it: files, variables, complaints, and what is shown.
//!
//! Before it, nothing; it uses the crate's public interface alone. Complaints are golden: their words are the product.

mod complaints;
mod docs;
mod layers;
mod mapping;
mod rules;
mod secrets;
mod show;

use headwater_config::Config;

/// What is said about `text`, one line a problem.
fn complaint(text: &str) -> String {
    Config::from_toml(text)
        .map_or_else(|error| error.to_string(), |_| "nothing is wrong".to_owned())
}
