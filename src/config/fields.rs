//! One field at a time: a number within its limits, a word among the known ones, an address, a network, a file that is there.
//!
//! Every function here notes what is wrong and returns something usable, so that the rest is checked too; the errors noted
//! keep the result from becoming a `Config`.

use std::net::{IpAddr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;

use super::errors::ConfigErrors;
use super::raw::{Number, Text, Texts};
use super::suggest;

/// Where an error goes that is about something that is not in the file: its beginning.
pub(super) const TOP: Range<usize> = 0..0;

/// A check under way: the errors so far, and where relative file names start.
pub(super) struct Check {
    pub(super) errors: ConfigErrors,
    dir: PathBuf,
}

/// A table of the file, by the name of its keys' common beginning: `limits`, `listeners.web`; empty at the top.
pub(super) struct Section<'a> {
    pub(super) check: &'a mut Check,
    pub(super) at: String,
}

/// What a PEM file must contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pem {
    Certificate,
    Key,
}

/// No honest PEM file is larger.
const PEM_BYTES_MAX: u64 = 4 << 20;

impl Check {
    pub(super) fn new(errors: ConfigErrors, dir: &Path) -> Check {
        Check { errors, dir: dir.to_path_buf() }
    }

    pub(super) fn section(&mut self, at: impl Into<String>) -> Section<'_> {
        Section { check: self, at: at.into() }
    }
}

impl Section<'_> {
    /// Full name of a key in here.
    pub(super) fn key(&self, name: &str) -> String {
        if self.at.is_empty() { name.to_string() } else { format!("{}.{name}", self.at) }
    }

    /// Notes an error of the key `name`.
    pub(super) fn wrong(&mut self, span: Range<usize>, name: &str, what: impl Into<String>, action: impl Into<String>) {
        let key = self.key(name);
        self.check.errors.push(Some(span), key, what, action);
    }

    /// A whole number within its limits.
    pub(super) fn number(&mut self, name: &str, given: &Number, default: u64, limits: RangeInclusive<u64>) -> u64 {
        let Some(given) = given else { return default };
        let (value, low, high) = (*given.get_ref(), limits.start(), limits.end());
        if !limits.contains(&value) {
            let side = if value < *low { "below the limit" } else { "above the limit" };
            self.wrong(given.span(), name, format!("{value} is {side}"), format!("write {low} to {high}"));
        }
        value
    }

    /// A number that counts or sizes things in memory.
    pub(super) fn size(&mut self, name: &str, given: &Number, default: u64, limits: RangeInclusive<u64>) -> usize {
        usize::try_from(self.number(name, given, default, limits)).unwrap_or(usize::MAX)
    }

    /// A number whose upper limit fits 32 bits.
    pub(super) fn count(&mut self, name: &str, given: &Number, default: u64, limits: RangeInclusive<u32>) -> u32 {
        let limits = u64::from(*limits.start())..=u64::from(*limits.end());
        u32::try_from(self.number(name, given, default, limits)).unwrap_or(u32::MAX)
    }

    /// A time, written in milliseconds.
    pub(super) fn milliseconds(
        &mut self,
        name: &str,
        given: &Number,
        default: u64,
        limits: RangeInclusive<u64>,
    ) -> Duration {
        Duration::from_millis(self.number(name, given, default, limits))
    }

    /// A word among the known ones.
    pub(super) fn choice<T: Copy>(&mut self, name: &str, given: &Text, default: T, known: &[(&str, T)]) -> T {
        let Some(given) = given else { return default };
        let word = given.get_ref();
        if let Some((_, choice)) = known.iter().find(|(known, _)| known == word) {
            return *choice;
        }
        let words: Vec<&str> = known.iter().map(|(word, _)| *word).collect();
        let action = match suggest::nearest(word, words.iter().copied()) {
            Some(near) => format!("did you mean \"{near}\"? Known: {}", words.join(", ")),
            None => format!("write one of: {}", words.join(", ")),
        };
        self.wrong(given.span(), name, format!("{word:?} is not known"), action);
        default
    }

    /// A text that `parse` understands; `parse` says what is wrong and what to do.
    pub(super) fn parsed<T>(
        &mut self,
        name: &str,
        given: &Text,
        parse: impl Fn(&str) -> Result<T, (String, String)>,
    ) -> Option<T> {
        let given = given.as_ref()?;
        match parse(given.get_ref()) {
            Ok(value) => Some(value),
            Err((what, action)) => {
                self.wrong(given.span(), name, what, action);
                None
            }
        }
    }

    /// An address to listen on.
    pub(super) fn address(&mut self, name: &str, given: &Spanned<String>) -> Option<SocketAddr> {
        let text = given.get_ref();
        if let Ok(address) = text.parse() {
            return Some(address);
        }
        let port = text.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
        let port = port.map_or("8080".to_string(), |port| port.to_string());
        let action = format!("write an IP address and a port, like \"127.0.0.1:{port}\", or \"[::]:{port}\" for all");
        self.wrong(given.span(), name, format!("{text:?} is not an address"), action);
        None
    }

    /// Networks; an address alone is a network of one.
    pub(super) fn networks(&mut self, name: &str, given: &Texts) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for given in given.iter().flat_map(|list| list.get_ref()) {
            let text = given.get_ref();
            if let Ok(network) = text.parse::<IpNet>() {
                networks.push(network.trunc());
            } else if let Ok(address) = text.parse::<IpAddr>() {
                networks.push(IpNet::from(address));
            } else {
                let what = format!("{text:?} is not a network");
                self.wrong(given.span(), name, what, "write it like \"10.0.0.0/8\", \"fd00::/8\" or \"192.0.2.1\"");
            }
        }
        networks
    }

    /// A file name, made absolute: relative ones start where the configuration file is.
    pub(super) fn path(&mut self, name: &str, given: &Spanned<String>) -> PathBuf {
        if given.get_ref().is_empty() {
            self.wrong(given.span(), name, "is empty", "write a path");
        }
        let path = self.check.dir.join(given.get_ref());
        std::path::absolute(&path).unwrap_or(path)
    }

    /// A PEM file that is there and looks like one.
    pub(super) fn pem(&mut self, name: &str, given: &Spanned<String>, kind: Pem) -> PathBuf {
        let path = self.path(name, given);
        if let Err((what, action)) = looks_like_pem(&path, kind) {
            self.wrong(given.span(), name, format!("{}: {what}", path.display()), action);
        }
        path
    }

    /// A table or list that must be there but is not: the error stands at the table it belongs in.
    pub(super) fn missing(&mut self, span: Range<usize>, name: &str, action: &str) {
        self.wrong(span, name, "is missing", action);
    }
}

fn looks_like_pem(path: &Path, kind: Pem) -> Result<(), (String, &'static str)> {
    let unreadable = |error: std::io::Error| {
        let action = match error.kind() {
            std::io::ErrorKind::NotFound => "create it or correct the path (relative to the configuration file)",
            std::io::ErrorKind::PermissionDenied => "let weir's user read it",
            _ => "make it readable",
        };
        (format!("cannot be read: {error}"), action)
    };
    // The length first: a device or a pipe must not be read for ever.
    let file = std::fs::metadata(path).map_err(unreadable)?;
    if !file.is_file() || file.len() > PEM_BYTES_MAX {
        return Err(("is not a PEM file".to_string(), "name a regular file of at most 4 MiB"));
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    let text = String::from_utf8_lossy(&bytes);
    let certificate = text.contains("-----BEGIN CERTIFICATE-----");
    let key = ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"]
        .iter()
        .any(|label| text.contains(&format!("-----BEGIN {label}-----")));
    match kind {
        Pem::Certificate if certificate => Ok(()),
        Pem::Key if key => Ok(()),
        Pem::Certificate if key => Err(("holds a key, not a certificate".to_string(), "name the certificate's file")),
        Pem::Key if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") => {
            Err(("holds an encrypted key".to_string(), "decrypt it, for example with `openssl pkey`"))
        }
        Pem::Key if certificate => Err(("holds a certificate, not a key".to_string(), "name the key's file")),
        Pem::Certificate => Err(("holds no PEM certificate".to_string(), "it must hold BEGIN CERTIFICATE")),
        Pem::Key => Err(("holds no PEM private key".to_string(), "it must hold BEGIN PRIVATE KEY")),
    }
}
