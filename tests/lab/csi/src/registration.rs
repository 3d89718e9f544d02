//! The service `pluginregistration.Registration`: how a kubelet hears of us.

use std::path::{Path, PathBuf};

use crate::identity::DRIVER;
use crate::messages::{Empty, RegistrationInfo, RegistrationStatus};
use crate::router::Router;

/// What a kubelet speaks, rather than the version of the specification that we follow.
const SUPPORTED_VERSIONS: [&str; 1] = ["1.0.0"];

/// Where a kubelet that watches `folder` finds us.
///
/// It calls with the whole path as the name of the host, its slashes written as `%2F`. In the name of a host that is
/// malformed, and our HTTP/2 would hang up; before an `@` it is the name of a user, and well-formed.
pub(crate) fn socket_in(folder: &Path) -> PathBuf {
    folder.join(format!("{DRIVER}@registration.sock"))
}

/// The service, for a driver that answers at `endpoint`.
pub(crate) fn serve(endpoint: &Path) -> Router {
    let info = RegistrationInfo {
        r#type: "CSIPlugin".into(),
        name: DRIVER.into(),
        endpoint: endpoint.to_string_lossy().into_owned(),
        supported_versions: SUPPORTED_VERSIONS.map(String::from).into(),
    };
    Router::default().method("/pluginregistration.Registration/GetInfo", move |_: Empty| Ok(info.clone())).method(
        "/pluginregistration.Registration/NotifyRegistrationStatus",
        |status: RegistrationStatus| {
            if status.plugin_registered {
                tracing::info!("registered");
            } else {
                tracing::error!(why = status.error, "not registered");
            }
            Ok(Empty {})
        },
    )
}
