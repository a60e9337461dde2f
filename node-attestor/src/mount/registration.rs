//! Makes a driver known to the kubelet, which looks for sockets in its directory and asks each what it is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mintmark_proto::registration::registration_server::Registration;
use mintmark_proto::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use tonic::{Request, Response, Status};

use super::metrics::MountMetrics;

/// The kind of plugin.
const KIND: &str = "CSIPlugin";
/// The version of CSI.
const VERSION: &str = "1.0.0";

/// One driver's registration. A handle.
#[derive(Clone)]
pub(super) struct Registrar {
    pub(super) driver: String,
    /// The driver's socket, as the kubelet sees it.
    pub(super) endpoint: String,
    pub(super) metrics: MountMetrics,
    pub(super) registered: Registered,
}

/// Which drivers the kubelet has taken. A handle.
#[derive(Clone, Default)]
pub struct Registered(Arc<Mutex<BTreeMap<String, Result<(), String>>>>);

impl Registered {
    /// Whether it has taken all of them, and if not, why.
    ///
    /// # Errors
    /// For people: which driver is not taken, and why.
    pub fn check(&self) -> Result<(), String> {
        self.drivers()
            .values()
            .find(|state| state.is_err())
            .cloned()
            .unwrap_or(Ok(()))
    }

    pub(super) fn set(&self, driver: &str, state: Result<(), String>) {
        self.drivers().insert(driver.to_owned(), state);
    }

    fn drivers(&self) -> MutexGuard<'_, BTreeMap<String, Result<(), String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tonic::async_trait]
impl Registration for Registrar {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: KIND.into(),
            name: self.driver.clone(),
            endpoint: self.endpoint.clone(),
            supported_versions: vec![VERSION.into()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let RegistrationStatus {
            plugin_registered,
            error,
        } = request.into_inner();
        self.metrics.registered(&self.driver, plugin_registered);
        if plugin_registered {
            tracing::info!(driver = self.driver, "the kubelet has taken the driver");
            self.registered.set(&self.driver, Ok(()));
        } else {
            // It tries again by itself.
            tracing::error!(driver = self.driver, error, "the kubelet does not take the driver");
            let problem = format!("the kubelet does not take driver {}: {error}", self.driver);
            self.registered.set(&self.driver, Err(problem));
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
