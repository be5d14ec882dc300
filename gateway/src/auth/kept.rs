//! The last keys that were fetched, kept on disk: a gateway starts with them while the identity provider is down.
//! Public keys only. Whoever can write the file can forge tokens, so it is read only if nobody else can.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::ensure;
use jsonwebtoken::jwk::Jwk;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    keys::{KeySet, MAX_JWKS_BYTES},
    settings::JwtAlgorithm,
};

/// A file with the keys of one JWKS URL.
#[derive(Debug)]
pub(super) struct KeptKeys {
    path: PathBuf,
    source: Uuid,
    /// What the file is known to hold.
    written: Vec<u8>,
}

/// The file: a JWKS that names its source, so that another provider's keys are never taken for this one's.
#[derive(Serialize)]
struct Content<'a> {
    source: Uuid,
    keys: &'a [Jwk],
}

impl KeptKeys {
    pub(super) fn new(path: PathBuf, url: &str) -> Self {
        Self { path, source: Uuid::new_v5(&Uuid::NAMESPACE_URL, url.as_bytes()), written: Vec::new() }
    }

    /// The kept keys; `None` if there are none.
    ///
    /// # Errors
    /// If the file can't be read, is another source's, or may have been written by somebody else.
    pub(super) fn read(&mut self, algorithm: JwtAlgorithm) -> anyhow::Result<Option<KeySet>> {
        #[derive(Deserialize)]
        struct Head {
            source: Uuid,
        }
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let meta = file.metadata()?;
        let owner = rustix::process::geteuid().as_raw();
        ensure!(meta.uid() == owner || meta.uid() == 0, "the file belongs to another user");
        ensure!(meta.mode() & 0o022 == 0, "others may write the file");
        let mut json = Vec::new();
        file.take(MAX_JWKS_BYTES as u64).read_to_end(&mut json)?;
        let head: Head = serde_json::from_slice(&json)?;
        ensure!(head.source == self.source, "the keys come from another PARTYLINE_JWKS_URL");
        let keys = KeySet::from_jwks(&json, algorithm)?;
        self.written = json;
        Ok(Some(keys))
    }

    /// Writes the keys, if the file does not hold them already. A failure is logged: it costs nothing until a start
    /// without the provider.
    pub(super) async fn keep(mut self, keys: &KeySet) -> Self {
        let Ok(json) = serde_json::to_vec(&Content { source: self.source, keys: keys.public() }) else { return self };
        if json == self.written {
            return self;
        }
        let path = self.path.clone();
        let writing = tokio::task::spawn_blocking(move || replace(&path, &json).map(|()| json));
        match writing.await {
            Ok(Ok(json)) => self.written = json,
            Ok(Err(error)) => tracing::warn!(%error, path = %self.path.display(), "the keys of the JWKS are not kept"),
            Err(error) => tracing::warn!(%error, "the keys of the JWKS are not kept"),
        }
        self
    }
}

/// Replaces a file in one step: a reader, or a process that is killed, never leaves half of it.
fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", Uuid::new_v4().simple()));
    let draft = PathBuf::from(draft);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&draft, path)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&draft);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};

    use serde_json::{Value, json};

    use super::*;

    const URL: &str = "https://id.example/keys";

    /// The folder of one test, which goes with it.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let folder = std::env::temp_dir().join(format!("partyline-kept-{}", Uuid::new_v4().simple()));
            std::fs::create_dir(&folder).unwrap();
            Self(folder)
        }

        fn kept(&self, url: &str) -> KeptKeys {
            KeptKeys::new(self.0.join("keys.json"), url)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// A public key (RFC 8037, appendix A.2), with its private half beside it as no provider should publish it.
    fn keys() -> KeySet {
        let jwks = json!({ "keys": [
            { "kty": "OKP", "crv": "Ed25519", "kid": "a", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
              "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A" },
            { "kty": "oct", "kid": "b", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I" },
        ] });
        KeySet::from_jwks(jwks.to_string().as_bytes(), JwtAlgorithm::EdDsa).unwrap()
    }

    #[tokio::test]
    async fn public_keys_alone_are_kept_and_only_their_owner_may_write_them() {
        let folder = Folder::new();
        assert!(folder.kept(URL).read(JwtAlgorithm::EdDsa).unwrap().is_none());
        folder.kept(URL).keep(&keys()).await;
        let text = std::fs::read_to_string(folder.0.join("keys.json")).unwrap();
        let jwks: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(jwks["keys"].as_array().unwrap().len(), 1, "{text}");
        assert!(!text.contains("nWGxne") && !text.contains("c2Vj"), "{text}");
        assert_eq!(std::fs::metadata(folder.0.join("keys.json")).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 1);
        let read = folder.kept(URL).read(JwtAlgorithm::EdDsa).unwrap().unwrap();
        assert!(read.names("a") && read.len() == 1);
    }

    #[tokio::test]
    async fn keys_of_another_source_or_that_others_may_write_are_not_taken() {
        let folder = Folder::new();
        folder.kept(URL).keep(&keys()).await;
        let path = folder.0.join("keys.json");
        let other = folder.kept("https://other.example/keys").read(JwtAlgorithm::EdDsa);
        assert!(other.err().unwrap().to_string().contains("PARTYLINE_JWKS_URL"));
        std::fs::set_permissions(&path, Permissions::from_mode(0o620)).unwrap();
        assert!(folder.kept(URL).read(JwtAlgorithm::EdDsa).is_err());
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "{\"source\":").unwrap();
        assert!(folder.kept(URL).read(JwtAlgorithm::EdDsa).is_err());
    }
}
