//! Settings of the Kafka client: brokers, and librdkafka's own properties passed through.
//!
//! `KAFKA_PROPERTIES` holds `key=value` lines, or one line of them separated by commas. A variable such as
//! `KAFKA_SASL_USERNAME` sets the property `sasl.username` and comes before `KAFKA_PROPERTIES`. A variable that names no
//! property is somebody else's, such as those that Kubernetes sets for a service called `kafka`. What the runtime's
//! promises rest on is not for passing through.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

use super::{Environment, Error, namespace};
use crate::kafka;

const BROKERS: &str = "KAFKA_BROKERS";
const PROPERTIES: &str = "KAFKA_PROPERTIES";

/// Properties that the runtime sets itself: the values that would change nothing, and what any other would break.
const OWNED: &[(&str, &[&str], &str)] = &[
    ("bootstrap.servers", &[], "brokers are named by KAFKA_BROKERS"),
    ("metadata.broker.list", &[], "brokers are named by KAFKA_BROKERS"),
    (
        "enable.idempotence",
        &["true"],
        "a retried event could be published twice or out of order",
    ),
    (
        "acks",
        &["all", "-1"],
        "an acknowledged event could be lost with one broker",
    ),
    (
        "request.required.acks",
        &["all", "-1"],
        "an acknowledged event could be lost with one broker",
    ),
    (
        "message.timeout.ms",
        &["0"],
        "an event could be given up while later ones of its key are sent",
    ),
    (
        "delivery.timeout.ms",
        &["0"],
        "an event could be given up while later ones of its key are sent",
    ),
    (
        "partitioner",
        &["murmur2_random"],
        "events of one key would go to another partition than other clients choose",
    ),
    (
        "transactional.id",
        &[],
        "events are deduplicated by their ids, not by Kafka's transactions",
    ),
    (
        "enable.auto.commit",
        &["false"],
        "an offset could be committed before its effect",
    ),
    (
        "auto.commit.enable",
        &["false"],
        "an offset could be committed before its effect",
    ),
    (
        "enable.auto.offset.store",
        &["false"],
        "an offset could be committed before its effect",
    ),
    (
        "auto.offset.reset",
        &[],
        "where to go on is kept in the database; events could be skipped or read again unnoticed",
    ),
    (
        "group.id",
        &[],
        "each consumer's group is named after it; RONDO_NAMESPACE sets installations apart",
    ),
    (
        "group.instance.id",
        &[],
        "copies that share one environment would push each other out of the group",
    ),
    (
        "partition.assignment.strategy",
        &["cooperative-sticky"],
        "copies of a service would not agree how to share partitions",
    ),
    (
        "isolation.level",
        &["read_committed"],
        "events of an aborted transaction would be read",
    ),
    (
        "allow.auto.create.topics",
        &["false"],
        "topics would have the wrong partitions and retention; use `rondo init`",
    ),
];

/// Reads `KAFKA_BROKERS`, `KAFKA_PROPERTIES`, the `KAFKA_…` variables and `RONDO_NAMESPACE`.
///
/// # Errors
/// [`Error`] names the variable.
pub fn kafka(environment: &Environment) -> Result<kafka::Settings, Error> {
    let brokers = environment.get(BROKERS).ok_or_else(|| Error::Missing {
        variable: BROKERS.to_owned(),
        wanted: "the Kafka brokers, such as localhost:9092 or kafka-1:9092,kafka-2:9092".to_owned(),
    })?;
    let mut properties = BTreeMap::new();
    if let Some(text) = environment.get(PROPERTIES) {
        for (property, value) in parse_properties(text)? {
            admit(PROPERTIES, &property, &value)?;
            if !is_known(&property) {
                return Err(Error::Invalid {
                    variable: PROPERTIES.to_owned(),
                    found: format!("naming `{property}`, which the Kafka client does not know"),
                    wanted: "properties of librdkafka, such as `security.protocol=SASL_SSL`".to_owned(),
                });
            }
            properties.insert(property, value);
        }
    }
    for (name, value) in environment.iter() {
        let Some(property) = property_of(name).filter(|_| !value.is_empty()) else {
            continue;
        };
        admit(name, &property, value)?;
        if is_known(&property) {
            properties.insert(property, value.to_owned());
        } else {
            tracing::warn!(
                variable = name,
                "names no property of the Kafka client; it is left alone"
            );
        }
    }
    Ok(kafka::Settings {
        brokers: brokers.to_owned(),
        properties,
        namespace: namespace(environment)?,
    })
}

/// The variable that sets librdkafka's `property`: `KAFKA_LINGER_MS` for `linger.ms`.
pub fn kafka_variable(property: &str) -> String {
    format!("KAFKA_{}", property.to_uppercase().replace('.', "_"))
}

fn property_of(variable: &str) -> Option<String> {
    let name = variable.strip_prefix("KAFKA_").filter(|name| !name.is_empty())?;
    (variable != BROKERS && variable != PROPERTIES).then(|| name.to_lowercase().replace('_', "."))
}

/// Whether librdkafka has `property`, with whatever values.
fn is_known(property: &str) -> bool {
    let alone = ClientConfig::from_iter([(property.to_owned(), String::new())]);
    !matches!(
        alone.create_native_config(),
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..))
    )
}

fn admit(variable: &str, property: &str, value: &str) -> Result<(), Error> {
    match OWNED.iter().find(|(owned, ..)| *owned == property) {
        Some((_, harmless, reason)) if !harmless.contains(&value.to_lowercase().as_str()) => Err(Error::Refused {
            variable: variable.to_owned(),
            property: property.to_owned(),
            value: value.to_owned(),
            reason,
        }),
        _ => Ok(()),
    }
}

fn parse_properties(text: &str) -> Result<Vec<(String, String)>, Error> {
    let mut properties: Vec<(String, String)> = Vec::new();
    let on_one_line = !text.contains('\n');
    let separator = if on_one_line { ',' } else { '\n' };
    for piece in text.split(separator) {
        let piece = piece.trim();
        if piece.is_empty() || piece.starts_with('#') {
            continue;
        }
        match (piece.split_once('='), properties.last_mut()) {
            (Some((property, value)), _) if is_property_name(property.trim()) => {
                properties.push((property.trim().to_owned(), value.trim().to_owned()));
            }
            // A comma within a value, such as `debug=broker,topic`.
            (_, Some((_, value))) if on_one_line => {
                value.push(',');
                value.push_str(piece);
            }
            _ => {
                return Err(Error::Invalid {
                    variable: PROPERTIES.to_owned(),
                    // The piece itself may be part of a secret.
                    found: format!("not understood at entry {}", properties.len() + 1),
                    wanted: "lines of `property=value`, such as `security.protocol=SASL_SSL`".to_owned(),
                });
            }
        }
    }
    Ok(properties)
}

fn is_property_name(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-');
    !text.is_empty() && text.bytes().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<kafka::Settings, Error> {
        let environment = variables.iter().fold(
            Environment::default().with(BROKERS, "kafka:9092"),
            |environment, (name, value)| environment.with(name, value),
        );
        kafka(&environment)
    }

    #[test]
    fn properties_come_as_lines_as_commas_and_as_variables() {
        let lines = read(&[(
            PROPERTIES,
            "# over TLS\nsecurity.protocol = SSL\n\nssl.ca.location=/ca,1.pem\n",
        )])
        .unwrap();
        assert_eq!(lines.properties["ssl.ca.location"], "/ca,1.pem");
        let commas = read(&[(PROPERTIES, "security.protocol=SSL,debug=broker,topic,linger.ms=1")]).unwrap();
        assert_eq!(commas.properties["debug"], "broker,topic");
        assert_eq!(commas.properties["linger.ms"], "1");
        let variables = read(&[
            (PROPERTIES, "sasl.username=other"),
            ("KAFKA_SASL_USERNAME", "me"),
            ("KAFKA_SECURITY_PROTOCOL", "SASL_SSL"),
        ])
        .unwrap();
        assert_eq!(variables.properties["sasl.username"], "me");
        assert_eq!(variables.properties["security.protocol"], "SASL_SSL");
        assert_eq!(variables.brokers, "kafka:9092");
        assert_eq!(kafka_variable("sasl.username"), "KAFKA_SASL_USERNAME");
    }

    #[test]
    fn what_the_promises_rest_on_is_refused() {
        for (name, value) in [
            ("KAFKA_ENABLE_IDEMPOTENCE", "false"),
            ("KAFKA_ACKS", "1"),
            ("KAFKA_ENABLE_AUTO_COMMIT", "true"),
            ("KAFKA_AUTO_OFFSET_RESET", "latest"),
            ("KAFKA_GROUP_ID", "mine"),
            (PROPERTIES, "partitioner=random"),
        ] {
            let error = read(&[(name, value)]).expect_err(name).to_string();
            assert!(error.starts_with(name) && error.contains("remove it"), "{error}");
        }
        assert!(read(&[("KAFKA_ACKS", "all"), ("KAFKA_ENABLE_IDEMPOTENCE", "True")]).is_ok());
    }

    #[test]
    fn variables_that_are_not_meant_for_the_client_are_left_alone() {
        let config = read(&[
            ("KAFKA_PORT", "tcp://10.0.0.1:9092"),
            ("KAFKA_PORT_9092_TCP_ADDR", "10.0.0.1"),
            ("KAFKA_SERVICE_HOST", "10.0.0.1"),
            ("KAFKA_HEAP_OPTS", "-Xmx1G"),
            ("KAFKA_BROKERS_PROXIED", "127.0.0.1:29092"),
        ])
        .unwrap();
        assert!(config.properties.is_empty(), "{config:?}");
    }

    #[test]
    fn a_property_that_the_client_does_not_know_is_refused() {
        let error = read(&[(PROPERTIES, "linger.ms=1,sasl.usernam=s3cret")]).expect_err("misspelt");
        assert!(error.to_string().contains("sasl.usernam"), "{error}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }

    #[test]
    fn text_that_is_no_property_is_not_repeated() {
        let error = read(&[(PROPERTIES, "s3cret")]).expect_err("no property").to_string();
        assert!(!error.contains("s3cret"), "{error}");
    }

    #[test]
    fn secrets_among_the_properties_are_not_shown() {
        let config = read(&[
            ("KAFKA_SASL_PASSWORD", "s3cret"),
            ("KAFKA_SSL_KEY_PEM", "s3cret"),
            ("KAFKA_LINGER_MS", "2"),
        ]);
        let shown = format!("{config:?}");
        assert!(!shown.contains("s3cret") && shown.contains("linger.ms"), "{shown}");
    }
}
