//! YAML as people write it.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a text is not what it should be.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Reads one document.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    serde_saphyr::from_str(text).map_err(|error| error.to_string().into())
}

/// Writes one document.
pub fn write(value: &impl Serialize) -> Result<String, Error> {
    serde_saphyr::to_string(value).map_err(|error| error.to_string().into())
}
