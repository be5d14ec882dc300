//! The stack's own secrets, made once, kept in the data folder.

use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::{paths, token};

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Secrets {
    pub jwt_secret: String,
    pub postgres_password: String,
    pub nats_password: String,
}

impl Secrets {
    pub(super) fn load_or_create(path: &Path) -> anyhow::Result<Self> {
        match std::fs::read(path) {
            Ok(json) => serde_json::from_slice(&json).with_context(|| path.display().to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let secrets = Self {
                    jwt_secret: token::random_secret()?,
                    postgres_password: token::random_secret()?,
                    nats_password: token::random_secret()?,
                };
                paths::write_private(path, &serde_json::to_vec_pretty(&secrets)?)?;
                Ok(secrets)
            }
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }
}
