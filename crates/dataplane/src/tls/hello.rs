//! The first bytes of a TLS connection -> a ClientHello, or why it is none.

use rustls::server::{Accepted, Acceptor};

/// Takes the bytes of a ClientHello as they come, in any number of records and reads.
pub(crate) struct Reader {
    acceptor: Acceptor,
    taken: usize,
    limit: usize,
}

/// Why there will be no handshake.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HelloError {
    /// Not TLS: most likely somebody speaks plain HTTP to an HTTPS listener.
    NotTls,
    /// More bytes than any client needs.
    TooLong,
    /// A broken ClientHello; the alert that says so.
    Broken(Vec<u8>),
}

/// The content type of a handshake record.
const HANDSHAKE: u8 = 0x16;

impl Reader {
    /// Takes at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { acceptor: Acceptor::default(), taken: 0, limit }
    }

    /// `None`: more has to come. After an answer it is used up.
    ///
    /// # Errors
    /// When the bytes so far cannot become a ClientHello.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<Option<Accepted>, HelloError> {
        if self.taken == 0 && bytes.first().is_some_and(|first| *first != HANDSHAKE) {
            return Err(HelloError::NotTls);
        }
        self.taken += bytes.len();
        if self.taken > self.limit {
            return Err(HelloError::TooLong);
        }
        loop {
            let before = bytes.len();
            // A slice cannot fail; rustls refuses when its buffer is full, until it has looked at what is in there.
            while !bytes.is_empty() && self.acceptor.read_tls(&mut bytes).is_ok_and(|count| count > 0) {}
            return match self.acceptor.accept() {
                Ok(accepted) if bytes.is_empty() => Ok(accepted),
                Ok(None) if bytes.len() < before => continue,
                Ok(_) => Err(HelloError::TooLong),
                Err((_, mut alert)) => {
                    let mut bytes = Vec::new();
                    // Into memory; an alert that cannot be written is not sent.
                    let _ = alert.write_all(&mut bytes);
                    Err(HelloError::Broken(bytes))
                }
            };
        }
    }
}

/// A fatal alert in the clear, `unrecognized_name`: no listener takes this name.
pub(crate) const UNRECOGNIZED_NAME: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 112];

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    fn client_hello(name: &'static str) -> Vec<u8> {
        client_hello_of(name, Vec::new())
    }

    fn client_hello_of(name: &'static str, protocols: Vec<Vec<u8>>) -> Vec<u8> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has suites")
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = protocols;
        let name = name.try_into().expect("a name");
        let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).expect("into memory");
        }
        bytes
    }

    /// Puts each byte of the handshake message into a record of its own.
    fn fragmented(hello: &[u8]) -> Vec<u8> {
        hello[5..].iter().flat_map(|byte| [0x16, 0x03, 0x01, 0x00, 0x01, *byte]).collect()
    }

    fn read(bytes: &[u8], piece: usize) -> Result<Option<String>, HelloError> {
        let mut reader = Reader::new(64 * 1024);
        for piece in bytes.chunks(piece) {
            if let Some(accepted) = reader.push(piece)? {
                return Ok(accepted.client_hello().server_name().map(str::to_owned));
            }
        }
        Ok(None)
    }

    #[test]
    fn takes_a_hello_however_it_is_cut() {
        let hello = client_hello("Shop.test");
        for piece in [1, 2, 100, 4096] {
            assert_eq!(read(&hello, piece), Ok(Some("shop.test".to_owned())), "pieces of {piece}");
            assert_eq!(
                read(&fragmented(&hello), piece),
                Ok(Some("shop.test".to_owned())),
                "records of 1 byte in pieces of {piece}"
            );
        }
        assert_eq!(read(&client_hello("127.0.0.1"), 4096), Ok(None), "an IP address is no SNI");
        assert_eq!(read(&hello[..hello.len() - 1], 1), Ok(None), "not complete");
    }

    #[test]
    fn takes_a_long_one() {
        let hello = client_hello_of("shop.test", (0..230).map(|number| vec![number; 255]).collect());
        assert!((58_000..64 * 1024).contains(&hello.len()), "{}", hello.len());
        for piece in [1, 2_000, 30_000, 64 * 1024] {
            assert_eq!(read(&hello, piece), Ok(Some("shop.test".to_owned())), "pieces of {piece}");
        }
    }

    #[test]
    fn refuses_what_is_none() {
        assert_eq!(read(b"GET / HTTP/1.1\r\n\r\n", 1), Err(HelloError::NotTls));
        assert!(
            matches!(read(&[0x16, 0x03, 0x01, 0x00, 0x04, 0x02, 0x00, 0x00, 0x00], 9), Err(HelloError::Broken(alert)) if !alert.is_empty())
        );
        let mut reader = Reader::new(10);
        assert!(matches!(reader.push(&client_hello("shop.test")), Err(HelloError::TooLong)));
    }
}
