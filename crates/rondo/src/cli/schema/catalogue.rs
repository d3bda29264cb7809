//! Schemas as this build has them, or as a directory does: `<service>/<Event>.v<N>.avsc`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use avro::{Defaults, SCHEMA_BYTES_MAX, Schema};
use contracts::service::SERVICES;
use serde::Serialize;

/// Most files of one directory of schemas.
const FILES_MAX: usize = 10_000;

/// One version of one event.
#[derive(Debug)]
pub(super) struct Version {
    pub(super) number: u32,
    /// The file, for people.
    pub(super) file: String,
    pub(super) text: String,
    pub(super) schema: Schema,
}

/// One event with its versions, ascending; there is at least one.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) service: String,
    pub(super) name: String,
    pub(super) full_name: String,
    pub(super) versions: Vec<Version>,
}

impl Event {
    pub(super) fn newest(&self) -> &Version {
        self.versions.last().expect("an event has a version")
    }

    pub(super) fn version(&self, number: u32) -> Option<&Version> {
        self.versions.iter().find(|version| version.number == number)
    }

    /// The topic, without a namespace: the service's own, or what the directory's name makes of it.
    pub(super) fn topic(&self) -> String {
        format!("{}.events", self.service)
    }

    /// The registry's subject, where `topic` is with its namespace.
    pub(super) fn subject(&self, topic: &str) -> String {
        format!("{topic}-{}", self.full_name)
    }
}

/// A file that is not what its name says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Fault {
    pub(super) file: String,
    pub(super) what: String,
    pub(super) hint: String,
}

/// All events of one place.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    pub(super) events: Vec<Event>,
    pub(super) faults: Vec<Fault>,
    /// Whether these are this build's own, so that its wire types read them.
    pub(super) built_in: bool,
}

impl Catalogue {
    /// The schemas of `directory`; this build's own without one.
    pub(super) fn load(directory: Option<&Path>) -> Result<Self> {
        let files = match directory {
            Some(directory) => read_directory(directory)?,
            None => built_in(),
        };
        if files.is_empty() {
            bail!(
                "no schemas found: they are named <service>/<Event>.v<N>.avsc under {}",
                directory.unwrap_or(Path::new("schemas")).display()
            );
        }
        let mut catalogue = Self::of(files);
        catalogue.built_in = directory.is_none();
        Ok(catalogue)
    }

    /// The events in `files`: pairs of a path, as `orders/OrderPlaced.v1.avsc`, and a text.
    pub(super) fn of(files: Vec<(String, String)>) -> Self {
        let mut grouped: BTreeMap<(String, String), Vec<Version>> = BTreeMap::new();
        let mut faults = Vec::new();
        for (file, text) in files {
            match version(&file, text) {
                Ok((service, name, version)) => grouped.entry((service, name)).or_default().push(version),
                Err(fault) => faults.push(fault),
            }
        }
        let mut events = Vec::new();
        for ((service, name), mut versions) in grouped {
            versions.sort_by_key(|version| version.number);
            faults.extend(faults_of(&name, &versions));
            let full_name = versions.last().and_then(|version| version.schema.full_name());
            events.push(Event {
                full_name: full_name.unwrap_or(&name).to_owned(),
                service,
                name,
                versions,
            });
        }
        Self {
            events,
            faults,
            built_in: false,
        }
    }

    /// The events that `names` name, by name or full name.
    pub(super) fn event(&self, name: &str) -> Result<&Event> {
        let found = self
            .events
            .iter()
            .find(|event| event.name == name || event.full_name == name);
        found.with_context(|| {
            let names: Vec<&str> = self.events.iter().map(|event| event.name.as_str()).collect();
            format!("no event is called {name}; there are {}", names.join(", "))
        })
    }
}

fn built_in() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for service in &SERVICES {
        for event_type in service.types {
            for version in event_type.versions {
                let file = format!("{}/{}.v{}.avsc", service.name, event_type.name, version.version);
                files.push((file, version.avsc.to_owned()));
            }
        }
    }
    files
}

fn read_directory(root: &Path) -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        let entries =
            std::fs::read_dir(&directory).with_context(|| format!("{} cannot be read", directory.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "avsc") {
                let length = path.metadata()?.len();
                if length > SCHEMA_BYTES_MAX as u64 {
                    bail!(
                        "{} has {length} bytes; a schema has at most {SCHEMA_BYTES_MAX}",
                        path.display()
                    );
                }
                let text =
                    std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
                let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
                files.push((name, text));
            }
            if files.len() > FILES_MAX {
                bail!("{} has more than {FILES_MAX} schemas", root.display());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// What a file's name and text say: service, event and version.
fn version(file: &str, text: String) -> Result<(String, String, Version), Fault> {
    let fault = |what: String, hint: &str| Fault {
        file: file.to_owned(),
        what,
        hint: hint.to_owned(),
    };
    let (directory, name) = file.rsplit_once('/').unwrap_or(("", file));
    let named = name.strip_suffix(".avsc").and_then(|stem| {
        let (event, number) = stem.rsplit_once(".v")?;
        Some((event, number.parse::<u32>().ok().filter(|number| *number > 0)?))
    });
    let Some((event, number)) = named else {
        return Err(fault(
            "its name has no version".to_owned(),
            "name it <Event>.v<N>.avsc, N from 1",
        ));
    };
    let schema = avro::parse(&text, Defaults::Checked).map_err(|error| {
        fault(
            format!("it is no Avro schema: {error}"),
            "mend the file; defaults must be of their field's type",
        )
    })?;
    let service = directory.rsplit('/').next().unwrap_or_default();
    let version = Version {
        number,
        file: file.to_owned(),
        text,
        schema,
    };
    Ok((service.to_owned(), event.to_owned(), version))
}

/// What is wrong with the versions of one event among themselves, short of their compatibility.
fn faults_of(name: &str, versions: &[Version]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (index, version) in versions.iter().enumerate() {
        let mut fault = |what: String, hint: &str| {
            faults.push(Fault {
                file: version.file.clone(),
                what,
                hint: hint.to_owned(),
            });
        };
        let full = version.schema.full_name().unwrap_or_default();
        if full.rsplit('.').next() != Some(name) {
            fault(
                format!("it holds {full}"),
                "a file is named as its record; another record is another event",
            );
        }
        if version.number as usize != index + 1 {
            fault(
                format!("version {} is missing before it", index + 1),
                "versions count from 1 without gaps, and old ones stay for ever",
            );
        }
        let same = versions[..index]
            .iter()
            .find(|earlier| earlier.schema.canonical() == version.schema.canonical());
        if let Some(earlier) = same {
            fault(
                format!("it says the same as version {}", earlier.number),
                "remove it: nothing has changed",
            );
        }
    }
    faults
}
