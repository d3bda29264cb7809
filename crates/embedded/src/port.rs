//! Finding a free TCP port on loopback.
//!
//! The answer is advice: another process can take the port before the caller binds it, so the caller still handles a
//! failed bind.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// `preferred` if nothing listens there, else a port the system picks; the flag tells whether it is the preferred one.
///
/// # Errors
///
/// When loopback has no port left to give.
pub fn free_or(preferred: u16) -> io::Result<(u16, bool)> {
    if preferred != 0 && is_free(preferred) {
        return Ok((preferred, true));
    }
    Ok((any()?, false))
}

/// A port that was free a moment ago.
///
/// # Errors
///
/// When loopback has no port left to give.
pub fn any() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Whether `port` can be bound on every address, which is what a server that listens on `0.0.0.0` needs.
#[must_use]
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_replaced_and_the_caller_is_told() {
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = holder.local_addr().unwrap().port();
        let (port, preferred) = free_or(taken).unwrap();
        assert_ne!(port, taken);
        assert!(!preferred);
    }

    #[test]
    fn a_free_port_is_kept() {
        let free = any().unwrap();
        assert_eq!(free_or(free).unwrap(), (free, true));
    }
}
