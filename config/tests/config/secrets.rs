//! Secrets come from files or the environment, and are shown nowhere.

use std::ffi::OsString;

use headwater_config::{Config, Property, Sources};

const SECRET: &str = "hunter2-k33p-0ut";

/// Everything that can be printed of a load.
fn printed(files: &[std::path::PathBuf], environment: &[(OsString, OsString)]) -> String {
    let sources = Sources { files, environment };
    match Config::load(&sources) {
        Ok(loaded) => format!(
            "{sources:?}\n{loaded:?}\n{:#?}\n{}\n{}",
            loaded.config,
            loaded.show_toml(),
            loaded.show_json()
        ),
        Err(error) => format!("{error}\n{error:?}"),
    }
}

/// Goal: a secret is in the configuration and in nothing that can be printed, whether it is written in the file, in a
/// file that is named, or in the environment, and also when something else is wrong. Method: each way, then look for it.
#[test]
fn secrets_are_never_printed() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("password");
    std::fs::write(&kept, format!("{SECRET}\n")).unwrap();
    let file = folder.path().join("headwater.toml");
    let files = [file.clone()];
    let environment: [(OsString, OsString); 1] = [(
        "HEADWATER__KAFKA__CLIENT__SSL_KEY_PASSWORD".into(),
        SECRET.into(),
    )];
    let client = format!(
        "[kafka.client]\n\"sasl.password\" = \"{SECRET}\"\nssl.key.pem = \"\"\"{SECRET}\"\"\"\n\"sasl.jaas.config\" = \"{SECRET}\"\n\
         \"ssl.ca.pem\" = \"file:{}\"\n\"sasl.oauthbearer.client.secret\" = \"file:{0}\"\n\"ssl.ca.location\" = \"/etc/ca.pem\"\n",
        kept.display()
    );

    std::fs::write(&file, &client).unwrap();
    let loaded = Config::load(&Sources {
        files: &files,
        environment: &environment,
    })
    .unwrap();
    let mut secrets = 0;
    for (name, property) in loaded.config.kafka.client.iter() {
        let is_secret = matches!(property, Property::Secret(_));
        assert_eq!(is_secret, name != "ssl.ca.location", "{name}");
        if is_secret {
            assert_eq!(property.expose(), SECRET, "{name}");
            secrets += 1;
        }
    }
    assert_eq!(secrets, 6);
    let shown = printed(&files, &environment);
    assert!(!shown.contains(SECRET), "{shown}");
    assert!(shown.contains("/etc/ca.pem"), "{shown}");
    assert!(
        loaded
            .show_toml()
            .contains("\"sasl.password\" = \"(hidden)\"")
    );

    for wrong in [
        // Something else is wrong, or this is, in each way that quotes what it found.
        format!("{client}\"group.id\" = \"{SECRET}\"\n"),
        format!("{client}[kafka]\nsasl_password = \"{SECRET}\"\n"),
        format!("[kafka]\nclient = \"sasl.password={SECRET}\"\n"),
        format!("[kafka.client]\n\"sasl.password\" = [\"{SECRET}\"]\n"),
        format!("[kafka.client]\n\"sasl.password\" = \"{SECRET}\\u0000\"\n"),
        format!("[kafka.client]\n\"sasl.password\" = {SECRET}\n"),
        format!("[kafka.client]\n\"sasl.password\" = \"{SECRET}\n"),
        format!("[kafka.client]\n\"sasl.password\" = \"{SECRET}\" \"{SECRET}\"\n"),
        format!("sasl.password = \"{SECRET}\"\n"),
        format!("[state]\nrecent = \"{SECRET}\"\n"),
    ] {
        std::fs::write(&file, &wrong).unwrap();
        let result = Config::load(&Sources {
            files: &files,
            environment: &environment,
        });
        assert!(result.is_err(), "{wrong}");
        let said = printed(&files, &environment);
        assert!(!said.contains(SECRET), "{wrong}\n{said}");
    }
}

/// Goal: a file that is named and cannot be used is an error that names key and file. Method: no file, an empty one, one
/// that is too large, one that is no text.
#[test]
fn files_of_secrets_must_be_readable() {
    let folder = tempfile::tempdir().unwrap();
    let said = |content: Option<&[u8]>| {
        let path = folder.path().join("secret");
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let text = format!(
            "[kafka.client]\n\"sasl.password\" = \"file:{}\"\n",
            path.display()
        );
        Config::from_toml(&text)
            .unwrap_err()
            .to_string()
            .replace(folder.path().to_str().unwrap(), "DIR")
    };
    let place = "kafka.client.sasl.password (line 2): cannot read DIR/secret: ";
    assert_eq!(
        said(None),
        format!("{place}No such file or directory (os error 2)")
    );
    assert_eq!(said(Some(b"\n")), format!("{place}it is empty"));
    assert_eq!(said(Some(b"\xff")), format!("{place}it is not UTF-8 text"));
    assert_eq!(
        said(Some(&vec![b'x'; 256 * 1024 + 1])),
        format!("{place}it is larger than 256 KiB")
    );
}
