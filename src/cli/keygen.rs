//! What does `orderly keygen` do?

use std::io::{self, Write};

use crate::delivery::{KeyError, SigningKey};

#[derive(Debug, thiserror::Error)]
pub enum KeygenError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("cannot write the key")]
    Write(#[source] io::Error),
}

/// A new key: the private one as PKCS#8 PEM on stdout, fit for a file of its own; the public forms, which
/// receivers are given, on stderr.
pub fn run() -> Result<(), KeygenError> {
    let key = SigningKey::generate()?;
    print(&key, &mut io::stdout().lock(), &mut io::stderr().lock()).map_err(KeygenError::Write)
}

fn print(key: &SigningKey, private: &mut impl Write, public: &mut impl Write) -> io::Result<()> {
    private.write_all(key.to_pem().as_bytes())?;
    private.flush()?;
    writeln!(public, "key id:     {}", key.id())?;
    writeln!(public, "public key: {}", key.whpk())?;
    writeln!(public, "JWK:        {}", key.jwk())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_private_key_goes_to_stdout_alone() {
        let key = SigningKey::generate().expect("random numbers");
        let (mut private, mut public) = (Vec::new(), Vec::new());
        print(&key, &mut private, &mut public).expect("memory takes it");
        let (private, public) = (String::from_utf8(private).expect("text"), String::from_utf8(public).expect("text"));
        assert_eq!(SigningKey::from_pem(&private).expect("a key").id(), key.id());
        assert!(public.contains(&key.whpk()) && public.contains(key.id()) && !public.contains("PRIVATE"));
    }
}
