//! Settings that are secret: given as text or as a file, and never shown.

use std::{fmt, path::Path};

/// A secret; `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Returns the secret itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The two ways to give one secret: `PARTYLINE_X`, or the file that `PARTYLINE_X_FILE` names.
#[derive(Clone, Copy, Debug)]
pub struct SecretSource<'a> {
    /// `PARTYLINE_X`.
    pub name: &'static str,
    pub text: Option<&'a Secret>,
    pub file: Option<&'a Path>,
}

impl SecretSource<'_> {
    /// Whether the secret is given. An empty text counts as not given.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.text.is_some_and(|text| !text.0.is_empty()) || self.file.is_some()
    }

    /// Returns the secret, or `None` if it is not given. The file is read anew each time; white space at its end does
    /// not belong to the secret.
    ///
    /// # Errors
    /// One sentence that names the setting, if both ways are used, or the file can't be read or is empty.
    pub fn read(&self) -> Result<Option<Secret>, String> {
        let name = self.name;
        match (self.text.filter(|text| !text.0.is_empty()), self.file) {
            (Some(_), Some(_)) => Err(format!("{name} and {name}_FILE: one of them only")),
            (text, None) => Ok(text.cloned()),
            (None, Some(path)) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| format!("{name}_FILE: {}: {error}", path.display()))?;
                match text.trim_end() {
                    "" => Err(format!("{name}_FILE: {}: the file is empty", path.display())),
                    text => Ok(Some(Secret(text.to_owned()))),
                }
            }
        }
    }

    /// Returns what is wrong with it.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.read().err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_comes_from_text_or_from_a_file_but_not_from_both() {
        let path = std::env::temp_dir().join(format!("partyline-secret-{}", uuid::Uuid::new_v4()));
        let text = Secret::from("text".to_owned());
        let source = |text, file| SecretSource { name: "PARTYLINE_X", text, file };
        assert_eq!(source(None, None).read(), Ok(None));
        assert_eq!(source(Some(&text), None).read(), Ok(Some(text.clone())));
        let empty = Secret::from(String::new());
        assert_eq!(source(Some(&empty), None).read(), Ok(None));
        assert!(source(None, Some(&path)).problem().unwrap().starts_with("PARTYLINE_X_FILE: "));
        std::fs::write(&path, "from a file\r\n\n").unwrap();
        assert_eq!(source(None, Some(&path)).read().unwrap().unwrap().reveal(), "from a file");
        let both = source(Some(&text), Some(&path)).problem().unwrap();
        assert_eq!(both, "PARTYLINE_X and PARTYLINE_X_FILE: one of them only");
        std::fs::write(&path, "\n").unwrap();
        assert!(source(None, Some(&path)).problem().unwrap().ends_with("the file is empty"));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(format!("{text:?}"), "Secret");
    }
}
