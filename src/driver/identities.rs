//! Whose log, whose transport, who is where: what an operator may have mixed up, found before anything runs.

use super::error::MembershipChangeError;
use super::options::DriverOptions;
use super::start_error::{IdentityMismatch, StartError};
use crate::config::RaftConfig;
use crate::error::ConfigProblem;
use crate::membership::Membership;
use crate::transport::{RaftTransport, same_address};
use crate::types::{Identity, NodeId};
use std::boxed::Box;
use std::format;
use std::string::ToString;
use std::vec::Vec;

/// The log, the transport and the configuration are of one node of one cluster and group.
pub(super) fn check(
    config: &RaftConfig,
    options: &DriverOptions,
    log: Identity,
    transport: Identity,
) -> Result<(), StartError> {
    let own = Identity { cluster: None, node: Some(config.id), group: Some(options.group) };
    if differ(own, log) || differ(own, transport) || differ(log, transport) {
        return Err(StartError::Identity(Box::new(IdentityMismatch { configuration: own, log, transport })));
    }
    Ok(())
}

/// Whether the two know of themselves that they do not belong together.
fn differ(one: Identity, other: Identity) -> bool {
    fn known<I: PartialEq>(one: Option<I>, other: Option<I>) -> bool {
        one.is_some() && other.is_some() && one != other
    }
    known(one.cluster, other.cluster) || known(one.node, other.node) || known(one.group, other.group)
}

/// Every address of the configuration at which nobody can be found, or at which two are to be.
pub(super) fn address_problems<T: RaftTransport>(
    config: &RaftConfig,
    options: &DriverOptions,
    transport: &T,
) -> Vec<ConfigProblem> {
    let mut problems = Vec::new();
    let mut problem = |value, rule| problems.push(ConfigProblem { field: "membership", value, rule });
    for (id, address) in config.membership.addresses() {
        if let Err(error) = transport.check_address(id, address) {
            problem(format!("node {id} at \"{address}\""), error.rule());
        }
    }
    if let Some((one, other, address)) = shared(&config.membership, |_| true).filter(|_| !options.shared_addresses) {
        let rule = "must give each member an address of its own, unless DriverOptions::shared_addresses is set";
        problem(format!("nodes {one} and {other} at \"{address}\""), rule);
    }
    problems
}

/// Two members at one address, one of which is `concerned`.
fn shared(membership: &Membership, concerned: impl Fn(NodeId) -> bool) -> Option<(NodeId, NodeId, &str)> {
    let addresses: Vec<_> = membership.addresses().filter(|(_, address)| !address.is_empty()).collect();
    addresses.iter().enumerate().find_map(|(position, &(id, address))| {
        let others = addresses[..position].iter();
        let mut same = others.filter(|(other, at)| (concerned(id) || concerned(*other)) && same_address(at, address));
        same.next().map(|(other, _)| (*other, id, address))
    })
}

/// A change brings nobody to where somebody else is. What stands in the configuration already, stays.
pub(super) fn check_change(
    present: &Membership,
    target: &Membership,
    options: &DriverOptions,
) -> Result<(), MembershipChangeError> {
    if options.shared_addresses {
        return Ok(());
    }
    match shared(target, |id| target.address(id) != present.address(id)) {
        Some((one, other, address)) => {
            let address = address.to_string();
            Err(MembershipChangeError::SharedAddress { servers: [one, other], address })
        }
        None => Ok(()),
    }
}
