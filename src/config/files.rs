//! What stands in the file system where the configuration points. Looks first: a wrong path must cost neither somebody's
//! file nor our memory.

use std::fs::{File, FileType};
use std::io::{self, Read as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

/// Larger files than any configuration, list of users or bundle of authorities are a mistake (a log, say) and would only eat
/// memory.
const LARGEST: u64 = 16 << 20;

/// Reads a whole file, which must be one (or a link to one, as in Kubernetes): a device has no end, and a FIFO may never
/// begin. Blocks.
///
/// # Errors
/// It cannot be read, is something else, or too large.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let found = path.metadata()?.file_type();
    if !found.is_file() {
        return Err(io::Error::other(format!("is {}, not a file", kind(found))));
    }
    let mut content = Vec::new();
    // Not by its length: it may be growing, and those of /proc have none.
    if File::open(path)?.take(LARGEST + 1).read_to_end(&mut content)? as u64 > LARGEST {
        return Err(io::Error::other(format!("is larger than {} MiB", LARGEST >> 20)));
    }
    Ok(content)
}

/// [`read`], for text.
pub(super) fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|_| io::Error::other("is not valid UTF-8"))
}

/// What stands where a Unix socket is to be made, if it is none: nobody's file is replaced.
pub(crate) fn in_the_way(path: &Path) -> Option<&'static str> {
    // Links are not followed: what is bound, or removed, is the link itself.
    let found = path.symlink_metadata().ok()?.file_type();
    (!found.is_socket()).then(|| kind(found))
}

fn kind(found: FileType) -> &'static str {
    match found {
        _ if found.is_file() => "a file",
        _ if found.is_dir() => "a directory",
        _ if found.is_symlink() => "a symbolic link",
        _ if found.is_fifo() => "a FIFO",
        _ if found.is_socket() => "a socket",
        _ => "a device",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_reasonable_size_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "text").unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        File::create(at("large")).unwrap().set_len(LARGEST + 1).unwrap();
        File::create(at("largest")).unwrap().set_len(LARGEST).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
        assert_eq!(read_text(&at("link")).unwrap(), "text");
        assert_eq!(read(&at("largest")).unwrap().len() as u64, LARGEST);
        assert!(!read(Path::new("/proc/self/status")).unwrap().is_empty());
        for (path, wrong) in [
            (at("large"), "is larger than 16 MiB"),
            (at("fifo"), "is a FIFO, not a file"),
            (at("."), "is a directory, not a file"),
            (at("none"), "No such file"),
            ("/dev/zero".into(), "is a device, not a file"),
        ] {
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(wrong), "{error}");
        }
    }
}
