//! The engine and the registries that it fetches images from.

use std::net::IpAddr;

use secrecy::SecretString;

use crate::domain::HostFile;

/// The engine.
#[derive(Debug, Clone)]
pub struct Docker {
    /// `docker.host`, default `DOCKER_HOST`, else `unix:///var/run/docker.sock`: `unix://`, `tcp://` or `http://`.
    pub host: String,
    /// `docker.data_dir`, default the same path: where the engine sees `data_dir`, when we are in a container and it is not.
    pub data_dir: Option<HostFile>,
    /// `docker.dns`, default the machine's own: name servers that the engine gives to containers, which they may reach wherever these are.
    pub dns: Vec<IpAddr>,
    /// `[[docker.registries]]`, default none: credentials to pull images with.
    pub registries: Vec<Registry>,
}

/// Credentials for one image registry.
#[derive(Debug, Clone)]
pub struct Registry {
    /// `server`: host and port as image references name it, `docker.io` for Docker's own. Unique.
    pub server: String,
    /// `username`.
    pub username: String,
    /// `password` or `password_file`.
    pub password: SecretString,
}
