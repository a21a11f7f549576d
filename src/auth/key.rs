//! A key, and the algorithms that follow from it.
//!
//! A secret is for HS256 and nothing else, a public key never for HS256: a token that was signed
//! with the text of a public key as if it were a secret meets no key that would take it.

use std::io::ErrorKind;
use std::path::Path;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use zeroize::Zeroizing;

use super::{BadKeys, LEEWAY_SECONDS};

/// The shortest secret, in bytes (RFC 7518 §3.2).
pub(super) const SECRET_BYTES_MIN: usize = 32;
/// The longest file that is read for a key.
const FILE_BYTES_MAX: usize = 64 * 1024;

const RSA: [Algorithm; 3] = [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512];

/// What every token must say, whatever key it is checked by.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules {
    pub(super) audience: Vec<String>,
    pub(super) issuer: Vec<String>,
    pub(super) user_claim: String,
}

/// A key that tokens are checked by.
pub(super) struct Key {
    id: Option<String>,
    pub(super) decoding: DecodingKey,
    pub(super) validation: Validation,
}

impl Key {
    fn new(
        id: Option<String>,
        decoding: DecodingKey,
        algorithms: Vec<Algorithm>,
        rules: &Rules,
    ) -> Self {
        let mut validation = Validation {
            algorithms,
            leeway: LEEWAY_SECONDS,
            validate_nbf: true,
            // An audience in a token is somebody's, so without one of our own it is another's.
            validate_aud: true,
            ..Validation::default()
        };
        let mut required = vec!["exp"];
        if !rules.audience.is_empty() {
            validation.set_audience(&rules.audience);
            required.push("aud");
        }
        if !rules.issuer.is_empty() {
            validation.set_issuer(&rules.issuer);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        Self { id, decoding, validation }
    }

    /// Whether a token with this header may be of this key.
    pub(super) fn fits(&self, header: &Header) -> bool {
        let known = match (&self.id, &header.kid) {
            (Some(own), Some(named)) => own == named,
            _ => true,
        };
        known && self.validation.algorithms.contains(&header.alg)
    }

    /// Whether this is the key that the header names.
    pub(super) fn is_named(&self, header: &Header) -> bool {
        self.id.is_some() && self.id == header.kid
    }

    /// Whether tokens of any name may be of this key.
    #[cfg(any(test, fuzzing))]
    pub(super) fn has_no_name(&self) -> bool {
        self.id.is_none()
    }

    /// The secret of a file.
    pub(super) fn secret(path: &Path, rules: &Rules) -> Result<Self, BadKeys> {
        Ok(Self::of_secret(&read_secret(path)?, rules))
    }

    pub(super) fn of_secret(secret: &[u8], rules: &Rules) -> Self {
        let decoding = DecodingKey::from_secret(secret);
        Self::new(None, decoding, vec![Algorithm::HS256], rules)
    }

    /// The public keys of a file: one in PEM, one JWK, or a set of them.
    pub(super) fn public(path: &Path, rules: &Rules) -> Result<Vec<Self>, BadKeys> {
        let bad = |what: &str| BadKeys(format!("--jwt-key-file {}: {what}", path.display()));
        let bytes = read(path).map_err(|error| bad(&error))?;
        let text = str::from_utf8(&bytes).map_err(|_| bad("it is no text"))?;
        if !text.trim_start().starts_with('{') {
            return Self::pem(text, rules).map(|key| vec![key]).map_err(bad);
        }
        let json: serde_json::Value =
            serde_json::from_str(text).map_err(|_| bad("it is no JSON"))?;
        let keys = match json.get("keys").and_then(|keys| keys.as_array()) {
            Some(keys) => keys.clone(),
            None => vec![json],
        };
        if keys.iter().any(|key| key.get("d").is_some()) {
            return Err(bad("it holds a private key; give the public one, without \"d\""));
        }
        let read = |key: &serde_json::Value| Self::jwk(key, rules).map_err(bad);
        let keys = keys.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() { Err(bad("it holds no key")) } else { Ok(keys) }
    }

    fn pem(text: &str, rules: &Rules) -> Result<Self, &'static str> {
        if text.contains("PRIVATE KEY") {
            return Err("it holds a private key; give the public one (openssl pkey -pubout)");
        }
        if text.contains("CERTIFICATE") {
            return Err("it holds a certificate; give its key (openssl x509 -noout -pubkey)");
        }
        let pem = text.as_bytes();
        if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
            return Ok(Self::new(None, key, RSA.to_vec(), rules));
        }
        if let Ok(key) = DecodingKey::from_ed_pem(pem) {
            return Ok(Self::new(None, key, vec![Algorithm::EdDSA], rules));
        }
        let unknown =
            "it is no public key that is known here: RSA, P-256, P-384 or Ed25519, in PEM";
        let key = DecodingKey::from_ec_pem(pem).map_err(|_| unknown)?;
        // The point is uncompressed: a byte, and two coordinates of the curve's size.
        let algorithm = match key.try_get_as_bytes().map(<[u8]>::len) {
            Ok(65) => Algorithm::ES256,
            Ok(97) => Algorithm::ES384,
            _ => return Err(unknown),
        };
        Ok(Self::new(None, key, vec![algorithm], rules))
    }

    /// A public key as JSON (RFC 7517).
    pub(super) fn jwk(json: &serde_json::Value, rules: &Rules) -> Result<Self, &'static str> {
        let jwk: Jwk = serde_json::from_value(json.clone()).map_err(|_| "it is no JWK")?;
        let common = &jwk.common;
        let for_signing =
            common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature);
        let for_checking = common
            .key_operations
            .as_ref()
            .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        if !for_signing || !for_checking {
            return Err("the key is not for signatures");
        }
        let mut algorithms = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => RSA.to_vec(),
            AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
                EllipticCurve::P256 => vec![Algorithm::ES256],
                EllipticCurve::P384 => vec![Algorithm::ES384],
                _ => return Err("the curve is not known here"),
            },
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
                vec![Algorithm::EdDSA]
            }
            // Whoever can read a secret can sign with it: it must not stand among public keys.
            AlgorithmParameters::OctetKey(_) => return Err("a secret is no public key"),
            _ => return Err("the kind of key is not known here"),
        };
        if let Some(named) = common.key_algorithm {
            let named =
                Algorithm::try_from(named).map_err(|_| "its algorithm is not known here")?;
            let family = |algorithm: &Algorithm| algorithm.family() == named.family();
            let is_rsa = algorithms == RSA;
            if !algorithms.iter().any(family) || !(is_rsa || algorithms.contains(&named)) {
                return Err("its algorithm is not one of its kind of key");
            }
            algorithms = vec![named];
        }
        let decoding = DecodingKey::from_jwk(&jwk).map_err(|_| "it is no JWK")?;
        Ok(Self::new(common.key_id.clone(), decoding, algorithms, rules))
    }
}

/// The secret of a file, without the line's end that editors put behind it.
pub(super) fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, BadKeys> {
    let name = path.display();
    let bad = |what: String| BadKeys(format!("--jwt-secret-file {name}: {what}"));
    if std::fs::metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        return Err(bad(format!("it is not there; make one: parlor token --new-secret {name}")));
    }
    let bytes = read(path).map_err(bad)?;
    let line = bytes.strip_suffix(b"\r\n").or_else(|| bytes.strip_suffix(b"\n"));
    let secret = line.unwrap_or(&bytes);
    if secret.len() < SECRET_BYTES_MIN {
        return Err(BadKeys(format!(
            "--jwt-secret-file {name}: a secret has at least {SECRET_BYTES_MIN} bytes, this one \
             has {}; make one with: parlor token --new-secret FILE",
            secret.len()
        )));
    }
    Ok(Zeroizing::new(secret.to_vec()))
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let length = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > FILE_BYTES_MAX as u64 {
        return Err(format!("a key has at most {FILE_BYTES_MAX} bytes"));
    }
    std::fs::read(path).map(Zeroizing::new).map_err(|error| error.to_string())
}
