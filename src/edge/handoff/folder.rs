//! The folder in which the servers of a host listen for sockets: `--handoff DIR`.
//!
//! **Invariant:** only processes of this user can reach what is in it. Whoever could put a socket
//! of another server's name there would get that server's clients.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::line::{Line, Listening, own_user};
use crate::protocol::ProcessId;

/// The longest path of a socket: `sockaddr_un` holds 108 bytes, of which the last is a zero.
const PATH_BYTES_MAX: usize = 107;

/// Why a folder can't be used, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("--handoff {}: {what}", path.display())]
pub struct BadFolder {
    path: PathBuf,
    what: String,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
    user: u32,
}

impl Folder {
    /// Takes a folder, and makes it where it is not there.
    pub fn open(path: &Path) -> Result<Self, BadFolder> {
        let folder = Self { path: path.to_owned(), user: own_user() };
        if !cfg!(target_os = "linux") {
            return Err(folder.bad("sockets are handed over on Linux alone: leave it out"));
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(folder.bad(format!("it can't be made: {error}")));
            }
            _ => {}
        }
        let found = fs::symlink_metadata(path);
        let found = found.map_err(|error| folder.bad(error.to_string()))?;
        if !found.is_dir() {
            return Err(folder.bad("it is no folder"));
        }
        if found.uid() != folder.user {
            let whose = found.uid();
            return Err(folder.bad(format!("it belongs to another user ({whose}): take one's own")));
        }
        if found.mode() & 0o077 != 0 {
            let may = found.mode() & 0o777;
            return Err(folder.bad(format!(
                "others can enter it ({may:03o}): name a folder of Parlor's own, of mode 700"
            )));
        }
        Ok(folder)
    }

    fn bad(&self, what: impl Into<String>) -> BadFolder {
        BadFolder { path: self.path.clone(), what: what.into() }
    }

    /// Whose it is: whoever else is at the other end of a line is a stranger.
    pub fn user(&self) -> u32 {
        self.user
    }

    /// As another user has it.
    #[cfg(test)]
    pub fn of_another(self) -> Self {
        Self { user: self.user + 1, ..self }
    }

    /// Where the server of this name listens.
    pub fn place(&self, server: &ProcessId) -> Result<PathBuf, BadFolder> {
        let path = self.path.join(format!("{server}.sock"));
        let bytes = path.as_os_str().len();
        if bytes > PATH_BYTES_MAX {
            let more = bytes - PATH_BYTES_MAX;
            return Err(self.bad(format!(
                "{} is {more} bytes longer than the path of a socket may be ({PATH_BYTES_MAX}): \
                 take a folder with a shorter one",
                path.display()
            )));
        }
        Ok(path)
    }

    /// Listens there for a server, also where one of this name has been killed.
    pub fn listen(&self, server: &ProcessId) -> Result<(Listening, PathBuf), BadFolder> {
        let path = self.vacate(server)?;
        let line = Listening::at(&path);
        let line =
            line.map_err(|error| self.bad(format!("can't listen at {}: {error}", path.display())))?;
        Ok((line, path))
    }

    /// Where a server is going to listen: nobody does, and what a killed one has left is gone.
    pub fn vacate(&self, server: &ProcessId) -> Result<PathBuf, BadFolder> {
        let path = self.place(server)?;
        match Line::dial(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // A file that nobody listens at any more.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                let socket = fs::symlink_metadata(&path).is_ok_and(|f| f.file_type().is_socket());
                if !socket {
                    let path = path.display();
                    return Err(self.bad(format!("{path} is no socket: remove it")));
                }
                fs::remove_file(&path).map_err(|error| {
                    self.bad(format!("{} can't be removed: {error}", path.display()))
                })?;
            }
            Ok(_) | Err(_) => {
                return Err(self.bad(format!("another process listens there as {server}: stop it")));
            }
        }
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    fn id(text: &str) -> ProcessId {
        ProcessId::parse(text).unwrap()
    }

    fn fault<T>(result: Result<T, BadFolder>) -> String {
        result.err().expect("a fault").to_string()
    }

    #[test]
    fn a_folder_is_made_and_others_are_kept_out_of_it() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("handoff");
        Folder::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        Folder::open(&path).unwrap();
        for mode in [0o710, 0o701, 0o777] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let said = fault(Folder::open(&path));
            assert!(said.contains(&format!("({mode:o}): name a folder")), "{said}");
        }
        let file = outer.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(fault(Folder::open(&file)).contains("no folder"));
        let link = outer.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(fault(Folder::open(&link)).contains("no folder"), "it may point elsewhere later");
        assert!(fault(Folder::open(&outer.path().join("a/b"))).contains("can't be made"));
        fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        // Only root may give a folder away.
        if std::os::unix::fs::chown(&path, Some(65_534), None).is_ok() {
            assert!(fault(Folder::open(&path)).contains("another user (65534)"));
        }
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused() {
        let folder = Folder {
            path: "x".repeat(PATH_BYTES_MAX - "/ws1.sock".len()).into(),
            user: own_user(),
        };
        assert!(folder.place(&id("ws1")).is_ok());
        let said = fault(folder.place(&id("ws10")));
        assert!(said.contains("is 1 bytes longer") && said.contains("shorter"), "{said}");
    }

    #[tokio::test]
    async fn a_killed_servers_socket_is_taken_over_and_a_living_ones_is_not() {
        let outer = tempfile::tempdir().unwrap();
        let folder = Folder::open(&outer.path().join("handoff")).unwrap();
        let (line, path) = folder.listen(&id("ws1")).unwrap();
        assert!(fault(folder.listen(&id("ws1"))).contains("another process"));
        drop(line);
        assert!(path.exists());
        let (line, again) = folder.listen(&id("ws1")).unwrap();
        assert_eq!(again, path);
        let (_other, _) = folder.listen(&id("ws2")).unwrap();
        drop(line);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a text").unwrap();
        assert!(fault(folder.listen(&id("ws1"))).contains("no socket"));
    }
}
