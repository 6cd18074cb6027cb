//! Where the daemon listens: `--endpoint`, else `ONE_XMLRPC`, else `~/.one/one_endpoint`, else the default port of this
//! host. The same order as every OpenNebula client.

use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// What OpenNebula clients use when nothing else is said.
const DEFAULT_ENDPOINT: &str = "http://localhost:2633/RPC2";

/// The port of OpenNebula's XML-RPC service.
const DEFAULT_PORT: u16 = 2633;

/// The port of an https endpoint that names none: that of the web, where proxies in front of OpenNebula listen.
const DEFAULT_TLS_PORT: u16 = 443;

/// The largest endpoint file we look at; one line is expected.
const FILE_BYTES_MAX: u64 = 4096;

/// An HTTP or HTTPS address taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// Host name or address, without the brackets of an IPv6 address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Path with its leading slash.
    pub path: String,
}

impl Endpoint {
    /// The endpoint for this call of the tool.
    ///
    /// # Errors
    /// When the chosen source holds no usable address; the message names the source.
    pub fn choose(option: Option<&str>, home: Option<&Path>) -> Result<Self> {
        if let Some(text) = option {
            return Self::parse(text).context("--endpoint cannot be used");
        }
        if let Ok(text) = std::env::var("ONE_XMLRPC")
            && !text.trim().is_empty()
        {
            return Self::parse(&text).context("the environment variable ONE_XMLRPC cannot be used");
        }
        if let Some(file) = home.map(|home| home.join(".one/one_endpoint"))
            && file.exists()
        {
            let text = super::first_line(&file, FILE_BYTES_MAX)?;
            return Self::parse(&text).with_context(|| format!("the file {} cannot be used", file.display()));
        }
        Self::parse(DEFAULT_ENDPOINT)
    }

    /// Takes `http://host[:port][/path]` or `https://…` apart. Without a scheme `http` is meant, without a path `/RPC2`,
    /// without a port 2633, or 443 for `https`.
    ///
    /// # Errors
    /// For another scheme, an empty host or a port that is no number.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let (tls, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some((scheme, _)) => bail!("the endpoint {text} asks for {scheme}, but only http and https are spoken"),
            None => (false, text),
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/RPC2"),
        };
        if authority.contains('@') {
            // Not repeated: what stands before it may be a password.
            bail!("an endpoint holds no name and password: write {DEFAULT_ENDPOINT}, and name the user with --user");
        }
        let (host, port) = split_port(authority).with_context(|| format!("the endpoint {text} has no usable port"))?;
        let plain = |c: char| c.is_ascii_graphic();
        if host.is_empty() || !host.chars().all(plain) || !path.chars().all(plain) {
            bail!("the endpoint {text} is not of the form {DEFAULT_ENDPOINT}");
        }
        let port = port.unwrap_or(if tls { DEFAULT_TLS_PORT } else { DEFAULT_PORT });
        Ok(Self { tls, host: host.to_owned(), port, path: path.to_owned() })
    }

    /// Host and port as the `Host` header wants them.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

fn split_port(authority: &str) -> Result<(&str, Option<u16>)> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').context("the bracket of the address is not closed")?;
        (host, after.strip_prefix(':'))
    } else {
        match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        }
    };
    let number = |text: &str| match text.parse() {
        Ok(port) => Ok(port),
        Err(_) => bail!("{text} is not a port between 0 and 65535"),
    };
    Ok((host, port.map(number).transpose()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_fills_in_port_and_path() {
        let endpoint = Endpoint::parse("http://cloud").unwrap();
        assert_eq!(endpoint.to_string(), "http://cloud:2633/RPC2");
        assert_eq!(Endpoint::parse("HTTPS://cloud").unwrap().to_string(), "https://cloud:443/RPC2");
        assert!(Endpoint::parse("https://cloud:2633/RPC2").unwrap().tls);
        assert_eq!(Endpoint::parse("http://[::1]:99/x").unwrap().to_string(), "http://[::1]:99/x");
        assert_eq!(Endpoint::parse(" http://10.0.0.1:2633/RPC2\n").unwrap().host, "10.0.0.1");
    }

    #[test]
    fn an_endpoint_that_cannot_be_used_is_refused() {
        for text in [
            "ftp://cloud/RPC2",
            "https://",
            "http://",
            "http://host:port/",
            "http://u:p@h/",
            "http://h:70000/",
            "http://a b/",
        ] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
        for text in ["http://u:secret@h/", "u:secret@h:2633", "https://secret@h/RPC2"] {
            let error = format!("{:#}", Endpoint::parse(text).unwrap_err());
            assert!(!error.contains("secret") && error.contains("--user"), "{error}");
        }
        let error = format!("{:#}", Endpoint::parse("http://h:70000/").unwrap_err());
        assert_eq!(error, "the endpoint http://h:70000/ has no usable port: 70000 is not a port between 0 and 65535");
    }
}
