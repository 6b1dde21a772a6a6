//! The pages about configuration hold examples that work.

use headwater_config::Config;

/// Goal: every example of TOML in the operator's pages is a configuration. Method: load each; a file that holds a secret
/// there is not here.
#[test]
fn examples_of_the_pages_are_configurations() {
    for page in ["config.md", "foreign-topics.md"] {
        let path = format!("{}/../docs/operating/{page}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap();
        let mut examples = 0;
        for block in text.split("```toml\n").skip(1) {
            let (example, _) = block.split_once("```").unwrap();
            let example = example.replace("file:/run/secrets/kafka-password", "x");
            if let Err(error) = Config::from_toml(&example) {
                panic!("{page}: {error}\n{example}");
            }
            examples += 1;
        }
        assert!(examples > 0, "{page} has no example");
    }
}
