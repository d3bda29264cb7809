//! The private cluster: made once, kept across restarts, and never confused by what a crash leaves behind.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use embedded::postgres::{self, Error, Postgres, Progress, Settings};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

/// Set for the copy of this test binary that plays the process which crashes.
const CRASH_IN: &str = "EMBEDDED_TEST_CRASH_IN";

#[tokio::test]
async fn a_cluster_is_made_once_and_keeps_its_data_and_url() {
    let dir = tempdir();
    let home = dir.path().join("postgres");
    let (first, steps) = start(&home).await;
    assert!(steps.contains(&Progress::Initialising));
    first.create_database("shop").await.unwrap();
    first
        .create_database("shop")
        .await
        .expect("creating it again changes nothing");
    let url = first.url("shop");
    let client = connect(&url).await;
    client
        .batch_execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)")
        .await
        .unwrap();
    first.stop().await.unwrap();
    assert!(first.wait().await.starts_with("Postgres ended"));
    drop(first);

    let (second, steps) = start(&home).await;
    assert_eq!(steps, [Progress::Starting]);
    assert_eq!(second.url("shop"), url);
    let row = connect(&url).await.query_one("SELECT n FROM kept", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 7);
    second.stop().await.unwrap();
}

#[tokio::test]
async fn only_the_password_opens_it() {
    let dir = tempdir();
    let (postgres, _) = start(&dir.path().join("postgres")).await;
    let port = postgres.port();
    let guess = format!("postgres://rondo:guess@127.0.0.1:{port}/postgres");
    let refused = tokio_postgres::connect(&guess, NoTls)
        .await
        .err()
        .expect("a guess does not open it");
    assert_eq!(refused.code(), Some(&SqlState::INVALID_PASSWORD));
    assert!(!format!("{postgres:?}").contains(password_of(&postgres.url("x"))));
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_cluster_that_a_living_process_runs_is_left_alone() {
    let dir = tempdir();
    let home = dir.path().join("postgres");
    let (running, _) = start(&home).await;
    let second = Postgres::start(Settings::new(&home), |_| {}).await;
    assert!(matches!(second, Err(Error::InUse { .. })), "{second:?}");
    assert!(matches!(postgres::remove(&home).await, Err(Error::InUse { .. })));
    connect(&running.url("postgres")).await;
    running.stop().await.unwrap();
}

#[tokio::test]
async fn the_postmaster_of_a_crashed_process_is_stopped_and_its_data_kept() {
    let dir = tempdir();
    let home = dir.path().join("postgres");
    crash_with_a_cluster_in(&home).await;

    let (postgres, steps) = start(&home).await;
    assert_eq!(steps, [Progress::StoppingLeftover, Progress::Starting]);
    let rows = connect(&postgres.url("postgres"))
        .await
        .query("SELECT FROM written_before_the_crash", &[])
        .await;
    assert_eq!(rows.unwrap().len(), 1);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_cluster_of_a_crashed_process_can_be_removed() {
    let dir = tempdir();
    let home = dir.path().join("postgres");
    crash_with_a_cluster_in(&home).await;
    postgres::remove(&home).await.unwrap();
    let (postgres, steps) = start(&home).await;
    assert!(steps.contains(&Progress::Initialising));
    postgres.stop().await.unwrap();
}

/// Does nothing in an ordinary run; see [`crash_with_a_cluster_in`].
#[tokio::test]
async fn crash_on_request() {
    let Some(home) = std::env::var_os(CRASH_IN) else { return };
    let (postgres, _) = start(Path::new(&home)).await;
    let client = connect(&postgres.url("postgres")).await;
    client
        .batch_execute("CREATE TABLE written_before_the_crash AS SELECT")
        .await
        .unwrap();
    std::process::abort();
}

#[tokio::test]
async fn a_pid_file_that_names_a_stranger_does_not_block_the_start() {
    let dir = tempdir();
    let home = dir.path().join("postgres");
    let (postgres, _) = start(&home).await;
    let pid_file = postgres.data_dir().join("cluster/postmaster.pid");
    let stranger = std::fs::read_to_string(&pid_file).unwrap();
    postgres.stop().await.unwrap();
    drop(postgres);
    let rest: Vec<&str> = stranger.lines().skip(1).collect();
    std::fs::write(&pid_file, format!("{}\n{}\n", std::process::id(), rest.join("\n"))).unwrap();

    let (postgres, steps) = start(&home).await;
    assert_eq!(steps, [Progress::Starting]);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn the_death_of_the_postmaster_is_told_with_its_reason() {
    let dir = tempdir();
    let (postgres, _) = start(&dir.path().join("postgres")).await;
    let pid_file = std::fs::read_to_string(postgres.data_dir().join("cluster/postmaster.pid")).unwrap();
    let pid = pid_file.lines().next().unwrap();
    assert!(
        std::process::Command::new("kill")
            .args(["-9", pid])
            .status()
            .unwrap()
            .success()
    );
    let reason = tokio::time::timeout(Duration::from_secs(10), postgres.wait())
        .await
        .expect("it is noticed");
    assert!(reason.contains("signal: 9"), "{reason}");
}

#[tokio::test]
async fn dropping_it_stops_the_server() {
    let dir = tempdir();
    let (postgres, _) = start(&dir.path().join("postgres")).await;
    let url = postgres.url("postgres");
    drop(postgres);
    let deadline = Instant::now() + Duration::from_secs(10);
    while tokio_postgres::connect(&url, NoTls).await.is_ok() {
        assert!(Instant::now() < deadline, "it still answers");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error_only_when_it_was_asked_for() {
    let dir = tempdir();
    let home = dir.path().join("postgres");
    let holder = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let taken = holder.local_addr().unwrap().port();
    let asked = Settings {
        port: Some(taken),
        ..Settings::new(&home)
    };
    let refused = Postgres::start(asked, |_| {}).await;
    assert!(
        matches!(refused, Err(Error::PortTaken { port }) if port == taken),
        "{refused:?}"
    );

    // The next start finds that port noted nowhere and takes another.
    let (postgres, _) = start(&home).await;
    assert_ne!(postgres.port(), taken);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_cluster_of_a_version_that_cannot_be_had_is_not_touched() {
    let dir = tempdir();
    let home = dir.path().join("postgres");
    let (postgres, _) = start(&home).await;
    let version = postgres.data_dir().join("cluster/PG_VERSION");
    postgres.stop().await.unwrap();
    drop(postgres);
    std::fs::write(&version, "7\n").unwrap();
    let refused = Postgres::start(Settings::new(&home), |_| {}).await.unwrap_err();
    assert!(matches!(refused, Error::NoBinaries { major: 7, .. }), "{refused}");
    assert!(refused.to_string().contains("RONDO_POSTGRES_BIN"), "{refused}");
}

async fn start(home: &Path) -> (Postgres, Vec<Progress>) {
    let steps = Mutex::new(Vec::new());
    let settings = Settings {
        durable: false,
        ..Settings::new(home)
    };
    let postgres = Postgres::start(settings, |step| steps.lock().unwrap().push(step))
        .await
        .unwrap();
    let mut steps = steps.into_inner().unwrap();
    // Only the first test on a machine fetches.
    steps.retain(|step| !matches!(step, Progress::Fetching { .. }));
    (postgres, steps)
}

/// Runs this very binary again: it starts a cluster in `home`, writes a row and aborts.
async fn crash_with_a_cluster_in(home: &Path) {
    let output = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash_on_request", "--nocapture"])
        .env(CRASH_IN, home)
        .output()
        .await
        .unwrap();
    assert!(!output.status.success());
    assert!(
        home.join("cluster/postmaster.pid").exists(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn password_of(url: &str) -> &str {
    url.split([':', '@']).nth(2).unwrap()
}

/// Open to the account that root runs Postgres as.
fn tempdir() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}
