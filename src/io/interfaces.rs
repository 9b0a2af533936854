//! The network interfaces of this machine: their addresses and their numbers.

use std::io;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;

/// The IP addresses of all interfaces.
///
/// # Errors
/// The kernel does not say.
pub fn addresses() -> io::Result<Vec<IpAddr>> {
    let found = getifaddrs()?.filter_map(|interface| {
        let address = interface.address?;
        let four = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        four.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    });
    Ok(found.collect())
}

/// The number of an interface, which the address of a link is meant with.
///
/// # Errors
/// There is no such interface.
pub fn index_of(name: &str) -> io::Result<u32> {
    Ok(if_nametoindex(name)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_an_address_and_an_interface() {
        assert!(addresses().unwrap().contains(&IpAddr::from([127, 0, 0, 1])));
        assert_eq!(index_of("lo").unwrap(), 1);
        assert!(index_of("nowhere0").is_err());
    }
}
