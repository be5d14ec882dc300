//! The keys that tokens are checked with, and where they come from.

use std::{collections::HashMap, path::PathBuf, time::Duration, time::SystemTime};

use anyhow::{Context, bail, ensure};
use jsonwebtoken::{
    DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;

use super::settings::{AuthSettings, JwtAlgorithm, Secret};

/// The largest JWKS, in bytes.
pub(super) const MAX_JWKS_BYTES: usize = 1 << 20;
/// Base64 characters of the modulus of the smallest RSA key, 2,048 bits (RFC 7518, section 3.3).
const MIN_RSA_MODULUS_CHARS: usize = 342;

/// The keys in force.
#[derive(Default)]
pub(super) struct KeySet {
    by_id: HashMap<String, DecodingKey>,
    nameless: Vec<DecodingKey>,
    /// All of them as they were published, without anything that is secret.
    public: Vec<Jwk>,
}

impl KeySet {
    pub(super) fn shared_secrets(secrets: &[Secret]) -> Self {
        let nameless = secrets.iter().map(|secret| DecodingKey::from_secret(secret.reveal().as_bytes())).collect();
        Self { nameless, ..Self::default() }
    }

    /// The keys of a JWKS that fit the algorithm. Others are passed over: a set may serve several uses.
    ///
    /// # Errors
    /// If it is no JWKS, or holds no fitting key.
    pub(super) fn from_jwks(json: &[u8], algorithm: JwtAlgorithm) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Jwks {
            keys: Vec<Value>,
        }
        let jwks: Jwks = serde_json::from_slice(json).context("not a JWKS ({\"keys\":[…]})")?;
        let mut set = Self::default();
        for value in jwks.keys {
            let Ok(jwk) = serde_json::from_value::<Jwk>(value) else { continue };
            if !fits(&jwk, algorithm) {
                continue;
            }
            let Ok(key) = DecodingKey::from_jwk(&jwk) else { continue };
            set.public.push(jwk.clone());
            match jwk.common.key_id {
                Some(id) => {
                    set.by_id.insert(id, key);
                }
                None => set.nameless.push(key),
            }
        }
        ensure!(set.len() > 0, "no key for {:?} in it", algorithm.algorithm());
        Ok(set)
    }

    /// The public keys, as they were published.
    pub(super) fn public(&self) -> &[Jwk] {
        &self.public
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len() + self.nameless.len()
    }

    pub(super) fn names(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    /// The keys that may have signed a token: the one it names, or, if it names none, each.
    pub(super) fn candidates(&self, id: Option<&str>) -> impl Iterator<Item = &DecodingKey> {
        let named = id.and_then(|id| self.by_id.get(id));
        let all = id.is_none().then(|| self.by_id.values());
        // A key without an id may be anybody's: a shared secret, or a set of one.
        let nameless = if named.is_some() { &[] } else { self.nameless.as_slice() };
        named.into_iter().chain(all.into_iter().flatten()).chain(nameless)
    }
}

fn fits(jwk: &Jwk, algorithm: JwtAlgorithm) -> bool {
    let shape = match (&jwk.algorithm, algorithm) {
        (AlgorithmParameters::RSA(key), JwtAlgorithm::Rs256) => key.n.len() >= MIN_RSA_MODULUS_CHARS,
        (AlgorithmParameters::EllipticCurve(key), JwtAlgorithm::Es256) => key.curve == EllipticCurve::P256,
        (AlgorithmParameters::OctetKeyPair(key), JwtAlgorithm::EdDsa) => key.curve == EllipticCurve::Ed25519,
        _ => false,
    };
    let wanted = KeyAlgorithm::from(algorithm.algorithm());
    // RFC 9864 names EdDSA over this curve Ed25519; the library doesn't know that name yet.
    let named = match jwk.common.key_algorithm {
        None => true,
        Some(KeyAlgorithm::UNKNOWN_ALGORITHM) => algorithm == JwtAlgorithm::EdDsa,
        Some(named) => named == wanted,
    };
    shape && named && !matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption))
}

/// Where keys come from that may change.
pub(super) struct Source {
    algorithm: JwtAlgorithm,
    place: Place,
}

enum Place {
    /// Shared secrets; the settings name the file.
    Secrets {
        settings: Box<AuthSettings>,
        path: PathBuf,
        read: Option<SystemTime>,
    },
    File {
        path: PathBuf,
        read: Option<SystemTime>,
    },
    Url {
        url: String,
        client: reqwest::Client,
    },
}

impl Source {
    /// The source that the settings name; none for shared secrets that stand in the settings themselves.
    ///
    /// # Errors
    /// If they name none where one is needed.
    pub(super) fn new(settings: &AuthSettings) -> anyhow::Result<Option<Self>> {
        let algorithm = settings.jwt_algorithm;
        let problems = settings.problems();
        ensure!(problems.is_empty(), "{}", problems.join("; "));
        if algorithm == JwtAlgorithm::Hs256 {
            return Ok(settings.jwt_secret_file.as_ref().map(|path| {
                let place = Place::Secrets { settings: Box::new(settings.clone()), path: path.clone(), read: None };
                Self { algorithm, place }
            }));
        }
        let place = match (&settings.jwks_file, &settings.jwks_url) {
            (Some(path), _) => Place::File { path: path.clone(), read: None },
            (None, Some(url)) => Place::Url {
                url: url.clone(),
                client: reqwest::Client::builder()
                    .timeout(Duration::from_secs(5))
                    .redirect(reqwest::redirect::Policy::limited(3))
                    .build()?,
            },
            (None, None) => bail!("no JWKS"),
        };
        Ok(Some(Self { algorithm, place }))
    }

    /// Reads the keys; `None` if the file is the one read before.
    ///
    /// # Errors
    /// If they can't be read.
    pub(super) async fn load(&mut self) -> anyhow::Result<Option<KeySet>> {
        match &mut self.place {
            Place::Secrets { settings, path, read } => {
                let changed = tokio::fs::metadata(&*path).await?.modified()?;
                if *read == Some(changed) {
                    return Ok(None);
                }
                let secrets = settings.secrets().map_err(anyhow::Error::msg)?;
                *read = Some(changed);
                Ok(Some(KeySet::shared_secrets(&secrets)))
            }
            Place::File { path, read } => {
                let changed = tokio::fs::metadata(&*path).await?.modified()?;
                if *read == Some(changed) {
                    return Ok(None);
                }
                let keys = KeySet::from_jwks(&tokio::fs::read(&*path).await?, self.algorithm)?;
                *read = Some(changed);
                Ok(Some(keys))
            }
            Place::Url { url, client } => {
                let mut answer = client.get(&*url).send().await?.error_for_status()?;
                let mut json = Vec::new();
                while let Some(chunk) = answer.chunk().await? {
                    ensure!(json.len() + chunk.len() <= MAX_JWKS_BYTES, "more than {MAX_JWKS_BYTES} bytes");
                    json.extend_from_slice(&chunk);
                }
                Ok(Some(KeySet::from_jwks(&json, self.algorithm)?))
            }
        }
    }
}
