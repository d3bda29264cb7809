//! The account that Postgres runs as.
//!
//! Postgres refuses to run as root, which containers and CI machines often are. An ordinary user runs it as itself; root
//! runs it as the owner of an existing cluster, else as `postgres` or `nobody`, in a directory which that account owns
//! and can reach. Root's home is usually closed to others (0700): the cluster and the binaries then live under
//! [`ROOT_DATA`] and [`ROOT_CACHE`], at a place derived from the wanted path, so that a second start finds them.

use sha2::{Digest, Sha256};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// Where root keeps clusters whose wanted directory the Postgres account cannot enter.
const ROOT_DATA: &str = "/var/lib/rondo";

/// Where root keeps Postgres binaries when its own cache is closed to the Postgres account.
pub(super) const ROOT_CACHE: &str = "/var/cache/rondo/postgres";

/// The user and group `nobody` where /etc/passwd names neither it nor `postgres`: the kernel's overflow id.
const OVERFLOW_ID: u32 = 65534;

/// Who Postgres runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Account {
    /// The user this process runs as.
    Own,
    /// Another user, because this process is root.
    Other {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
}

impl Account {
    /// The account for the cluster wanted in `wanted`, and the directory where the cluster lives: `wanted` itself when the
    /// account can get there, else a stand-in under [`ROOT_DATA`].
    pub(super) fn place(wanted: &Path) -> io::Result<(Self, PathBuf)> {
        if !running_as_root()? {
            return Ok((Self::Own, wanted.to_owned()));
        }
        // A cluster stays with the account that made it, or Postgres would refuse its files: an ordinary user's stays
        // that user's, and `nobody`'s stays so when a package brings the user `postgres` later.
        for dir in [wanted.to_owned(), stand_in(wanted)] {
            if let Ok(found) = fs::metadata(dir.join(super::CLUSTER))
                && found.uid() != 0
            {
                return Ok((
                    Self::Other {
                        uid: found.uid(),
                        gid: found.gid(),
                    },
                    dir,
                ));
            }
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let account = ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| find_in_passwd(&passwd, name))
            .unwrap_or(Self::Other {
                uid: OVERFLOW_ID,
                gid: OVERFLOW_ID,
            });
        Ok((account, account.data_dir(wanted)))
    }

    fn data_dir(self, wanted: &Path) -> PathBuf {
        if self.can_enter_above(wanted) {
            wanted.to_owned()
        } else {
            stand_in(wanted)
        }
    }

    /// Whether this account may pass through every directory above `path` that exists; those that do not will be
    /// created open.
    pub(super) fn can_enter_above(self, path: &Path) -> bool {
        let Self::Other { uid, gid } = self else { return true };
        path.ancestors()
            .skip(1)
            .filter_map(|dir| fs::metadata(dir).ok())
            .all(|dir| {
                let may = match () {
                    () if dir.uid() == uid => 0o100,
                    () if dir.gid() == gid => 0o010,
                    () => 0o001,
                };
                dir.mode() & may != 0
            })
    }

    /// Creates `dir` for this account alone, and what is missing above it open to all.
    pub(super) fn create_private_dir(self, dir: &Path) -> io::Result<()> {
        if let Some(parent) = dir.parent() {
            create_open_dirs(parent)?;
        }
        if !dir.is_dir() {
            fs::create_dir(dir)?;
        }
        fs::set_permissions(dir, Permissions::from_mode(0o700))?;
        self.own(dir)
    }

    /// Hands `path` to this account.
    pub(super) fn own(self, path: &Path) -> io::Result<()> {
        match self {
            Self::Own => Ok(()),
            Self::Other { uid, gid } => chown(path, Some(uid), Some(gid)),
        }
    }

    /// A command that runs as this account, in `dir` (the caller's own directory may be closed to it), in the C locale so
    /// that its messages are known words, and in its own process group so that a Ctrl-C meant for us does not reach it.
    pub(super) fn command(self, program: &Path, dir: &Path) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(program);
        command
            .current_dir(dir)
            .env("LC_ALL", "C")
            .env_remove("PGDATA")
            .env_remove("PGPORT")
            .process_group(0);
        if let Self::Other { uid, gid } = self {
            command.uid(uid).gid(gid);
        }
        command
    }
}

fn stand_in(wanted: &Path) -> PathBuf {
    let digest = Sha256::digest(wanted.as_os_str().as_encoded_bytes());
    Path::new(ROOT_DATA).join(format!("postgres-{}", hex::encode(&digest[..8])))
}

/// Creates `dir` and its missing parents with mode 0755, whatever the umask says.
pub(super) fn create_open_dirs(dir: &Path) -> io::Result<()> {
    let mut missing: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.is_dir()).collect();
    missing.reverse();
    for dir in missing {
        match fs::create_dir(dir) {
            Ok(()) => fs::set_permissions(dir, Permissions::from_mode(0o755))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whoever creates a file owns it: the one portable way to learn the effective uid without unsafe code.
fn running_as_root() -> io::Result<bool> {
    Ok(tempfile::tempfile()?.metadata()?.uid() == 0)
}

fn find_in_passwd(passwd: &str, name: &str) -> Option<Account> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut ids = line.split(':').skip(2).map(str::parse);
    match (ids.next()?, ids.next()?) {
        (Ok(uid), Ok(gid)) if uid != 0 => Some(Account::Other { uid, gid }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65533:nobody:/:/sbin/nologin\n";

    #[test]
    fn an_account_is_found_by_its_whole_name() {
        assert_eq!(
            find_in_passwd(PASSWD, "nobody"),
            Some(Account::Other { uid: 65534, gid: 65533 })
        );
        assert_eq!(find_in_passwd(PASSWD, "nobo"), None);
        assert_eq!(find_in_passwd(PASSWD, "root"), None);
    }

    #[test]
    fn a_directory_under_a_closed_one_gets_a_stand_in_that_is_the_same_each_time() {
        let home = tempfile::tempdir().unwrap();
        fs::set_permissions(home.path(), Permissions::from_mode(0o700)).unwrap();
        let wanted = home.path().join("data/postgres");
        let stranger = Account::Other {
            uid: 4_000_000,
            gid: 4_000_000,
        };

        let given = stranger.data_dir(&wanted);
        assert!(given.starts_with(ROOT_DATA), "{given:?}");
        assert_eq!(given, stranger.data_dir(&wanted));
        assert_eq!(Account::Own.data_dir(&wanted), wanted);

        fs::set_permissions(home.path(), Permissions::from_mode(0o711)).unwrap();
        assert_eq!(stranger.data_dir(&wanted), wanted);
    }
}
