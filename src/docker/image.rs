//! Images: what the engine has, and fetching what it has not.

use std::time::Duration;

use bollard::auth::DockerCredentials;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;
use secrecy::ExposeSecret;
use tokio::sync::mpsc;

use super::client::{Client, encode};
use super::error::DriverError;
use super::facts::ImageRemoval;
use super::plan::{RegistryLogin, ResolvedImage};
use super::wire::{Image, ImageOfContainer};
use crate::domain::{Arch, ImageRef};

const RESOLVE_DEADLINE: Duration = Duration::from_secs(10);
/// Large images have many files.
const REMOVE_DEADLINE: Duration = Duration::from_secs(5 * 60);
/// A pull may take hours; one that does not move for this long is stuck.
const STALL: Duration = Duration::from_secs(5 * 60);
/// What registries and engines say when another attempt would get the same answer.
const FINAL_WORDS: [&str; 9] = [
    "not found",
    "manifest unknown",
    "no matching manifest",
    "denied",
    "unauthorized",
    "no basic auth credentials",
    "authentication required",
    "does not exist",
    "invalid reference",
];

/// What the engine has by that name.
pub(super) async fn resolve(client: &Client, image: &ImageRef) -> Result<Option<ResolvedImage>, DriverError> {
    let path = image.as_str().split('/').map(encode).collect::<Vec<_>>().join("/");
    match client.read::<Image>("resolve the image", RESOLVE_DEADLINE, format!("/images/{path}/json")).await {
        Ok(found) => Ok(Some(found.into_resolved(image))),
        Err(DriverError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The ids of the images that any container is made of.
pub(super) async fn in_use(client: &Client) -> Result<Vec<String>, DriverError> {
    let all: Vec<ImageOfContainer> = client.read("list images in use", RESOLVE_DEADLINE, "/containers/json?all=true".to_owned()).await?;
    Ok(all.into_iter().map(|container| container.image_id).collect())
}

/// Takes it away, where nothing needs it.
pub(super) async fn remove(client: &Client, image: &ImageRef) -> Result<ImageRemoval, DriverError> {
    let remove = |c: super::client::Connection| async move {
        let options = None::<bollard::query_parameters::RemoveImageOptions>;
        c.docker.remove_image(image.as_str(), options, None).await.map_err(|error| DriverError::from_engine("remove the image", error))
    };
    match client.call("remove the image", REMOVE_DEADLINE, remove).await {
        Ok(_) | Err(DriverError::NotFound { .. }) => Ok(ImageRemoval::Gone),
        Err(DriverError::Conflict { .. }) => Ok(ImageRemoval::InUse),
        Err(error) => Err(error),
    }
}

/// Fetches it and answers what came.
pub(super) async fn pull(
    client: &Client,
    logins: &[RegistryLogin],
    image: &ImageRef,
    platform: Option<Arch>,
    progress: mpsc::Sender<String>,
) -> Result<ResolvedImage, DriverError> {
    let (name, version) = image.name_and_version();
    let mut options = CreateImageOptionsBuilder::new().from_image(name).tag(version);
    if let Some(arch) = platform {
        options = options.platform(&format!("linux/{arch}"));
    }
    let connection = client.connect("pull").await?;
    let mut steps = connection.docker.create_image(Some(options.build()), None, credentials(logins, image)).boxed();
    loop {
        let step = tokio::time::timeout(STALL, steps.next()).await;
        match step.map_err(|_elapsed| DriverError::PullStalled { image: image.to_string(), after: STALL })? {
            None => break,
            Some(Ok(step)) => {
                if let Some(words) = describe(&step) {
                    // A reader that is slower than the engine misses some words and no more.
                    let _ = progress.try_send(words);
                }
            }
            Some(Err(error)) => return client.forget_after(Err(failure(image, error))),
        }
    }
    let missing = || DriverError::PullFailed { image: image.to_string(), message: "the engine does not have it although it was fetched".to_owned() };
    resolve(client, image).await?.ok_or_else(missing)
}

fn describe(step: &CreateImageInfo) -> Option<String> {
    let status = step.status.as_ref()?;
    let part = step.id.as_ref().map(|id| format!("{id}: ")).unwrap_or_default();
    let detail = step.progress_detail.as_ref().and_then(|detail| Some((detail.current?, detail.total?)));
    Some(match detail {
        Some((current, total)) if total > 0 => format!("{part}{status} {} of {}", megabytes(current), megabytes(total)),
        Some(_) | None => format!("{part}{status}"),
    })
}

fn megabytes(bytes: i64) -> String {
    let tenths = bytes / 100_000;
    format!("{}.{}MB", tenths / 10, tenths % 10)
}

fn credentials(logins: &[RegistryLogin], image: &ImageRef) -> Option<DockerCredentials> {
    let registry = image.registry();
    let login = logins.iter().find(|login| login.registry == registry)?;
    let address = if registry == "docker.io" { "https://index.docker.io/v1/" } else { registry };
    Some(DockerCredentials {
        username: Some(login.username.clone()),
        password: Some(login.password.expose_secret().to_owned()),
        serveraddress: Some(address.to_owned()),
        ..DockerCredentials::default()
    })
}

/// Engines put what a registry said into statuses of their own, differently by version, so the words decide too.
fn failure(image: &ImageRef, error: bollard::errors::Error) -> DriverError {
    let image = image.to_string();
    let message = match error {
        bollard::errors::Error::DockerStreamError { error } => error,
        other => match DriverError::from_engine("pull", other) {
            DriverError::NotFound { message, .. } | DriverError::Refused { status: 400..=403, message, .. } => {
                return DriverError::ImageRefused { image, message };
            }
            DriverError::Refused { message, .. } | DriverError::Conflict { message, .. } => message,
            unanswered => return unanswered,
        },
    };
    let lower = message.to_lowercase();
    // "not found" is also what a name server says of a registry.
    let of_network = lower.contains("lookup ") || lower.contains("dial ") || lower.contains("toomanyrequests");
    if !of_network && FINAL_WORDS.iter().any(|words| lower.contains(words)) {
        DriverError::ImageRefused { image, message }
    } else {
        DriverError::PullFailed { image, message }
    }
}

#[cfg(test)]
mod tests {
    use bollard::errors::Error;
    use bollard::models::ProgressDetail;

    use super::*;
    use crate::domain::Disposition;

    #[test]
    fn only_a_registry_that_said_no_is_final() {
        let image = ImageRef::from_trusted("team/app:1");
        let stream = |text: &str| failure(&image, Error::DockerStreamError { error: text.to_owned() }).disposition();
        let status =
            |status_code, text: &str| failure(&image, Error::DockerResponseServerError { status_code, message: text.to_owned() }).disposition();
        assert_eq!(stream("manifest for team/app:1 not found: manifest unknown"), Disposition::Final);
        assert_eq!(stream("no matching manifest for linux/arm64 in the manifest list entries"), Disposition::Final);
        assert_eq!(stream("unexpected EOF"), Disposition::Infrastructure);
        assert_eq!(status(404, "pull access denied for team/app"), Disposition::Final);
        assert_eq!(status(500, "unauthorized: authentication required"), Disposition::Final);
        assert_eq!(status(500, "Get https://r/v2/: dial tcp: lookup r: host not found"), Disposition::Infrastructure);
        assert_eq!(status(500, "toomanyrequests: rate limit, requests denied"), Disposition::Infrastructure);
    }

    #[test]
    fn progress_is_told_in_words() {
        let detail = ProgressDetail { current: Some(12_300_000), total: Some(45_000_000) };
        let step = CreateImageInfo {
            id: Some("ab12".into()),
            status: Some("Downloading".into()),
            progress_detail: Some(detail),
            ..CreateImageInfo::default()
        };
        assert_eq!(describe(&step).as_deref(), Some("ab12: Downloading 12.3MB of 45.0MB"));
        assert_eq!(
            describe(&CreateImageInfo { status: Some("Pull complete".into()), ..CreateImageInfo::default() }).as_deref(),
            Some("Pull complete")
        );
    }

    #[test]
    fn a_login_goes_to_its_own_registry_only() {
        let logins = [RegistryLogin { registry: "r.example.com".into(), username: "u".into(), password: "p".to_owned().into() }];
        assert!(credentials(&logins, &ImageRef::from_trusted("r.example.com/app")).is_some());
        assert!(credentials(&logins, &ImageRef::from_trusted("r.example.com.evil.org/app")).is_none());
        assert!(credentials(&logins, &ImageRef::from_trusted("app")).is_none());
    }
}
