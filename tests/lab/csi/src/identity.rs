//! The service `csi.v1.Identity`: who we are.

use crate::messages::{BoolValue, Empty, PluginCapabilities, PluginCapability, PluginInfo, Probed, Type};
use crate::router::Router;

/// The driver's name, as in `CSIDriver` objects and storage classes.
pub(crate) const DRIVER: &str = "lab.tranship.io";

/// Adds the service.
pub(crate) fn serve(router: Router) -> Router {
    router
        .method("/csi.v1.Identity/GetPluginInfo", |_: Empty| {
            Ok(PluginInfo { name: DRIVER.into(), vendor_version: env!("CARGO_PKG_VERSION").into() })
        })
        .method("/csi.v1.Identity/GetPluginCapabilities", |_: Empty| Ok(capabilities()))
        .method("/csi.v1.Identity/Probe", |_: Empty| Ok(Probed { ready: Some(BoolValue { value: true }) }))
}

fn capabilities() -> PluginCapabilities {
    let service = |r#type| PluginCapability { service: Some(Type { r#type }), volume_expansion: None };
    let online = Type { r#type: PluginCapability::EXPANSION_ONLINE };
    PluginCapabilities {
        capabilities: vec![
            service(PluginCapability::CONTROLLER_SERVICE),
            service(PluginCapability::VOLUME_ACCESSIBILITY_CONSTRAINTS),
            PluginCapability { service: None, volume_expansion: Some(online) },
        ],
    }
}
