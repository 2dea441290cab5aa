//! What stands in the file system where the configuration points. Looks first: a wrong path must cost neither somebody's
//! file nor our memory.

use std::fs::FileType;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

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
