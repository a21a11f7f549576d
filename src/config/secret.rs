//! A secret of the command line, a variable or a file.

use std::fmt;

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
