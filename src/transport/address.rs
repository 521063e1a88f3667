//! Addresses that an operator types: whether one can be where a server is found, and whether two are one.
//!
//! Two addresses are compared as texts, in one spelling: the host in lower case and without the dot at its end, numbers of
//! hosts as they are usually written. Names are not looked up for that: `localhost:7001` and `127.0.0.1:7001` count as
//! different, and who is found where it should not be is refused in the handshake.

use std::net::{IpAddr, Ipv6Addr};
use std::string::{String, ToString};
use thiserror::Error;

/// Why a server cannot be found at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum AddressError {
    /// There is no port at its end.
    #[error("it has no port; write HOST:PORT")]
    NoPort,
    /// What stands for the port is no number from 1 to 65535.
    #[error("its port is no number from 1 to 65535")]
    Port,
    /// Nothing stands before the port.
    #[error("it has no host; write HOST:PORT")]
    EmptyHost,
    /// The host has characters that no name has, or the colons of an IPv6 address without brackets.
    #[error("its host is no name and no IP address; an IPv6 address stands in brackets")]
    Host,
    /// This server itself is there, and it is given for another one.
    #[error("it is the address of this server itself")]
    Own,
}

impl AddressError {
    /// What an address must be, as a rule of a configuration.
    pub(crate) const fn rule(self) -> &'static str {
        match self {
            Self::NoPort => "must end with a port: HOST:PORT",
            Self::Port => "must have a port from 1 to 65535",
            Self::EmptyHost => "must have a host: HOST:PORT",
            Self::Host => "must have a name or an IP address as its host, an IPv6 address in brackets",
            Self::Own => "must not be the address of this server itself, which has another id",
        }
    }
}

/// An address `HOST:PORT` in the one spelling that stands for all.
///
/// # Errors
/// No server can be found there.
pub(crate) fn normalise(address: &str) -> Result<String, AddressError> {
    let (host, port) = address.rsplit_once(':').ok_or(AddressError::NoPort)?;
    // What a text like `::1` ends with is no port.
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if bracketed.is_none() && host.contains(':') {
        return Err(AddressError::Host);
    }
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse::<u16>().ok().filter(|port| digits && *port > 0).ok_or(AddressError::Port)?;
    let host = match bracketed {
        Some(host) => bracketed_host(host)?,
        None => plain_host(host)?,
    };
    Ok(std::format!("{host}:{port}"))
}

fn bracketed_host(host: &str) -> Result<String, AddressError> {
    // A scope belongs to the address: the same number is somebody else on another link.
    let (number, scope) = host.split_once('%').map_or((host, None), |(number, scope)| (number, Some(scope)));
    let number: Ipv6Addr = number.parse().map_err(|_| AddressError::Host)?;
    Ok(match (number.to_canonical(), scope) {
        (IpAddr::V4(number), None) => number.to_string(),
        (_, None) => std::format!("[{number}]"),
        (_, Some(scope)) => std::format!("[{number}%{scope}]"),
    })
}

fn plain_host(host: &str) -> Result<String, AddressError> {
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.is_empty() {
        return Err(AddressError::EmptyHost);
    }
    if host.chars().any(|letter| letter.is_control() || letter.is_whitespace() || "[]/@".contains(letter)) {
        return Err(AddressError::Host);
    }
    Ok(host.to_lowercase())
}

/// Whether two addresses are one, as far as their texts tell. Words that are no `HOST:PORT` are equal or not.
pub(crate) fn same(one: &str, other: &str) -> bool {
    let spelt = |address: &str| normalise(address).unwrap_or_else(|_| address.to_string());
    one == other || spelt(one) == spelt(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_nobody_can_be_at_is_refused_by_name() {
        for (address, error) in [
            ("db-7", AddressError::NoPort),
            ("", AddressError::NoPort),
            ("db-7:", AddressError::Port),
            ("db-7:0", AddressError::Port),
            ("db-7:65536", AddressError::Port),
            ("db-7:+7", AddressError::Port),
            ("db-7:x", AddressError::Port),
            (":7001", AddressError::EmptyHost),
            (".:7001", AddressError::EmptyHost),
            ("::1:7001", AddressError::Host),
            ("[::1:7001", AddressError::Host),
            ("[db-7]:7001", AddressError::Host),
            ("db 7:7001", AddressError::Host),
            ("http://db-7:7001", AddressError::Host),
        ] {
            assert_eq!(normalise(address), Err(error), "{address}");
        }
    }

    #[test]
    fn one_address_in_several_spellings_is_one() {
        for (one, other) in [
            ("DB-7.example:7001", "db-7.Example.:7001"),
            ("db-7:07001", "db-7:7001"),
            ("[0:0:0:0:0:0:0:1]:7001", "[::1]:7001"),
            ("[::ffff:10.0.0.7]:7001", "10.0.0.7:7001"),
            ("a word of somebody's transport", "a word of somebody's transport"),
        ] {
            assert!(same(one, other), "{one} and {other}");
        }
        for (one, other) in [
            ("db-7:7001", "db-7:7002"),
            ("db-7:7001", "db-8:7001"),
            // Whether these are one, only a resolver can tell, and it may say otherwise tomorrow.
            ("localhost:7001", "127.0.0.1:7001"),
            ("[fe80::1%eth0]:7001", "[fe80::1%eth1]:7001"),
            ("one", "ONE"),
        ] {
            assert!(!same(one, other), "{one} and {other}");
        }
    }
}
