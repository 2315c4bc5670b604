//! The part of the command line that is about sidecars.

use std::net::SocketAddr;

use isthmus_inject::Image;
use serde_json::{Value, json};

/// Without the two images no sidecar is injected.
#[derive(Debug, Clone, clap::Args)]
pub struct Flags {
    /// The image of the sidecars. Without it no pod gets one.
    #[arg(long, value_name = "IMAGE", requires = "mesh_redirect_image")]
    pub mesh_proxy_image: Option<String>,

    /// When nodes pull it.
    #[arg(long, value_name = "POLICY", default_value = "IfNotPresent")]
    pub mesh_proxy_image_pull_policy: String,

    /// The image that leads the traffic of a pod to its sidecar.
    #[arg(long, value_name = "IMAGE", requires = "mesh_proxy_image")]
    pub mesh_redirect_image: Option<String>,

    /// When nodes pull it.
    #[arg(long, value_name = "POLICY", default_value = "IfNotPresent")]
    pub mesh_redirect_image_pull_policy: String,

    /// What sidecars log: a level or a filter.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub mesh_proxy_log: String,

    /// JSON of the resources of a sidecar, and of what leads the traffic to it.
    #[arg(long, value_name = "JSON", value_parser = resources, default_value = r#"{"requests": {"cpu": "10m", "memory": "32Mi"}}"#)]
    pub mesh_resources: Value,

    /// Where the API server asks about pods.
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:15414")]
    pub webhook: SocketAddr,
}

impl Flags {
    /// What every sidecar has in common, if any is to be injected. `controller` is where sidecars find the controller.
    pub fn sidecar(&self, controller: &str) -> Option<isthmus_inject::Settings> {
        let image = |name: &String, pull_policy: &str| Image { name: name.clone(), pull_policy: pull_policy.to_owned() };
        Some(isthmus_inject::Settings {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            proxy: image(self.mesh_proxy_image.as_ref()?, &self.mesh_proxy_image_pull_policy),
            redirect: image(self.mesh_redirect_image.as_ref()?, &self.mesh_redirect_image_pull_policy),
            controller: controller.to_owned(),
            ca: String::new(),
            log: self.mesh_proxy_log.clone(),
            resources: self.mesh_resources.clone(),
            kubernetes: None,
        })
    }
}

fn resources(text: &str) -> Result<Value, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => Ok(json!(fields)),
        Ok(_) => Err("not a JSON object such as {\"requests\": {\"cpu\": \"10m\"}}".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
