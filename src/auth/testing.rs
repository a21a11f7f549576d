//! Keys and tokens for tests: good ones, and what an attacker would write.

use std::path::PathBuf;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::{Options, Verifier};
use crate::protocol::Token;

pub const SECRET: &[u8] = b"a secret of tests, of 32 bytes and more";

/// A key pair: its private half, and the public one in PEM.
pub struct Pair {
    pub algorithm: Algorithm,
    pub private: EncodingKey,
    pub public_pem: String,
}

impl Pair {
    pub fn rsa() -> Self {
        let pair = RsaPair::generate(KeySize::Rsa2048).unwrap();
        let private = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
        let public = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap();
        let private = pem("PRIVATE KEY", private.as_ref());
        Self {
            algorithm: Algorithm::RS256,
            private: EncodingKey::from_rsa_pem(private.as_bytes()).unwrap(),
            public_pem: pem("PUBLIC KEY", public.as_ref()),
        }
    }

    pub fn p256() -> Self {
        Self::ec(&ECDSA_P256_SHA256_FIXED_SIGNING, Algorithm::ES256)
    }

    pub fn p384() -> Self {
        Self::ec(&ECDSA_P384_SHA384_FIXED_SIGNING, Algorithm::ES384)
    }

    fn ec(curve: &'static EcdsaSigningAlgorithm, algorithm: Algorithm) -> Self {
        let private = EcdsaKeyPair::generate_pkcs8(curve, &SystemRandom::new()).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(curve, private.as_ref()).unwrap();
        let public = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap();
        Self {
            algorithm,
            private: EncodingKey::from_ec_der(private.as_ref()),
            public_pem: pem("PUBLIC KEY", public.as_ref()),
        }
    }

    pub fn ed() -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let private = pair.to_pkcs8v1().unwrap();
        let public = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap();
        Self {
            algorithm: Algorithm::EdDSA,
            private: EncodingKey::from_ed_der(private.as_ref()),
            public_pem: pem("PUBLIC KEY", public.as_ref()),
        }
    }

    /// A token of this pair, with changes to its header.
    pub fn sign(&self, claims: &Value, change: impl FnOnce(&mut Header)) -> Token {
        let mut header = Header::new(self.algorithm);
        change(&mut header);
        Token::new(encode(&header, claims, &self.private).unwrap())
    }

    /// The public key as JSON.
    pub fn jwk(&self, kid: &str) -> Value {
        let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&self.private, self.algorithm);
        let mut json = serde_json::to_value(jwk.unwrap()).unwrap();
        json["kid"] = json!(kid);
        json
    }
}

/// Claims of a good token, with changes: a `null` takes a claim away.
pub fn claims(changes: Value) -> Value {
    let now = jsonwebtoken::get_current_timestamp();
    let mut claims = json!({"sub": "userA", "iat": now, "exp": now + 600});
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        }
    }
    claims
}

/// A token of HS256.
pub fn hs256(secret: &[u8], changes: Value) -> Token {
    super::mint::signed(secret, &claims(changes)).unwrap()
}

/// A folder with files in it, and the options that name them.
pub struct Files(pub tempfile::TempDir);

impl Files {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn put(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

pub fn options() -> Options {
    Options { user_claim: "sub".to_owned(), ..Options::default() }
}

/// A verifier with [`SECRET`].
pub async fn by_secret() -> Verifier {
    let files = Files::new();
    let options = Options { jwt_secret_file: vec![files.put("secret", SECRET)], ..options() };
    Verifier::start(&options).await.unwrap().unwrap()
}

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            text.push(char::from(STANDARD[(bits >> (18 - 6 * place)) as usize & 63]));
        }
    }
    text
}

/// base64url without padding, as parts of tokens are.
pub fn part(json: &str) -> String {
    base64(json.as_bytes()).replace('+', "-").replace('/', "_")
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = base64(der);
    let padding = "=".repeat((4 - text.len() % 4) % 4);
    format!("-----BEGIN {label}-----\n{text}{padding}\n-----END {label}-----\n")
}
