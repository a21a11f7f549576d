//! A secret of the command line, a variable or a file.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use zeroize::Zeroizing;

/// Never shown, in an error neither, and wiped when it is dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether it stands on the command line, where everybody on the machine can read it.
    pub fn is_on_command_line(&self) -> bool {
        crate::auth::is_on_command_line(self.reveal())
    }
}

/// Warns of a file with a secret in it that everybody on this machine can read.
pub fn tell_if_readable(option: &str, path: &Path) {
    let readable = |file: std::fs::Metadata| file.permissions().mode() & 0o004 != 0;
    if std::fs::metadata(path).is_ok_and(readable) {
        let path = path.display();
        tracing::warn!("{option} {path} can be read by everybody on this machine: chmod 600 it");
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
