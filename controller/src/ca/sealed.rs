//! A certificate's issuer and signature, put in by hand: rcgen writes a name anew from what it has understood of it, and cannot say one
//! that has an attribute twice, as `DC=corp, DC=example` has. Whoever follows a chain compares names byte for byte.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;

use crate::authority::{Malformed, parsed};

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;
/// A BIT STRING of nothing: what rcgen writes where the signature is empty.
const EMPTY: [u8; 3] = [BIT_STRING, 1, 0];

/// The certificate `unsigned`, which has an empty signature, as issued by `name` and signed by `sign`.
pub(super) fn seal<E: From<Malformed>>(
    unsigned: &CertificateDer<'_>,
    name: &[u8],
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
) -> Result<Vec<u8>, E> {
    let certificate = parsed("tls.crt", unsigned)?;
    let body = certificate.tbs_certificate.as_ref();
    let odd = || Malformed::Unfit("the certificate that was put together is not of the form that was expected".to_owned());
    let parts = || {
        let (_, after) = split_at(unsigned, body)?;
        let algorithm = after.strip_suffix(&EMPTY)?;
        let (before, after) = split_at(body, certificate.issuer().as_raw())?;
        // The header of the body is written anew: tag, and length of one or of several bytes.
        let length = *before.get(1)?;
        let header = if length < 0x80 { 2 } else { 2 + usize::from(length & 0x7f) };
        Some((before.get(header..)?, after, algorithm))
    };
    let (before, after, algorithm) = parts().ok_or_else(odd)?;
    let body = value(SEQUENCE, &[before, name, after]);
    let signature = value(BIT_STRING, &[&[0], &sign(&body)?]);
    Ok(value(SEQUENCE, &[&body, algorithm, &signature]))
}

/// A certificate in PEM.
pub(super) fn pem(certificate: &[u8]) -> String {
    let text = STANDARD.encode(certificate);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for (number, character) in text.chars().enumerate() {
        if number > 0 && number % 64 == 0 {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem + "\n-----END CERTIFICATE-----\n"
}

/// What is before and after `part`, which is a part of `whole`.
fn split_at<'w>(whole: &'w [u8], part: &[u8]) -> Option<(&'w [u8], &'w [u8])> {
    let start = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
    Some((whole.get(..start)?, whole.get(start + part.len()..)?))
}

/// A DER value of these contents.
fn value(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
    let length: usize = contents.iter().map(|content| content.len()).sum();
    let mut value = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => value.push(short),
        _ => {
            let bytes: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
            // At most 8.
            value.push(0x80 | u8::try_from(bytes.len()).unwrap_or_default());
            value.extend(bytes);
        }
    }
    value.extend(contents.iter().copied().flatten());
    value
}
