//! The manifests in `deploy/k8s` say what the code says: ports, paths, variables, groups, topics, partitions, times, rules.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::config::{Environment, HttpConfig};
use common::http::{Health, server};
use contracts::choreography;
use contracts::service::SERVICES;
use contracts::topics::PARTITIONS_DEFAULT;
use rondo::serve::DRAIN_SECS;
use rondo::system::PORTS;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file of the manifests, by its path under `deploy/k8s`.
fn manifests() -> BTreeMap<String, String> {
    let directory = root().join("deploy/k8s");
    let parts = fs::read_dir(&directory).unwrap().map(|part| part.unwrap().path());
    let files = parts.flat_map(|part| fs::read_dir(part).unwrap());
    files
        .map(|file| {
            let path = file.unwrap().path();
            let name = path.strip_prefix(&directory).unwrap().display().to_string();
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect()
}

/// The values of `key: value` in a manifest, wherever they are, without quotes.
fn values<'a>(manifest: &'a str, key: &str) -> Vec<&'a str> {
    let found = manifest.split([',', '{', '}', '\n']).filter_map(|part| {
        let (name, value) = part.trim().trim_start_matches("- ").split_once(": ")?;
        (name == key).then(|| value.trim().trim_matches('"'))
    });
    found.collect()
}

fn one_number(manifest: &str, key: &str) -> u64 {
    let values = values(manifest, key);
    assert_eq!(values.len(), 1, "{key}: {values:?}");
    values[0].parse().unwrap()
}

/// `NAME=VALUE` lines of an env file or of literals.
fn settings(manifest: &str) -> BTreeMap<&str, &str> {
    let lines = manifest.lines().map(|line| line.trim().trim_start_matches("- "));
    lines
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| is_variable(name))
        .collect()
}

fn is_variable(name: &str) -> bool {
    name.contains('_') && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
}

#[test]
fn every_variable_in_the_manifests_is_one_that_the_configuration_page_describes() {
    let page = text("docs/configuration.md");
    let mut seen = BTreeSet::new();
    for (file, manifest) in &manifests() {
        let named = ["name", "key", "bootstrapServersFromEnv"]
            .map(|key| values(manifest, key))
            .concat();
        let variables = named.into_iter().filter(|name| is_variable(name));
        for variable in variables.chain(settings(manifest).into_keys()) {
            assert!(page.contains(&format!("`{variable}`")), "{file}: {variable}");
            seen.insert(variable.to_owned());
        }
    }
    for variable in [
        "KAFKA_BROKERS",
        "RONDO_TOKEN",
        "RONDO_LOG_FORMAT",
        "ORDERS_DATABASE_URL",
    ] {
        assert!(seen.contains(variable), "{variable} is not among {seen:?}");
    }
}

#[test]
fn no_secret_stands_in_a_manifest() {
    for (file, manifest) in &manifests() {
        assert!(!values(manifest, "kind").contains(&"Secret"), "{file}");
        assert!(!manifest.contains("secretGenerator"), "{file}");
        for variable in settings(manifest).into_keys() {
            let secret = ["DATABASE_URL", "TOKEN", "PASSWORD", "USER_INFO", "KEY"];
            assert!(!secret.iter().any(|part| variable.contains(part)), "{file}: {variable}");
        }
    }
}

#[test]
fn each_service_is_deployed_on_its_own_port_with_its_own_database() {
    let files = manifests();
    let environment = settings(&files["base/rondo.env"]);
    for (service, port) in PORTS {
        let manifest = &files[&format!("base/{service}.yaml")];
        let (port, upper) = (port.to_string(), service.to_uppercase());
        assert_eq!(values(manifest, "containerPort"), [&port], "{service}");
        assert_eq!(values(manifest, "port"), [&port], "{service}");
        assert!(manifest.contains(&format!("args: [serve, {service}]")), "{service}");
        assert_eq!(values(manifest, "key"), [format!("{upper}_DATABASE_URL")], "{service}");
        let url = environment[format!("RONDO_{upper}_URL").as_str()];
        assert_eq!(url, format!("http://{service}:{port}"));
    }
    let initialised = values(&files["base/init.yaml"], "key").len();
    assert_eq!(initialised, PORTS.len());
}

#[tokio::test]
async fn the_probes_ask_what_a_service_answers() {
    let stop = CancellationToken::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = HttpConfig::read(&Environment::default(), 0).unwrap();
    let (app, stopped) = (Health::new().routes(), stop.clone());
    let serving =
        tokio::spawn(async move { server::serve(listener, app, &config, stopped, Duration::from_secs(1)).await });
    let manifest = &manifests()["base/service.yaml"];
    let paths = values(manifest, "path");
    assert_eq!(paths.len(), 3, "startup, liveness, readiness");
    for path in paths {
        let answer = reqwest::get(format!("http://{address}{path}")).await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
    }
    stop.cancel();
    serving.await.unwrap().unwrap();
}

#[test]
fn a_pod_that_stops_has_the_time_that_a_service_takes_to_stop() {
    let manifest = &manifests()["base/service.yaml"];
    let (_, before) = manifest.split_once("command: [sleep, \"").unwrap();
    let before: u64 = before.split('"').next().unwrap().parse().unwrap();
    let grace = one_number(manifest, "terminationGracePeriodSeconds");
    // Beside the requests under way: the consumer's open batch and the relay's lease, each against a slow database.
    const RESERVE_SECS: u64 = 15;
    assert!(
        grace >= before + DRAIN_SECS + RESERVE_SECS,
        "{grace} s for {before} + {DRAIN_SECS} + {RESERVE_SECS}"
    );
}

#[test]
fn copies_are_scaled_by_the_lag_of_the_topics_that_each_group_reads_and_up_to_the_partitions_there_are() {
    let files = manifests();
    let scaled: BTreeMap<&str, (Vec<&str>, Vec<&str>)> = files["keda/scaledobjects.yaml"]
        .split("\n---\n")
        .map(|object| {
            let name = values(object, "name")[0];
            assert_eq!(values(object, "name"), [name, name], "the target has the same name");
            (name, (values(object, "consumerGroup"), values(object, "topic")))
        })
        .collect();
    assert_eq!(scaled.len(), SERVICES.len());
    for service in &SERVICES {
        let (groups, topics) = &scaled[service.name];
        assert!(groups.iter().all(|group| *group == service.name), "{groups:?}");
        assert_eq!(*topics, choreography::topics_read_by(service.name), "{}", service.name);
    }
    let most = one_number(&files["keda/scaling.yaml"], "maxReplicaCount");
    assert_eq!(most, u64::try_from(PARTITIONS_DEFAULT).unwrap());
    let made = format!("args: [init, --partitions, \"{PARTITIONS_DEFAULT}\"]");
    assert!(files["base/init.yaml"].contains(&made), "{made}");
}

#[test]
fn pods_run_as_the_user_that_the_image_makes() {
    let image = text("Dockerfile");
    let files = manifests();
    let user = one_number(&files["base/pod.yaml"], "runAsUser");
    assert!(image.contains(&format!("useradd --uid {user} ")), "{user}");
    assert!(files["base/pod.yaml"].contains("readOnlyRootFilesystem: true"));
}

#[test]
fn the_operator_gets_the_rules_that_prometheus_gets() {
    let alerts = text("deploy/prometheus/alerts.yml");
    let (_, groups) = alerts.split_once("groups:\n").unwrap();
    let files = manifests();
    let (_, shown) = files["monitoring/rules.yaml"]
        .split_once("\nspec:\n  groups:\n")
        .unwrap();
    let wanted: String = groups.lines().map(|line| format!("  {line}\n")).collect();
    assert!(
        shown == wanted,
        "put this behind `spec:` in deploy/k8s/monitoring/rules.yaml:\n\n  groups:\n{wanted}"
    );
}
