//! How dead letters and campaigns are named: by service and row, as `orders/12`.

use std::fmt;
use std::str::FromStr;

use contracts::service::{SERVICES, Service};

/// Which row of which service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LetterId {
    /// The service.
    pub service: &'static str,
    /// The row in its database.
    pub row: i64,
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.row)
    }
}

impl FromStr for LetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = text
            .split_once('/')
            .and_then(|(service, row)| Some((Service::named(service)?.name, row.parse().ok()?)));
        known.map(|(service, row)| Self { service, row }).ok_or_else(|| {
            let names: Vec<&str> = SERVICES.iter().map(|service| service.name).collect();
            format!(
                "an id is SERVICE/NUMBER, such as orders/12, with a service of {}",
                names.join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_a_service_and_a_row() {
        let id: LetterId = "orders/12".parse().unwrap();
        assert_eq!((id.service, id.row), ("orders", 12));
        assert_eq!(id.to_string(), "orders/12");
        for wrong in ["12", "shipping/12", "orders/", "orders/x"] {
            assert!(
                wrong.parse::<LetterId>().is_err_and(|why| why.contains("orders/12")),
                "{wrong}"
            );
        }
    }
}
