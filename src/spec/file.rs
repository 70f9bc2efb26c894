//! The one part of `spec` that reads: the space file, and the bodies and CSV files that it names, each bounded.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::keys::{MAX_DATA_FILE, MAX_FILE};
use super::{SpecErrors, StudySpec, parse};

/// Reads and validates the space file at `path`; files that it names are looked for beside it.
///
/// Every mistake is in the error, with its place; its exit code is 64 where the file is missing or unreadable
/// and 65 where it is wrong.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<StudySpec, SpecErrors> {
    let name = path.display().to_string();
    let unreadable = |why: String| SpecErrors::unreadable(&name, why);
    let bytes = read(path, MAX_FILE).map_err(|e| unreadable(format!("can't be read: {e}")))?;
    let text = String::from_utf8(bytes).map_err(|_| {
        SpecErrors::unreadable(&name, "this is not UTF-8 text; a space file is TOML".to_owned())
    })?;
    let folder: PathBuf = path.parent().map(Path::to_path_buf).unwrap_or_default();
    parse(&text, &name, env, &|file| read(&folder.join(file), MAX_DATA_FILE))
}

fn read(path: &Path, most: usize) -> Result<Vec<u8>, String> {
    let file = std::fs::File::open(path).map_err(|e| words(&e))?;
    let kind = file.metadata().map_err(|e| words(&e))?;
    if kind.is_dir() {
        return Err("it is a folder".to_owned());
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(|e| words(&e))?;
    if bytes.len() > most {
        return Err(format!("it is larger than {} MiB", most >> 20));
    }
    Ok(bytes)
}

/// The error without Rust's " (os error 2)".
fn words(e: &std::io::Error) -> String {
    use std::io::ErrorKind as K;
    match e.kind() {
        K::NotFound => "there is no such file".to_owned(),
        K::PermissionDenied => "no permission".to_owned(),
        _ => e.to_string(),
    }
}
