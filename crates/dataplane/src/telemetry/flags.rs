//! What went wrong with a request, in Envoy's letters.

use std::fmt;

/// A set of response flags. Empty: nothing went wrong on the way; it is shown as `-`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Flags(u32);

/// Declares each flag once: its constant, its letters, its meaning.
macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $letters:literal at $bit:literal;)+) => {
        impl Flags {
            $($(#[$doc])* pub(crate) const $name: Self = Self(1 << $bit);)+
        }
        /// Every flag with its letters, in the order in which they are shown.
        const LETTERS: &[(Flags, &str)] = &[$((Flags::$name, $letters)),+];
    };
}

flags! {
    /// No healthy endpoint: the backend has none that may be asked.
    NO_HEALTHY_UPSTREAM = "UH" at 0;
    /// No connection to the endpoint could be made.
    UPSTREAM_CONNECTION_FAILURE = "UF" at 1;
    /// No rule matched (or no listener takes the host).
    NO_ROUTE = "NR" at 2;
    /// The backendRef, or the whole rule, is invalid: answered with 500.
    NO_BACKEND = "NC" at 3;
    /// The last of the allowed retries failed too.
    RETRY_LIMIT = "URX" at 4;
    /// A timeout of the rule (`request` or `backendRequest`) passed.
    UPSTREAM_TIMEOUT = "UT" at 5;
    /// The endpoint closed the connection before its response was complete.
    UPSTREAM_CLOSED = "UC" at 6;
    /// The endpoint reset the stream.
    UPSTREAM_RESET = "UR" at 7;
    /// The endpoint did not speak the protocol.
    UPSTREAM_PROTOCOL_ERROR = "UPE" at 8;
    /// The client closed the connection before the response was complete.
    DOWNSTREAM_CLOSED = "DC" at 9;
    /// The client's HTTP/2 stream was reset by the client.
    DOWNSTREAM_RESET = "DR" at 10;
    /// The client did not speak the protocol (400, 421, 431).
    DOWNSTREAM_PROTOCOL_ERROR = "DPE" at 11;
    /// Ended by this proxy, for instance at the deadline of a drain.
    LOCAL_RESET = "LR" at 12;
    /// Refused by a limit on requests.
    RATE_LIMITED = "RL" at 13;
    /// Refused because too much is going on already.
    OVERLOADED = "OM" at 14;
    /// Refused by an external authorisation.
    UNAUTHORIZED = "UAEX" at 15;
    /// A fault was injected.
    FAULT_INJECTED = "FI" at 16;
    /// A delay was injected.
    DELAY_INJECTED = "DI" at 17;
    /// The client's body or the response stood still for too long.
    STREAM_IDLE = "SI" at 18;
    /// The endpoint's certificate is not one that the backend's policy takes.
    UPSTREAM_CERTIFICATE = "UCR" at 19;
}

impl Flags {
    /// Adds what is set in `other`.
    pub(crate) fn set(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Whether all of `other` is set.
    pub(crate) fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether nothing is set.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl std::ops::BitOr for Flags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Letters joined by `,`; `-` for none.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        let mut first = true;
        for (_, letters) in LETTERS.iter().filter(|(flag, _)| self.contains(*flag)) {
            if !std::mem::take(&mut first) {
                f.write_str(",")?;
            }
            f.write_str(letters)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_shown_as_envoys_letters() {
        for (flags, shown) in [
            (Flags::default(), "-"),
            (Flags::NO_ROUTE, "NR"),
            (Flags::UPSTREAM_CONNECTION_FAILURE | Flags::RETRY_LIMIT, "UF,URX"),
            (Flags::RETRY_LIMIT | Flags::UPSTREAM_CONNECTION_FAILURE, "UF,URX"),
            (Flags::DOWNSTREAM_CLOSED | Flags::UPSTREAM_TIMEOUT, "UT,DC"),
        ] {
            assert_eq!(flags.to_string(), shown);
        }
    }

    #[test]
    fn each_flag_has_a_bit_and_letters_of_its_own() {
        for (i, (flag, letters)) in LETTERS.iter().enumerate() {
            for (other, other_letters) in &LETTERS[i + 1..] {
                assert!(!flag.contains(*other) && letters != other_letters, "{letters} and {other_letters}");
            }
            let mut set = Flags::default();
            assert!(!set.contains(*flag));
            set.set(*flag);
            assert!(set.contains(*flag) && set.to_string() == *letters);
        }
    }
}
