//! Artifacts pass through while they arrive; nothing of them is kept here.

use crate::gitlab::{GitLabError, Relay, StreamingRelay, Upload};

use super::{Broker, BrokerError, RETRY_SOON, settled};

impl Broker {
    /// Passes an upload on.
    ///
    /// # Errors
    /// When the token does not open this job, or GitLab gives no answer.
    pub async fn upload(&self, token: &str, gitlab_id: u64, upload: Upload) -> Result<Relay, BrokerError> {
        let present = self.at_job(token, gitlab_id).await?;
        let session = self.session(&present).await?;
        settled(self.gitlab()?.upload_artifacts(gitlab_id, &session.gitlab.token, upload).await)
    }

    /// Passes a download on: of the runner's own job, or of one that its job depends on.
    ///
    /// # Errors
    /// When the token does not open that job, or GitLab gives no answer.
    pub async fn download(&self, token: &str, gitlab_id: u64, query: &str) -> Result<StreamingRelay, BrokerError> {
        let job_token = self.at_artifacts(token, gitlab_id).await?;
        self.gitlab()?.download_artifacts(gitlab_id, &job_token, query).await.map_err(|error: GitLabError| {
            tracing::warn!(error = &error as &dyn std::error::Error, "GitLab gave no answer to a download of artifacts");
            BrokerError::Unavailable { retry_after: error.retry_after().unwrap_or(RETRY_SOON) }
        })
    }
}
