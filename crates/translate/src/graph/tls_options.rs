//! `tls.options` of a listener -> versions and ciphers.

use std::collections::BTreeMap;

use isthmus_routing::tls::UnknownTlsValue;
use isthmus_routing::{CipherSuite, TlsSettings, TlsVersion};

/// What our keys begin with.
const PREFIX: &str = "isthmus.dev/";

const MIN_VERSION: &str = "isthmus.dev/min-version";

const CIPHER_SUITES: &str = "isthmus.dev/cipher-suites";

/// Why options cannot be carried out. Each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TlsOptionFault {
    #[error("tls.options: `{0}` is not an option that is known; use {MIN_VERSION} or {CIPHER_SUITES}, or remove it")]
    Key(String),
    #[error("tls.options: {key}: {fault}")]
    Value { key: &'static str, fault: UnknownTlsValue },
    #[error("tls.options: {CIPHER_SUITES} names no cipher; name some, separated by commas, or remove it")]
    NoCipher,
    #[error(
        "tls.options: none of the ciphers in {CIPHER_SUITES} is of TLS 1.3, which {MIN_VERSION} requires; add one or lower the version"
    )]
    NothingLeft,
}

/// Reads our options; those of others are passed over:
///
/// > To avoid
/// > any ambiguity, implementation-specific definitions MUST use
/// > domain-prefixed names, such as `example.com/my-custom-option`.
pub(super) fn read(options: Option<&BTreeMap<String, String>>) -> Result<TlsSettings, TlsOptionFault> {
    let mut settings = TlsSettings::default();
    for (key, value) in options.into_iter().flatten().filter(|(key, _)| key.starts_with(PREFIX)) {
        match key.as_str() {
            MIN_VERSION => {
                let version = value.trim().parse().map_err(|fault| TlsOptionFault::Value { key: MIN_VERSION, fault })?;
                settings.min_version = Some(version);
            }
            CIPHER_SUITES => settings.ciphers = ciphers(value)?,
            _ => return Err(TlsOptionFault::Key(key.clone())),
        }
    }
    let only_old = settings.ciphers.iter().all(|cipher| cipher.version() < TlsVersion::V1_3);
    if settings.min_version == Some(TlsVersion::V1_3) && !settings.ciphers.is_empty() && only_old {
        return Err(TlsOptionFault::NothingLeft);
    }
    Ok(settings)
}

fn ciphers(list: &str) -> Result<Vec<CipherSuite>, TlsOptionFault> {
    let mut ciphers = Vec::new();
    for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let cipher = name.parse().map_err(|fault| TlsOptionFault::Value { key: CIPHER_SUITES, fault })?;
        if !ciphers.contains(&cipher) {
            ciphers.push(cipher);
        }
    }
    if ciphers.is_empty() { Err(TlsOptionFault::NoCipher) } else { Ok(ciphers) }
}

#[cfg(test)]
mod tests {
    use super::{TlsOptionFault, read};

    #[test]
    fn known_keys_are_read_and_unknown_ones_refused() {
        const OLD: &str = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
        const NEW: &str = "TLS_AES_128_GCM_SHA256";
        let (version, suites) = ("isthmus.dev/min-version", "isthmus.dev/cipher-suites");
        let both = format!(" {OLD} ,{NEW},{OLD},");
        type Row<'r> = (&'r [(&'r str, &'r str)], Result<&'r str, &'r str>);
        let table: [Row<'_>; 13] = [
            (&[], Ok("none []")),
            (&[("example.com/anything", "x"), ("unprefixed", "y")], Ok("none []")),
            (&[(version, "1.2")], Ok("1.2 []")),
            (&[(version, "1.3")], Ok("1.3 []")),
            (&[(suites, &both)], Ok("none [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 TLS_AES_128_GCM_SHA256]")),
            (&[(version, "1.3"), (suites, &both)], Ok("1.3 [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 TLS_AES_128_GCM_SHA256]")),
            (&[(version, "1.1")], Err("tls.options: isthmus.dev/min-version: `1.1` is not known; use one of 1.2, 1.3")),
            (&[(version, "")], Err("tls.options: isthmus.dev/min-version: `` is not known")),
            (
                &[(suites, "TLS_RSA_WITH_AES_128_CBC_SHA")],
                Err("tls.options: isthmus.dev/cipher-suites: `TLS_RSA_WITH_AES_128_CBC_SHA` is not"),
            ),
            (
                &[(suites, "tls_aes_128_gcm_sha256")],
                Err("tls.options: isthmus.dev/cipher-suites: `tls_aes_128_gcm_sha256` is not"),
            ),
            (&[(suites, " , ")], Err("tls.options: isthmus.dev/cipher-suites names no cipher")),
            (&[("isthmus.dev/max-version", "1.3")], Err("tls.options: `isthmus.dev/max-version` is not an option that is known")),
            (&[(version, "1.3"), (suites, OLD)], Err("tls.options: none of the ciphers")),
        ];
        for (options, expected) in table {
            let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let read = read(Some(&options)).map(|settings| {
                let version = settings.min_version.map_or_else(|| "none".to_owned(), |version| format!("{version:?}"));
                let version = version.replace('V', "").replace('_', ".");
                let ciphers: Vec<_> = settings.ciphers.iter().map(ToString::to_string).collect();
                format!("{version} [{}]", ciphers.join(" "))
            });
            match (read.map_err(|fault: TlsOptionFault| fault.to_string()), expected) {
                (Ok(read), Ok(expected)) => assert_eq!(read, expected),
                (Err(told), Err(expected)) => assert!(told.starts_with(expected), "{told}"),
                (read, expected) => panic!("{options:?}: {read:?} is not {expected:?}"),
            }
        }
        assert_eq!(read(None).map(|settings| settings.is_default()), Ok(true));
    }
}
